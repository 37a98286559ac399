/* train: from a record to a probe file. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/session/lessons.h"
#include "probe/train/train.h"

#define SEED_MAX INT64_C(9007199254740992)
#define SECONDS_MAX 1e9

/* What the call asks for. */
typedef struct training {
    const char *data;
    const char *out;
    int64_t window_rows;
    int64_t seed;
    double seconds_max; /* 0: no limit */
    int32_t step;       /* 0: the record's first; GA_LESSONS_ALL_STEPS */
    int32_t steps[GA_PROBE_STEPS_MAX];
    int32_t step_count; /* 0: step */
    uint32_t inputs;    /* GA_INPUT_BIT(…); 0: all */
    const char *targets;
} training;

/* ---- interruption and progress ---- */

static volatile sig_atomic_t interrupted;

/* The first ^C ends the training with the best probe so far; the second ends the program. */
static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

static void watch_interrupt(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = (int)SA_RESETHAND;
    (void)sigaction(SIGINT, &action, NULL);
}

static bool is_interrupted(void *user) {
    (void)user;
    return interrupted != 0;
}

typedef struct progress_line {
    bool on_terminal;
    double next_seconds; /* of the training's own clock */
} progress_line;

/* One line that renews itself on a terminal, a line now and then elsewhere; nothing in the first two seconds.
 */
static void show_progress(void *user, const ga_train_progress *progress) {
    progress_line *line = user;
    if (progress->seconds < line->next_seconds) {
        return;
    }
    line->next_seconds = progress->seconds + (line->on_terminal ? 0.2 : 20);
    (void)fprintf(stderr,
        "%sround %d of at most %d, %.0f s: loss %.4f, Spearman within groups %.3f (best %.3f)%s",
        line->on_terminal ? "\r\033[K" : "", progress->round, progress->rounds_max, progress->seconds,
        progress->loss, progress->spearman, progress->spearman_best, line->on_terminal ? "" : "\n");
    (void)fflush(stderr);
}

/* ---- the call ---- */

static ga_status read_config(const ga_call *call, training *t, ga_error *error) {
    const char *path = ga_arguments_value(&call->arguments, "config");
    ga_config *config = NULL;
    GA_TRY(ga_command_load_config(call, path, &config, error));
    t->window_rows = config->retrain.window_rows;
    t->seed = config->seed;
    t->step = path != NULL ? config->decision.step.values[0] : 0;
    ga_config_free(&config);
    return GA_OK;
}

/* "attention,x0" */
static ga_status read_inputs(const ga_call *call, training *t, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "inputs");
    for (const char *word = text; word != NULL && *word != 0;) {
        const size_t length = strcspn(word, ",");
        int input = 0;
        while (input < GA_INPUT_COUNT &&
               (strlen(ga_record_input_name((ga_input)input)) != length ||
                   strncmp(ga_record_input_name((ga_input)input), word, length) != 0)) {
            input++;
        }
        if (input == GA_INPUT_COUNT) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "train: --inputs %.100s: \"%.*s\" is none of attention, x0, cfg, hidden, prompt, preview, "
                "lookahead, distilled",
                text, (int)(length < 40 ? length : 40), word);
        }
        t->inputs |= GA_INPUT_BIT(input);
        word += length + (word[length] == ',' ? 1 : 0);
    }
    return GA_OK;
}

/* "3", "2,3,4" or "all" */
static ga_status read_steps(const ga_call *call, training *t, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "step");
    if (text == NULL) {
        return GA_OK;
    }
    if (strcmp(text, "all") == 0) {
        t->step = GA_LESSONS_ALL_STEPS;
        return GA_OK;
    }
    for (const char *word = text; *word != 0;) {
        char *end = NULL;
        const long step = strtol(word, &end, 10);
        if (end == word || (*end != 0 && *end != ',') || step < 1 || step > UINT16_MAX ||
            t->step_count == GA_PROBE_STEPS_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "train: --step %.100s: \"all\", or at most %d steps from 1 as in 2,3,4", text,
                GA_PROBE_STEPS_MAX);
        }
        t->steps[t->step_count++] = (int32_t)step;
        word = *end == ',' ? end + 1 : end;
    }
    return GA_OK;
}

static ga_status read_call(const ga_call *call, training *t, ga_error *error) {
    t->data = ga_arguments_value(&call->arguments, "data");
    t->out = ga_arguments_value(&call->arguments, "out");
    if (t->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "train: --data FOLDER is missing");
    }
    if (t->out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "train: --out FILE is missing");
    }
    GA_TRY(read_config(call, t, error));
    GA_TRY(read_inputs(call, t, error));
    GA_TRY(read_steps(call, t, error));
    t->targets = ga_arguments_value(&call->arguments, "targets");
    GA_TRY(ga_arguments_integer(&call->arguments, "seed", 0, SEED_MAX, t->seed, &t->seed, error));
    return ga_arguments_real(&call->arguments, "seconds-max", 0, SECONDS_MAX, 0, &t->seconds_max, error);
}

/* What the probe will be bound to stands in the record. */
static void bind_options(const training *t, const ga_lessons *lessons, ga_train_options *options) {
    const ga_record_table *table = ga_lessons_table(lessons);
    const int64_t last = table->rows - 1;
    options->model = table->layout.model;
    options->step_count = ga_lessons_steps(lessons, &options->steps);
    options->steps_total = table->steps_total[last];
    options->version = table->probe_version[last] + 1;
    options->seed = (uint64_t)t->seed;
    options->seconds_max = t->seconds_max;
}

