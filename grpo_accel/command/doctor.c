/*
 * doctor: is everything here that a run needs? A line each: OK, WARNING or FAIL, and what to do.
 *
 * Under mpirun every rank examines its own machine, then all of them meet: rank 0 prints its lines and, below
 * them, those in which another rank differs. What could hang or crash is examined in processes of their own,
 * before MPI is initialised.
 */
#include "grpo_accel/command/doctor.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/world.h"

#define JOIN_SECONDS 60.0
#define MEET_SECONDS 120.0 /* ranks read their packages at different speeds */
#define START_SECONDS 240u /* MPI_Init itself has no deadline */

/* What all ranks found; `others` [size] is NULL where there are none. */
typedef struct consultation {
    ga_examination own;
    ga_examination *others; /* [size] by rank, the own one included; owned */
    int32_t rank, size;
} consultation;

/* ---- examining ---- */

static void check_config(const ga_call *call, ga_examination *e, const char *path) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    if (ga_command_load_config(call, path, &config, &error) != GA_OK) {
        ga_examination_note(e, "configuration", GA_VERDICT_FAIL, "%.500s", error.message);
        return;
    }
    ga_examination_note(e, "configuration", GA_VERDICT_OK, "%.300s", path);
    if (ga_arguments_value(&call->arguments, "folder") == NULL) {
        char folder[4096];
        (void)snprintf(folder, sizeof folder, "%.4080s/record", config->run_dir);
        ga_doctor_folder(e, "record", folder);
    }
    ga_config_free(&config);
}

static void check_folders(const ga_call *call, ga_examination *e) {
    const char *folder = ga_arguments_value(&call->arguments, "folder");
    const char *config = ga_arguments_value(&call->arguments, "config");
    if (config != NULL) {
        check_config(call, e, config);
    }
    if (folder != NULL || config == NULL) {
        ga_doctor_folder(e, "folder", folder != NULL ? folder : ".");
    }
}

/* Everything but the meeting. False: the launcher's variables contradict each other, nobody can be met. */
static bool examine(const ga_call *call, ga_examination *e, ga_launch_place *place) {
    ga_examination_note(e, "grpo-accel", GA_VERDICT_OK, "%s", GA_COMMAND_VERSION);
    const bool placed = ga_doctor_launcher(e, place);
    ga_doctor_libraries(e, place);
    if (placed && strcmp(place->launcher, "none") == 0) {
        ga_doctor_mpi_alone(e);
    }
    ga_doctor_machine(e);
    check_folders(call, e);
    ga_doctor_python(e, call->program, call->arguments.rest != NULL ? call->arguments.rest[0] : NULL);
    ga_doctor_torch(e);
    return placed;
}

/* ---- meeting ---- */

static void on_no_start(int number) {
    (void)number;
    static const char message[] = "FAIL    MPI           MPI_Init did not come back: a rank is missing, or "
                                  "another process of this slot uses MPI\n";
    const ssize_t written = write(STDOUT_FILENO, message, sizeof message - 1);
    (void)written;
    _exit(GA_EXIT_NO);
}

static ga_status join(ga_world **world_out, ga_error *error) {
    (void)signal(SIGALRM, on_no_start);
    (void)alarm(START_SECONDS);
    const ga_world_options options = {.transport = GA_TRANSPORT_AUTO, .open_deadline_seconds = JOIN_SECONDS};
    const ga_status status = ga_world_open(&options, world_out, error);
    (void)alarm(0);
    return status;
}

/* Everybody's lines to everybody; fills c->others. */
static ga_status exchange(consultation *c, ga_world *world, ga_error *error) {
    char *lines = ga_examination_write(&c->own);
    c->others = calloc((size_t)c->size, sizeof *c->others);
    if (lines == NULL || c->others == NULL) {
        free(lines);
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory");
    }
    const ga_parcel *parcels = NULL;
    const ga_status status =
        ga_world_collect(world, lines, strlen(lines), MEET_SECONDS, &parcels, NULL, error);
    for (int32_t i = 0; status == GA_OK && i < c->size; i++) {
        (void)ga_examination_read(parcels[i].data, parcels[i].bytes, &c->others[i]);
    }
    free(lines);
    return status;
}

