/* doctor: is everything here that a run needs? A line each: OK, WARNING or FAIL, and what to do. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dist/launch.h"
#include "grpo_accel/command/command.h"
#include "grpo_accel/command/python.h"
#include "grpo_accel/config/document.h"

#define CHECKS_MAX 24
#define GIBIBYTE 1073741824.0

typedef enum verdict { VERDICT_OK = 0, VERDICT_WARNING = 1, VERDICT_FAIL = 2 } verdict;

typedef struct check {
    const char *name;
    verdict verdict;
    char text[320];
} check;

typedef struct examination {
    check checks[CHECKS_MAX];
    size_t count;
} examination;

static void note(examination *e, const char *name, verdict v, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void note(examination *e, const char *name, verdict v, const char *format, ...) {
    if (e->count == CHECKS_MAX) {
        return;
    }
    check *made = &e->checks[e->count++];
    made->name = name;
    made->verdict = v;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(made->text, sizeof made->text, format, arguments);
    va_end(arguments);
}

/*
 * A function of a library that this program may or may not be linked with. Only the rooms that own HDF5 and
 * MPI see their headers, so their versions are asked for by name.
 */
static void *find_function(const char *name, const char *const *libraries) {
    void *function = dlsym(RTLD_DEFAULT, name);
    for (size_t i = 0; function == NULL && libraries[i] != NULL; i++) {
        void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_LOCAL);
        function = library != NULL ? dlsym(library, name) : NULL;
    }
    return function;
}

static void check_hdf5(examination *e) {
    static const char *const libraries[] = {NULL};
    int (*get_version)(unsigned *, unsigned *, unsigned *) = NULL;
    *(void **)&get_version = find_function("H5get_libversion", libraries);
    unsigned major = 0, minor = 0, release = 0;
    if (get_version == NULL || get_version(&major, &minor, &release) < 0) {
        note(e, "HDF5", VERDICT_FAIL,
            "not in this build: nothing can be recorded; install libhdf5-dev, build again");
    } else if (major == 1 && minor < 10) {
        note(e, "HDF5", VERDICT_FAIL, "%u.%u.%u is too old; 1.10 or newer", major, minor, release);
    } else {
        note(e, "HDF5", VERDICT_OK, "%u.%u.%u", major, minor, release);
    }
}

static void check_mpi(examination *e) {
    static const char *const libraries[] = {"libmpi.so.40", "libmpi.so", NULL};
    int (*get_version)(char *, int *) = NULL;
    *(void **)&get_version = find_function("MPI_Get_library_version", libraries);
    char text[8192] = ""; /* MPI_MAX_LIBRARY_VERSION_STRING is at most this in Open MPI and MPICH */
    int length = 0;
    if (get_version == NULL || get_version(text, &length) != 0) {
        note(e, "MPI", VERDICT_WARNING,
            "no MPI library: ranks can't agree; install Open MPI for more than one rank");
        return;
    }
    text[strcspn(text, ",\n")] = '\0';
    note(e, "MPI", VERDICT_OK, "%.200s", text);
}

