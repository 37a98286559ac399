/* The plan of `run` in words and as JSON. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/run.h"

/* Beyond what its collectives may wait: starting Python and MPI, and reading packages from a slow disk. */
#define START_SECONDS 180.0
#define COLLECTIVES 6.0

static const char *const mode_words[] = {"off", "shadow", "prune", "auto"};

static void say_environment(ga_json *json) {
    static const char *const names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
        "MASTER_PORT", "GRPO_ACCEL_CONFIG", "GRPO_ACCEL_OVERRIDES"};
    ga_json_object(json, "environment");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ga_json_text(json, names[i], getenv(names[i]));
    }
    ga_json_end(json);
}

static void say_plan(ga_json *json, const ga_run_plan *plan) {
    char fingerprint[17] = "";
    if (plan->config != NULL) {
        ga_command_hex(plan->config->fingerprint, fingerprint);
    }
    ga_json_boolean(json, "disabled", plan->disabled);
    ga_json_text(json, "mode", plan->config != NULL ? mode_words[plan->config->mode] : NULL);
    ga_json_text(json, "fingerprint", plan->config != NULL ? fingerprint : NULL);
    ga_json_text(json, "launcher", plan->launch.place.launcher);
    ga_json_array(json, "command");
    for (size_t i = 0; plan->words[i] != NULL; i++) {
        ga_json_text(json, NULL, plan->words[i]);
    }
    ga_json_end(json);
    say_environment(json);
}

static int32_t last_step(const ga_config *config) {
    const ga_config_steps *steps =
        config->decision.step.count > 0 ? &config->decision.step : &config->decision.candidates;
    return steps->count > 0 ? steps->values[steps->count - 1] : 0;
}

static void say_blocks(ga_json *json, const ga_config_blocks *blocks) {
    static const char *const choices[] = {"middle", "last_encoder", "named"};
    ga_json_text(json, "blocks", choices[blocks->choice]);
    ga_json_array(json, "block_names");
    for (int32_t i = 0; blocks->choice == GA_CONFIG_BLOCKS_NAMED && i < blocks->count; i++) {
        ga_json_text(json, NULL, blocks->names[i]);
    }
    ga_json_end(json);
}

static void say_rehearsal(ga_json *json, const ga_run_plan *plan) {
    const ga_config *config = plan->config;
    char program[4096] = "";
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    const double limit_seconds = plan->limit_seconds > 0
                                     ? plan->limit_seconds
                                     : START_SECONDS + COLLECTIVES * config->decision.timeout_seconds;
    ga_json_object(json, "rehearsal");
    ga_json_text(json, "program", length > 0 ? program : NULL);
    ga_json_integer(json, "rank", plan->launch.place.rank);
    ga_json_integer(json, "ranks", plan->launch.place.size);
    ga_json_text(json, "run_dir", config->run_dir);
    ga_json_text(json, "probe", config->probe.path);
    ga_json_integer(json, "last_step", last_step(config));
    ga_json_boolean(json, "sigma", config->decision.sigma > 0);
    ga_json_integer(json, "statistics", __builtin_popcount(config->probe.statistics));
    ga_json_real(json, "limit_seconds", limit_seconds);
    say_blocks(json, &config->probe.blocks);
    ga_json_end(json);
}

void ga_run_describe(const ga_call *call, const ga_run_plan *plan, FILE *out) {
    if (call->json) {
        ga_json json = ga_json_make(out);
        ga_json_object(&json, NULL);
        say_plan(&json, plan);
        ga_json_end(&json);
        return;
    }
    (void)fprintf(out, "rank %d of %d (launcher: %s), %s%s\nwould start:", plan->launch.place.rank,
        plan->launch.place.size, plan->launch.place.launcher,
        plan->disabled ? "disabled by GRPO_ACCEL_DISABLE" : "mode ",
        plan->disabled ? "" : mode_words[plan->config->mode]);
    for (size_t i = 0; plan->words[i] != NULL; i++) {
        (void)fprintf(out, " %s", plan->words[i]);
    }
    (void)fprintf(out, "\n");
}

ga_status ga_run_export(const ga_run_plan *plan, ga_error *error) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "run: out of memory");
    }
    ga_json json = ga_json_make(out);
    ga_json_object(&json, NULL);
    say_plan(&json, plan);
    say_rehearsal(&json, plan);
    ga_json_end(&json);
    const bool written = fclose(out) == 0 && setenv("GRPO_ACCEL_DRY_RUN", text, 1) == 0;
    free(text);
    return written ? GA_OK
                   : GA_FAIL(error, GA_ERR_MEMORY, "run: can't set GRPO_ACCEL_DRY_RUN: %s", strerror(errno));
}