/* Joins the other ranks and hears them. What goes wrong becomes a line of this rank. */
static void meet(consultation *c) {
    ga_error error;
    ga_error_clear(&error);
    ga_world *world = NULL;
    if (join(&world, &error) != GA_OK) {
        ga_examination_note(&c->own, "ranks", GA_VERDICT_FAIL, "%.500s", error.message);
        return;
    }
    ga_doctor_mpi_joined(&c->own);
    if (exchange(c, world, &error) != GA_OK) {
        ga_examination_note(&c->own, "ranks", GA_VERDICT_FAIL, "%.500s", error.message);
        free(c->others);
        c->others = NULL;
    } else {
        ga_examination_note(&c->own, "ranks", GA_VERDICT_OK, "all %d answered, by %s", c->size,
            ga_world_transport_name(world));
    }
    (void)ga_world_close(&world, JOIN_SECONDS, &error);
}

/* ---- comparing ---- */

/* Numbers that move from one moment to the next: only their verdicts are compared. */
static bool is_measured(const char *name) {
    return strcmp(name, "free space") == 0 || strcmp(name, "shared memory") == 0;
}

static const ga_check *find(const ga_examination *e, const char *name, size_t nth) {
    for (size_t i = 0; i < e->count; i++) {
        if (strcmp(e->checks[i].name, name) == 0 && nth-- == 0) {
            return &e->checks[i];
        }
    }
    return NULL;
}

/* How many checks of the same name stand before number i. */
static size_t nth_of_name(const ga_examination *e, size_t i) {
    size_t nth = 0;
    for (size_t k = 0; k < i; k++) {
        nth += strcmp(e->checks[k].name, e->checks[i].name) == 0;
    }
    return nth;
}

static bool differs(const ga_examination *first, const ga_examination *other, size_t i) {
    const ga_check *theirs = &other->checks[i];
    const ga_check *ours = find(first, theirs->name, nth_of_name(other, i));
    return ours == NULL || ours->verdict != theirs->verdict ||
           (!is_measured(theirs->name) && strcmp(ours->text, theirs->text) != 0);
}

/* ---- saying ---- */

static void say_check_as_json(ga_json *json, const ga_check *check) {
    ga_json_object(json, NULL);
    ga_json_text(json, "name", check->name);
    ga_json_text(json, "verdict", ga_verdict_word(check->verdict));
    ga_json_text(json, "text", check->text);
    ga_json_end(json);
}

static void say_others_as_json(ga_json *json, const consultation *c) {
    ga_json_array(json, "ranks");
    for (int32_t rank = 0; c->others != NULL && rank < c->size; rank++) {
        if (rank == c->rank) {
            continue;
        }
        ga_json_object(json, NULL);
        ga_json_integer(json, "rank", rank);
        ga_json_array(json, "differs");
        for (size_t i = 0; i < c->others[rank].count; i++) {
            if (differs(&c->own, &c->others[rank], i)) {
                say_check_as_json(json, &c->others[rank].checks[i]);
            }
        }
        ga_json_end(json);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void say_as_json(const consultation *c, bool failed) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "version", GA_COMMAND_VERSION);
    ga_json_boolean(&json, "ready", !failed);
    ga_json_array(&json, "checks");
    for (size_t i = 0; i < c->own.count; i++) {
        say_check_as_json(&json, &c->own.checks[i]);
    }
    ga_json_end(&json);
    say_others_as_json(&json, c);
    ga_json_end(&json);
}

/* Green, yellow, red on a terminal; https://no-color.org elsewhere and on wish. */
static void say_line(const char *before, const ga_check *check, bool coloured) {
    static const char *const colours[] = {"\033[32m", "\033[33m", "\033[31m"};
    (void)printf("%s%s%-7s%s %-14s %s\n", before, coloured ? colours[check->verdict] : "",
        ga_verdict_word(check->verdict), coloured ? "\033[0m" : "", check->name, check->text);
}