static void check_launch(examination *e) {
    ga_error error;
    ga_error_clear(&error);
    ga_launch_place place;
    if (ga_launch_read(NULL, &place, &error) != GA_OK) {
        note(e, "launcher", VERDICT_FAIL, "%.300s", error.message);
    } else {
        note(e, "launcher", VERDICT_OK, "%s: rank %d of %d, local rank %d", place.launcher, place.rank,
            place.size, place.local_rank);
    }
    const char *root = getenv("OMPI_ALLOW_RUN_AS_ROOT");
    if (geteuid() == 0 && root == NULL) {
        note(e, "user", VERDICT_WARNING,
            "root: Open MPI's mpirun refuses root unless OMPI_ALLOW_RUN_AS_ROOT=1 and "
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 are set");
    }
}

static void check_python(examination *e, const char *program) {
    ga_error error;
    ga_error_clear(&error);
    char path[GA_PYTHON_BYTES];
    if (ga_python_find(program, path, &error) != GA_OK) {
        note(e, "Python", VERDICT_FAIL, "%.300s", error.message);
    } else {
        note(e, "Python", VERDICT_OK, "%.300s", path);
    }
}

/* The way a segment is published: write, fsync, rename, gone again. Gives the failing step, or NULL. */
static const char *try_writing(const char *folder, int *reason_out) {
    char temporary[4200], final[4200];
    (void)snprintf(temporary, sizeof temporary, "%.4000s/.grpo-accel-doctor-%ld.tmp", folder, (long)getpid());
    (void)snprintf(final, sizeof final, "%.4000s/.grpo-accel-doctor-%ld", folder, (long)getpid());
    const int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (file < 0) {
        *reason_out = errno;
        return "create";
    }
    static const char block[4096];
    const char *failed = write(file, block, sizeof block) != (ssize_t)sizeof block ? "write" : NULL;
    failed = failed == NULL && fsync(file) != 0 ? "fsync" : failed;
    *reason_out = errno;
    (void)close(file);
    if (failed == NULL && rename(temporary, final) != 0) {
        *reason_out = errno;
        failed = "rename";
    }
    (void)unlink(temporary);
    (void)unlink(final);
    return failed;
}

static void check_folder(examination *e, const char *folder) {
    int reason = 0;
    const char *failed = try_writing(folder, &reason);
    if (failed != NULL) {
        note(e, "folder", VERDICT_FAIL, "%.200s: can't %s a file: %s", folder, failed, strerror(reason));
        return;
    }
    note(e, "folder", VERDICT_OK, "%.200s: write, fsync and rename work", folder);
    struct statvfs space;
    if (statvfs(folder, &space) != 0) {
        return;
    }
    const double free_gib = (double)space.f_bavail * (double)space.f_frsize / GIBIBYTE;
    note(e, "free space", free_gib < 1 ? VERDICT_WARNING : VERDICT_OK, "%.1f GiB%s", free_gib,
        free_gib < 1 ? "; a record may need more" : "");
    if (space.f_files > 0 && space.f_favail < 10000) {
        note(e, "free inodes", VERDICT_WARNING, "%llu; each segment is a file",
            (unsigned long long)space.f_favail);
    }
}

static void check_limits(examination *e) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
        const bool few = files.rlim_cur < 1024;
        note(e, "open files", few ? VERDICT_WARNING : VERDICT_OK, "limit %llu%s",
            (unsigned long long)files.rlim_cur, few ? "; raise it with ulimit -n 4096" : "");
    }
    struct statvfs shared;
    if (statvfs("/dev/shm", &shared) == 0) {
        const double free_gib = (double)shared.f_bavail * (double)shared.f_frsize / GIBIBYTE;
        note(e, "shared memory", free_gib < 0.5 ? VERDICT_WARNING : VERDICT_OK, "%.2f GiB free in /dev/shm%s",
            free_gib, free_gib < 0.5 ? "; MPI, NCCL and data loaders may fail (containers: --shm-size)" : "");
    }
}

static void check_config(examination *e, const ga_call *call, const char *path) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    if (ga_command_load_config(call, path, &config, &error) != GA_OK) {
        note(e, "configuration", VERDICT_FAIL, "%.310s", error.message);
        return;
    }
    note(e, "configuration", VERDICT_OK, "%.200s", path);
    ga_config_free(&config);
}

static const char *const verdict_words[] = {"OK", "WARNING", "FAIL"};

static void print_json(const examination *e, bool failed) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "version", GA_COMMAND_VERSION);
    ga_json_boolean(&json, "ready", !failed);
    ga_json_array(&json, "checks");
    for (size_t i = 0; i < e->count; i++) {
        ga_json_object(&json, NULL);
        ga_json_text(&json, "name", e->checks[i].name);
        ga_json_text(&json, "verdict", verdict_words[e->checks[i].verdict]);
        ga_json_text(&json, "text", e->checks[i].text);
        ga_json_end(&json);
    }
    ga_json_end(&json);
    ga_json_end(&json);
}

/* Green, yellow, red on a terminal; https://no-color.org elsewhere and on wish. */
static void print_lines(const examination *e, bool quiet) {
    static const char *const colours[] = {"\033[32m", "\033[33m", "\033[31m"};
    const char *wish = getenv("NO_COLOR");
    const bool coloured = isatty(STDOUT_FILENO) && (wish == NULL || wish[0] == '\0');
    for (size_t i = 0; i < e->count; i++) {
        const check *c = &e->checks[i];
        if (!quiet || c->verdict != VERDICT_OK) {
            (void)printf("%s%-7s%s %-13s %s\n", coloured ? colours[c->verdict] : "",
                verdict_words[c->verdict], coloured ? "\033[0m" : "", c->name, c->text);
        }
    }
}

ga_exit ga_command_doctor(const ga_call *call) {
    examination e = {.count = 0};
    const char *folder = ga_arguments_value(&call->arguments, "folder");
    const char *config = ga_arguments_value(&call->arguments, "config");
    note(&e, "grpo-accel", VERDICT_OK, "%s", GA_COMMAND_VERSION);
    note(&e, "libyaml", VERDICT_OK, "%s", ga_document_yaml_version());
    check_hdf5(&e);
    check_mpi(&e);
    check_python(&e, call->program);
    check_launch(&e);
    check_folder(&e, folder != NULL ? folder : ".");
    check_limits(&e);
    if (config != NULL) {
        check_config(&e, call, config);
    }
    bool failed = false;
    for (size_t i = 0; i < e.count; i++) {
        failed = failed || e.checks[i].verdict == VERDICT_FAIL;
    }
    if (call->json) {
        print_json(&e, failed);
    } else {
        print_lines(&e, call->quiet);
    }
    return failed ? GA_EXIT_NO : GA_EXIT_DONE;
}