static ga_status train(const ga_call *call, const training *t, const ga_lessons *lessons,
    ga_probe **probe_out, ga_train_report *report_out, ga_error *error) {
    const ga_record_table *table = ga_lessons_table(lessons);
    if (table->rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s: the record has no rows to learn from", t->data);
    }
    ga_train_options options = ga_train_options_default();
    bind_options(t, lessons, &options);
    progress_line line = {.on_terminal = isatty(STDERR_FILENO) != 0, .next_seconds = 2};
    const ga_train_callbacks callbacks = {
        .stop = is_interrupted, .progress = call->quiet ? NULL : show_progress, .user = &line};
    watch_interrupt();
    const ga_status status = ga_train(
        ga_lessons_dataset(lessons), &options, &callbacks, ga_compute_native(), probe_out, report_out, error);
    if (line.on_terminal && line.next_seconds > 2) {
        (void)fputs("\r\033[K", stderr);
    }
    return status;
}

/* ---- what came of it ---- */

static const char *end_word(ga_train_end end) {
    static const char *const words[] = {"rounds", "patience", "seconds", "stop", "none"};
    return words[end];
}

static void candidates_as_json(ga_json *json, const ga_train_report *report) {
    ga_json_object(json, "candidates");
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        const ga_train_candidate *candidate = &report->candidates[kind];
        if (candidate->report.groups > 0) {
            ga_json_object(json, ga_probe_kind_name((ga_probe_kind)kind));
            ga_command_within(json, "tune", &candidate->tune);
            ga_command_within(json, "report", &candidate->report);
            ga_command_within(json, "held", &candidate->held);
            ga_json_end(json);
        }
    }
    ga_json_end(json);
}

static void info_as_json(ga_json *json, const ga_probe_info *info) {
    ga_json_text(json, "model", info->model);
    ga_json_integer(json, "version", info->version);
    ga_json_array(json, "steps");
    for (int32_t i = 0; i < info->step_count; i++) {
        ga_json_integer(json, NULL, info->steps[i]);
    }
    ga_json_end(json);
    ga_json_integer(json, "steps_total", info->steps_total);
    ga_json_object(json, "calibration");
    ga_json_real(json, "slope", info->calibration.slope);
    ga_json_real(json, "intercept", info->calibration.intercept);
    ga_json_real(json, "sigma_r2", info->calibration.sigma_r2);
    ga_json_real(json, "tau2", info->calibration.tau2);
    ga_json_end(json);
}

static void report_as_json(const training *t, const ga_probe_info *info, const ga_train_report *report) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "out", t->out);
    ga_json_text(&json, "chosen", ga_probe_kind_name(report->chosen));
    ga_json_text(&json, "reason", report->reason);
    ga_json_text(&json, "ended_by", end_word(report->end));
    ga_json_integer(&json, "rounds", report->rounds);
    ga_json_real(&json, "seconds", report->seconds);
    ga_json_integer(&json, "seed", t->seed);
    ga_json_integer(&json, "train_rows", report->train_rows);
    ga_json_integer(&json, "train_groups", report->train_groups);
    ga_json_integer(&json, "held_rows", report->held_rows);
    ga_json_integer(&json, "held_groups", report->held_groups);
    info_as_json(&json, info);
    candidates_as_json(&json, report);
    ga_json_end(&json);
}

static void report_as_text(const training *t, const ga_probe_info *info, const ga_train_report *report) {
    (void)printf("%lld rows in %lld groups to learn from, %lld rows in %lld groups held out by prompt\n",
        (long long)report->train_rows, (long long)report->train_groups, (long long)report->held_rows,
        (long long)report->held_groups);
    (void)printf("Spearman within prompt groups, on prompts that no training saw:\n");
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        const ga_within *within = &report->candidates[kind].report;
        if (within->groups > 0) {
            (void)printf("  %-8s %6.3f  [%6.3f, %6.3f]%s\n", ga_probe_kind_name((ga_probe_kind)kind),
                within->value, within->low, within->high,
                report->chosen == (ga_probe_kind)kind ? "  chosen" : "");
        }
    }
    (void)printf("%s\n", report->reason);
    (void)printf("%s: version %u for %s after step %d of %d, %.1f s\n", t->out, info->version, info->model,
        info->steps[0], info->steps_total, report->seconds);
}

static ga_status train_and_save(const ga_call *call, const training *t, ga_error *error) {
    const ga_lessons_options source = {.path = t->data,
        .newest_rows = t->window_rows,
        .step = t->step,
        .steps = t->step_count > 0 ? t->steps : NULL,
        .step_count = t->step_count,
        .inputs = t->inputs,
        .targets = t->targets};
    ga_lessons *lessons = NULL;
    GA_TRY(ga_lessons_read(&source, &lessons, error));
    ga_command_warn_refused(ga_lessons_table(lessons));
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_status status = train(call, t, lessons, &probe, &report, error);
    ga_lessons_free(&lessons);
    if (status == GA_OK) {
        status = ga_probe_save(probe, t->out, error);
    }
    if (status == GA_OK && call->json) {
        report_as_json(t, ga_probe_get_info(probe), &report);
    } else if (status == GA_OK && !call->quiet) {
        report_as_text(t, ga_probe_get_info(probe), &report);
    }
    ga_probe_close(&probe);
    return status;
}

ga_exit ga_command_train(const ga_call *call) {
    training t = {.data = NULL};
    ga_error error;
    ga_error_clear(&error);
    if (read_call(call, &t, &error) != GA_OK || train_and_save(call, &t, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    return GA_EXIT_DONE;
}