/* `least`: checks below this verdict are left out. */
static void say_lines(const consultation *c, ga_verdict least, bool coloured) {
    for (size_t i = 0; i < c->own.count; i++) {
        if (c->own.checks[i].verdict >= least) {
            say_line("", &c->own.checks[i], coloured);
        }
    }
    for (int32_t rank = 0; c->others != NULL && rank < c->size; rank++) {
        for (size_t i = 0; rank != c->rank && i < c->others[rank].count; i++) {
            const ga_check *check = &c->others[rank].checks[i];
            if (check->verdict >= least && differs(&c->own, &c->others[rank], i)) {
                char before[24];
                (void)snprintf(before, sizeof before, "rank %d: ", rank);
                say_line(before, check, coloured);
            }
        }
    }
}

/* A block for an issue. The home folder is written as ~. */
static void hide_home(ga_examination *e) {
    const char *home = getenv("HOME");
    const size_t length = home != NULL ? strlen(home) : 0;
    for (size_t i = 0; length > 1 && i < e->count; i++) {
        char *at = e->checks[i].text;
        while ((at = strstr(at, home)) != NULL) {
            at[0] = '~';
            memmove(at + 1, at + length, strlen(at + length) + 1);
            at++;
        }
    }
}

static void say_for_issue(consultation *c) {
    static const char *const words[] = {"ready", "ready, with warnings", "NOT ready"};
    hide_home(&c->own);
    for (int32_t rank = 0; c->others != NULL && rank < c->size; rank++) {
        hide_home(&c->others[rank]);
    }
    (void)printf("<details><summary>grpo-accel %s doctor: %s</summary>\n\n```text\n", GA_COMMAND_VERSION,
        words[ga_examination_worst(&c->own)]);
    say_lines(c, GA_VERDICT_OK, false);
    (void)printf("```\n\n</details>\n");
}

static void say(const ga_call *call, consultation *c, bool failed) {
    const char *wish = getenv("NO_COLOR");
    const bool coloured = isatty(STDOUT_FILENO) && (wish == NULL || wish[0] == '\0');
    if (call->json) {
        say_as_json(c, failed);
    } else if (ga_arguments_has(&call->arguments, "issue")) {
        say_for_issue(c);
    } else {
        say_lines(c, call->quiet ? GA_VERDICT_WARNING : GA_VERDICT_OK, coloured);
    }
}

/* A rank that nobody heard says itself what is wrong; what is right rank 0 says. */
static void say_alone(const ga_call *call, const consultation *c) {
    for (size_t i = 0; i < c->own.count; i++) {
        const ga_check *check = &c->own.checks[i];
        if (check->verdict != GA_VERDICT_OK) {
            (void)fprintf(call->json ? stderr : stdout, "rank %d: %-7s %-14s %s\n", c->rank,
                ga_verdict_word(check->verdict), check->name, check->text);
        }
    }
}

static bool has_failed(const consultation *c) {
    bool failed = ga_examination_worst(&c->own) == GA_VERDICT_FAIL;
    for (int32_t rank = 0; c->others != NULL && rank < c->size; rank++) {
        failed = failed || ga_examination_worst(&c->others[rank]) == GA_VERDICT_FAIL;
    }
    return failed;
}

ga_exit ga_command_doctor(const ga_call *call) {
    consultation *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return ga_command_refuse(call, GA_ERR_MEMORY, "doctor: out of memory");
    }
    ga_launch_place place = {.size = 1, .launcher = "none"};
    const bool placed = examine(call, &c->own, &place);
    c->rank = placed ? place.rank : ga_launch_is_first(NULL) ? 0 : 1;
    c->size = place.size;
    if (placed && place.mpi && place.size > 1) {
        meet(c);
    }
    const bool failed = has_failed(c);
    if (c->rank == 0) {
        say(call, c, failed);
    } else if (c->others == NULL) {
        say_alone(call, c);
    }
    free(c->others);
    free(c);
    return failed ? GA_EXIT_NO : GA_EXIT_DONE;
}
