#include "grpo_accel/config/rules.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/config/document.h"

static ga_status refuse(const ga_config *config, const char *path, ga_error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static ga_status refuse(const ga_config *config, const char *path, ga_error *error, const char *format, ...) {
    char place[GA_PLACE_BYTES], why[256];
    const ga_origin *origin = ga_config_origin(config, path);
    ga_place_format(origin->source, origin->line, origin->column, place);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return GA_FAIL(error, GA_ERR_CONFIG, "%s: %s: %s", place, path, why);
}

/* ---- accepted by the grammar, not built yet ---- */

typedef struct later_value {
    const char *path;
    bool (*is_given)(const ga_config *config);
    const char *value;   /* as the user wrote it */
    const char *instead; /* what to write */
} later_value;

static bool mode_is_auto(const ga_config *c) {
    return c->mode == GA_CONFIG_MODE_AUTO;
}
static bool step_is_auto(const ga_config *c) {
    return c->decision.step.count == 0 && c->decision.sigma == 0;
}
static bool step_is_list(const ga_config *c) {
    return c->decision.step.count > 1 && c->decision.sigma == 0;
}
static bool keep_is_auto(const ga_config *c) {
    return c->decision.keep.count == 0;
}
static bool keep_is_list(const ga_config *c) {
    return c->decision.keep.count > 1;
}
static bool policy_is_neyman(const ga_config *c) {
    return c->decision.policy == GA_CONFIG_POLICY_NEYMAN;
}
static bool policy_is_budget(const ga_config *c) {
    return c->decision.policy == GA_CONFIG_POLICY_BUDGET;
}
static bool inputs_are_auto(const ga_config *c) {
    return c->probe.inputs == 0;
}
static bool transport_is_nccl(const ga_config *c) {
    return c->distributed.transport == GA_CONFIG_TRANSPORT_NCCL;
}
static bool transport_is_torch(const ga_config *c) {
    return c->distributed.transport == GA_CONFIG_TRANSPORT_TORCH;
}

static const later_value later_values[] = {
    {"mode", mode_is_auto, "auto", "shadow to watch, or prune to prune"},
    {"decision.step", step_is_auto, "auto", "the step itself, such as 3"},
    {"decision.step", step_is_list, "a list (racing)", "one step, such as 3"},
    {"decision.keep", keep_is_auto, "auto", "the share itself, such as 0.5"},
    {"decision.keep", keep_is_list, "a list (racing)", "one share, such as 0.5"},
    {"decision.policy", policy_is_neyman, "neyman", "extremes"},
    {"decision.policy", policy_is_budget, "budget", "extremes"},
    {"probe.inputs", inputs_are_auto, "auto", "those wanted, as in [attention, x0, preview]"},
    {"distributed.transport", transport_is_nccl, "nccl", "auto, mpi or local"},
    {"distributed.transport", transport_is_torch, "torch", "auto, mpi or local"},
};

static ga_status check_later(const ga_config *config, ga_error *error) {
    for (size_t i = 0; i < sizeof later_values / sizeof later_values[0]; i++) {
        const later_value *later = &later_values[i];
        if (later->is_given(config)) {
            return refuse(config, later->path, error, "%s comes with a later version; write %s", later->value,
                later->instead);
        }
    }
    return GA_OK;
}

/* ---- values that must agree ---- */

static ga_status check_threshold(const ga_config *config, ga_error *error) {
    const double value = config->decision.threshold.value;
    const bool is_quantile = config->decision.threshold.kind == GA_CONFIG_THRESHOLD_QUANTILE;
    if (is_quantile && (value < 0 || value > 1)) {
        return refuse(config, "decision.threshold.value", error,
            "a quantile lies in 0 to 1; for other units set decision.threshold.kind");
    }
    return GA_OK;
}

/* A copy that is neither given nor trained would say what the preview says, at the price of a forward. */
static ga_status check_distilled(const ga_config *config, ga_error *error) {
    const bool is_wanted = (config->probe.inputs & GA_INPUT_BIT(GA_INPUT_DISTILLED)) != 0;
    if (is_wanted && config->probe.distilled.lora == NULL && config->probe.distilled.every_updates == 0) {
        return refuse(config, "probe.distilled.every_updates", error,
            "input distilled needs a copy; write a number above 0 to train one, or give "
            "probe.distilled.lora");
    }
    return GA_OK;
}

/* Names of scorers are columns of the record, and are handed to the host as one text with commas. */
static ga_status check_scorers(const ga_config *config, ga_error *error) {
    const ga_config_names *scorers = &config->probe.preview.scorers;
    for (int32_t i = 0; i < scorers->count; i++) {
        const size_t length = strlen(scorers->names[i]);
        if (length > 63 || strchr(scorers->names[i], ',') != NULL) {
            return refuse(config, "probe.preview.scorers", error,
                "a scorer's name has at most 63 bytes and no comma in it");
        }
    }
    return GA_OK;
}

/* 1/π of a row that can never be kept does not exist: only a share of chance gives every row a π. */
static ga_status check_weights(const ga_config *config, ga_error *error) {
    const bool by_chance = config->decision.policy == GA_CONFIG_POLICY_RANDOM || config->decision.audit > 0;
    if (config->advantage.weights == GA_CONFIG_WEIGHTS_INVERSE && !by_chance) {
        return refuse(config, "advantage.weights", error,
            "inverse needs a chance for every row; set decision.audit above 0, or policy random");
    }
    return GA_OK;
}

/* Pruning without a probe begins in shadow and ends when one was learnt, which needs a record. */
static ga_status check_learning(const ga_config *config, ga_error *error) {
    const bool must_learn = config->mode == GA_CONFIG_MODE_PRUNE && config->probe.path == NULL &&
                            config->decision.policy != GA_CONFIG_POLICY_RANDOM;
    if (must_learn && !config->record.enabled) {
        return refuse(config, "record.enabled", error,
            "mode prune without probe.path learns its probe from the record; write true, or give probe.path");
    }
    if (must_learn && config->retrain.every_updates == 0) {
        return refuse(config, "retrain.every_updates", error,
            "mode prune without probe.path must train one; write a number above 0, or give probe.path");
    }
    return GA_OK;
}

ga_status ga_rules_check(const ga_config *config, ga_error *error) {
    GA_TRY(check_later(config, error));
    GA_TRY(check_threshold(config, error));
    GA_TRY(check_scorers(config, error));
    GA_TRY(check_distilled(config, error));
    GA_TRY(check_weights(config, error));
    return check_learning(config, error);
}
