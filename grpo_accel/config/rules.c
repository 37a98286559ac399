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

static bool transport_is_nccl(const ga_config *c) {
    return c->distributed.transport == GA_CONFIG_TRANSPORT_NCCL;
}
static bool transport_is_torch(const ga_config *c) {
    return c->distributed.transport == GA_CONFIG_TRANSPORT_TORCH;
}

static const later_value later_values[] = {
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

/* Steps and shares belong together, one share a step; auto needs somebody who chooses. */
static ga_status check_decisions(const ga_config *config, ga_error *error) {
    const ga_config_steps *step = &config->decision.step;
    const ga_config_shares *keep = &config->decision.keep;
    const bool by_sigma = config->decision.sigma > 0;
    const bool prunes = config->mode == GA_CONFIG_MODE_PRUNE;
    const int32_t steps = by_sigma ? 1 : step->count;
    if (prunes && steps == 0) {
        return refuse(config, "decision.step", error,
            "auto chooses in mode auto only; write the step itself, such as 3, or mode: auto");
    }
    if (prunes && keep->count == 0) {
        return refuse(config, "decision.keep", error,
            "auto chooses in mode auto only; write the share itself, such as 0.5, or mode: auto");
    }
    if (keep->count > 1 && keep->count != steps) {
        return refuse(config, "decision.keep", error, "%d shares for %d decision steps; one each",
            (int)keep->count, (int)steps);
    }
    if (prunes && steps > 1 && keep->count == 1) {
        return refuse(config, "decision.keep", error,
            "one share for %d decision steps; write a list, such as [0.75, 0.4]", (int)steps);
    }
    if (config->mode == GA_CONFIG_MODE_AUTO && steps > 1 && keep->count != steps) {
        return refuse(config, "decision.keep", error,
            "mode auto weighs %d decision steps as they are given, on or off; write a share for each, such "
            "as "
            "[0.75, 0.4], or one step",
            (int)steps);
    }
    for (int32_t i = 1; i < keep->count; i++) {
        if (keep->values[i] > keep->values[i - 1]) {
            return refuse(config, "decision.keep", error,
                "%g after %g: a rollout that was stopped does not come back", keep->values[i],
                keep->values[i - 1]);
        }
    }
    return GA_OK;
}

static ga_status check_groups(const ga_config *config, ga_error *error) {
    const int64_t most = config->decision.max_group;
    if (most > 0 && config->decision.min_group > most) {
        return refuse(config, "decision.max_group", error, "below decision.min_group");
    }
    return GA_OK;
}

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

/* Credit for what pruned rows did needs their share of the correction: 1/π of kept rows. */
static ga_status check_credit(const ga_config *config, ga_error *error) {
    if (config->advantage.prefix_credit && config->advantage.weights != GA_CONFIG_WEIGHTS_INVERSE) {
        return refuse(config, "advantage.prefix_credit", error,
            "needs advantage.weights: inverse, which corrects the predicted advantages");
    }
    if (config->advantage.prefix_credit && config->advantage.train_share < 1) {
        return refuse(config, "advantage.train_share", error, "all rows train with advantage.prefix_credit");
    }
    return GA_OK;
}

/* 1/π of a row that can never be kept does not exist: only a share of chance gives every row a π. */
static ga_status check_weights(const ga_config *config, ga_error *error) {
    const bool draws =
        config->decision.policy == GA_CONFIG_POLICY_RANDOM ||
        (config->decision.policy == GA_CONFIG_POLICY_NEYMAN && config->decision.min_inclusion > 0);
    const bool by_chance = draws || config->decision.audit > 0;
    if (config->advantage.weights == GA_CONFIG_WEIGHTS_INVERSE && !by_chance) {
        return refuse(config, "advantage.weights", error,
            "inverse needs a chance for every row; set decision.audit above 0, or policy random or neyman");
    }
    return GA_OK;
}

/* A score that stands in for a probe has to be taken, and there is one prediction a row. */
static ga_status check_direct(const ga_config *config, ga_error *error) {
    static const ga_input inputs[] = {
        [GA_CONFIG_DIRECT_PREVIEW] = GA_INPUT_PREVIEW, [GA_CONFIG_DIRECT_LOOKAHEAD] = GA_INPUT_LOOKAHEAD};
    const ga_config_direct direct = config->probe.direct;
    if (direct == GA_CONFIG_DIRECT_NONE) {
        return GA_OK;
    }
    if (config->probe.path != NULL) {
        return refuse(
            config, "probe.direct", error, "a probe is given too (probe.path); write none, or no path");
    }
    if ((config->probe.inputs & GA_INPUT_BIT(inputs[direct])) == 0) {
        return refuse(config, "probe.direct", error, "probe.inputs does not have that score; add it there");
    }
    return GA_OK;
}

/* Pruning without a probe begins in shadow and ends when one was learnt, which needs a record. */
static ga_status check_learning(const ga_config *config, ga_error *error) {
    const bool prunes = config->mode == GA_CONFIG_MODE_PRUNE || config->mode == GA_CONFIG_MODE_AUTO;
    const bool predicts = config->probe.path != NULL || config->probe.direct != GA_CONFIG_DIRECT_NONE;
    const bool must_learn = prunes && !predicts && config->decision.policy != GA_CONFIG_POLICY_RANDOM;
    if (must_learn && !config->record.enabled) {
        return refuse(config, "record.enabled", error,
            "pruning without probe.path learns its probe from the record; write true, or give probe.path");
    }
    if (must_learn && config->retrain.every_updates == 0) {
        return refuse(config, "retrain.every_updates", error,
            "pruning without probe.path must train one; write a number above 0, or give probe.path");
    }
    return GA_OK;
}

ga_status ga_rules_check(const ga_config *config, ga_error *error) {
    GA_TRY(check_later(config, error));
    GA_TRY(check_threshold(config, error));
    GA_TRY(check_scorers(config, error));
    GA_TRY(check_direct(config, error));
    GA_TRY(check_distilled(config, error));
    GA_TRY(check_weights(config, error));
    GA_TRY(check_credit(config, error));
    GA_TRY(check_decisions(config, error));
    GA_TRY(check_groups(config, error));
    return check_learning(config, error);
}
