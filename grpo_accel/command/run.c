/* run: checks the configuration, prepares the environment, becomes the Python interpreter. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/launch.h"
#include "grpo_accel/command/command.h"
#include "grpo_accel/command/python.h"

static const char *const mode_words[] = {"off", "shadow", "prune", "auto"};

/* What the interpreter will be started with. */
typedef struct launch_plan {
    bool disabled; /* GRPO_ACCEL_DISABLE=1: nothing of ours is in the process */
    ga_config_mode mode;
    char fingerprint[17];
    char python[GA_PYTHON_BYTES];
    const char **words; /* NULL-terminated; owned */
    ga_launch_report launch;
} launch_plan;

/* Rank by the launcher's own variable; only rank 0 explains what all ranks found. */
static bool is_first_rank(void) {
    static const char *const names[] = {
        "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *rank = getenv(names[i]);
        if (rank != NULL) {
            return strcmp(rank, "0") == 0;
        }
    }
    return true;
}

/* Sets GRPO_ACCEL_OVERRIDES to the --set values, one a line. */
static ga_status export_overrides(const ga_call *call, ga_error *error) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    const char **sets = calloc(call->arguments.given_count + 1, sizeof *sets);
    ga_status status = GA_OK;
    if (out == NULL || sets == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "run: out of memory");
    }
    const size_t count = status == GA_OK ? ga_arguments_values(&call->arguments, "set", sets) : 0;
    for (size_t i = 0; i < count; i++) {
        (void)fprintf(out, "%s%s", i > 0 ? "\n" : "", sets[i]);
    }
    if (out != NULL && fclose(out) != 0 && status == GA_OK) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "run: out of memory");
    }
    if (status == GA_OK && setenv("GRPO_ACCEL_OVERRIDES", text, 1) != 0) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "run: can't set GRPO_ACCEL_OVERRIDES: %s", strerror(errno));
    }
    free(text);
    free(sets);
    return status;
}

/* The script may change its working folder before we read the file again. */
static ga_status export_config(const char *path, ga_error *error) {
    char *absolute = realpath(path, NULL);
    if (absolute == NULL) {
        return GA_FAIL(error, GA_ERR_FILE, "%.200s: %s", path, strerror(errno));
    }
    const int failed = setenv("GRPO_ACCEL_CONFIG", absolute, 1);
    free(absolute);
    return failed ? GA_FAIL(error, GA_ERR_MEMORY, "run: can't set GRPO_ACCEL_CONFIG: %s", strerror(errno))
                  : GA_OK;
}

static ga_status check_config(const ga_call *call, launch_plan *plan, ga_error *error) {
    const char *path = ga_arguments_value(&call->arguments, "config");
    if (path == NULL) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "run: --config FILE is missing: grpo-accel run %s", call->command->shape);
    }
    ga_config *config = NULL;
    GA_TRY(ga_command_load_config(call, path, &config, error));
    plan->mode = config->mode;
    ga_command_hex(config->fingerprint, plan->fingerprint);
    ga_config_free(&config);
    GA_TRY(export_config(path, error));
    return export_overrides(call, error);
}

/* python [-m grpo_accel.launch] SCRIPT ARGS… */
static ga_status make_words(const ga_call *call, launch_plan *plan, ga_error *error) {
    size_t rest_count = 0;
    while (call->arguments.rest[rest_count] != NULL) {
        rest_count++;
    }
    plan->words = calloc(rest_count + 4, sizeof *plan->words);
    if (plan->words == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "run: out of memory");
    }
    size_t count = 0;
    plan->words[count++] = plan->python;
    if (!plan->disabled) {
        plan->words[count++] = "-m";
        plan->words[count++] = "grpo_accel.launch";
    }
    memcpy(plan->words + count, call->arguments.rest, rest_count * sizeof *plan->words);
    return GA_OK;
}

static ga_status prepare(const ga_call *call, launch_plan *plan, ga_error *error) {
    const char *disable = getenv("GRPO_ACCEL_DISABLE");
    plan->disabled = disable != NULL && strcmp(disable, "1") == 0;
    if (call->arguments.rest == NULL || call->arguments.rest[0] == NULL) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "run: the script is missing: grpo-accel run %s", call->command->shape);
    }
    if (!plan->disabled) {
        GA_TRY(check_config(call, plan, error));
    }
    const ga_launch_options options = {.environment = NULL};
    GA_TRY(ga_launch_environment(&options, &plan->launch, error));
    GA_TRY(ga_python_find(call->program, plan->python, error));
    return make_words(call, plan, error);
}

static void describe_as_json(const launch_plan *plan) {
    static const char *const names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
        "MASTER_PORT", "GRPO_ACCEL_CONFIG", "GRPO_ACCEL_OVERRIDES"};
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_boolean(&json, "disabled", plan->disabled);
    ga_json_text(&json, "mode", plan->disabled ? NULL : mode_words[plan->mode]);
    ga_json_text(&json, "fingerprint", plan->disabled ? NULL : plan->fingerprint);
    ga_json_text(&json, "launcher", plan->launch.place.launcher);
    ga_json_array(&json, "command");
    for (size_t i = 0; plan->words[i] != NULL; i++) {
        ga_json_text(&json, NULL, plan->words[i]);
    }
    ga_json_end(&json);
    ga_json_object(&json, "environment");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ga_json_text(&json, names[i], getenv(names[i]));
    }
    ga_json_end(&json);
    ga_json_end(&json);
}

static void describe(const launch_plan *plan) {
    (void)printf("rank %d of %d (launcher: %s), %s%s\n", plan->launch.place.rank, plan->launch.place.size,
        plan->launch.place.launcher, plan->disabled ? "disabled by GRPO_ACCEL_DISABLE" : "mode ",
        plan->disabled ? "" : mode_words[plan->mode]);
    (void)printf("would start:");
    for (size_t i = 0; plan->words[i] != NULL; i++) {
        (void)printf(" %s", plan->words[i]);
    }
    (void)printf("\n");
}

/* Returns only if the interpreter can't be started. */
static ga_exit become_python(const ga_call *call, const launch_plan *plan) {
    (void)fflush(NULL);
    (void)execvp(plan->python, (char *const *)(uintptr_t)plan->words);
    const int reason = errno;
    return ga_command_refuse(call, reason == ENOENT || reason == EACCES ? GA_ERR_MISSING : GA_ERR_FILE,
        "run: can't start the Python interpreter '%.200s': %s; GRPO_ACCEL_PYTHON names another", plan->python,
        strerror(reason));
}

ga_exit ga_command_run(const ga_call *call) {
    launch_plan plan = {.words = NULL};
    ga_error error;
    ga_error_clear(&error);
    const bool first = is_first_rank();
    if (prepare(call, &plan, &error) != GA_OK) {
        free(plan.words);
        return first ? ga_command_fail(call, &error) : ga_exit_of(error.status);
    }
    if (plan.launch.warning[0] != '\0' && first && !call->quiet) {
        (void)fprintf(stderr, "grpo-accel: warning: %s\n", plan.launch.warning);
    }
    ga_exit code = GA_EXIT_DONE;
    if (!ga_arguments_has(&call->arguments, "dry-run")) {
        code = become_python(call, &plan);
    } else if (call->json) {
        describe_as_json(&plan);
    } else {
        describe(&plan);
    }
    free(plan.words);
    return code;
}
