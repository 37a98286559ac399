/* run: checks the configuration, prepares the environment, becomes the Python interpreter. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/run.h"

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

static ga_status check_config(const ga_call *call, ga_run_plan *plan, ga_error *error) {
    const char *path = ga_arguments_value(&call->arguments, "config");
    if (path == NULL) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "run: --config FILE is missing: grpo-accel run %s", call->command->shape);
    }
    GA_TRY(ga_command_load_config(call, path, &plan->config, error));
    GA_TRY(export_config(path, error));
    return export_overrides(call, error);
}

/* python [-m grpo_accel.launch] SCRIPT ARGS… */
static ga_status make_words(const ga_call *call, ga_run_plan *plan, ga_error *error) {
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

static ga_status prepare(const ga_call *call, ga_run_plan *plan, ga_error *error) {
    const char *disable = getenv("GRPO_ACCEL_DISABLE");
    plan->disabled = disable != NULL && strcmp(disable, "1") == 0;
    if (call->arguments.rest == NULL || call->arguments.rest[0] == NULL) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "run: the script is missing: grpo-accel run %s", call->command->shape);
    }
    if (!plan->disabled) {
        GA_TRY(check_config(call, plan, error));
    }
    if (ga_arguments_has(&call->arguments, "dry-run")) {
        GA_TRY(ga_arguments_real(&call->arguments, "timeout", 1, 86400, 0, &plan->limit_seconds, error));
    }
    const ga_launch_options options = {.environment = NULL};
    GA_TRY(ga_launch_environment(&options, &plan->launch, error));
    GA_TRY(ga_python_find(call->program, plan->python, error));
    return make_words(call, plan, error);
}

/* Returns only if the interpreter can't be started. */
static ga_exit become_python(const ga_call *call, const ga_run_plan *plan, const char *const *words) {
    (void)fflush(NULL);
    (void)execvp(plan->python, (char *const *)(uintptr_t)words);
    const int reason = errno;
    return ga_command_refuse(call, reason == ENOENT || reason == EACCES ? GA_ERR_MISSING : GA_ERR_FILE,
        "run: can't start the Python interpreter '%.200s': %s; GRPO_ACCEL_PYTHON names another", plan->python,
        strerror(reason));
}

/* The plan to standard output where there is nothing to rehearse, else on to the interpreter. */
static ga_exit rehearse(const ga_call *call, ga_run_plan *plan) {
    if (plan->disabled) {
        ga_run_describe(call, plan, stdout);
        return GA_EXIT_DONE;
    }
    ga_error error;
    ga_error_clear(&error);
    if (ga_run_export(plan, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    const char *words[6] = {plan->python, "-m", "grpo_accel.dry_run"};
    size_t count = 3;
    if (call->json) {
        words[count++] = "--json";
    }
    if (call->quiet) {
        words[count++] = "--quiet";
    }
    return become_python(call, plan, words);
}

static void free_plan(ga_run_plan *plan) {
    free(plan->words);
    ga_config_free(&plan->config);
}

ga_exit ga_command_run(const ga_call *call) {
    ga_run_plan plan = {.words = NULL};
    ga_error error;
    ga_error_clear(&error);
    const bool first = ga_launch_is_first(NULL);
    if (prepare(call, &plan, &error) != GA_OK) {
        free_plan(&plan);
        return first ? ga_command_fail(call, &error) : ga_exit_of(error.status);
    }
    if (plan.launch.warning[0] != '\0' && first && !call->quiet) {
        (void)fprintf(stderr, "grpo-accel: warning: %s\n", plan.launch.warning);
    }
    const bool dry = ga_arguments_has(&call->arguments, "dry-run");
    const ga_exit code = dry ? rehearse(call, &plan) : become_python(call, &plan, plan.words);
    free_plan(&plan);
    return code;
}
