#include "grpo_accel/select/policy.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"

static void weigh_extremes(
    const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out) {
    (void)threshold;
    memcpy(weight_out, values->value, ga_size(grid->count) * sizeof *weight_out);
}

static void weigh_neyman(
    const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out) {
    (void)threshold;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        weight_out[slot] = sqrt(values->value[slot]);
    }
}

static void weigh_topk(
    const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out) {
    (void)threshold;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        weight_out[slot] = isnan(grid->mean[slot]) ? (double)INFINITY : values->centred[slot];
    }
}

static void weigh_random(
    const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out) {
    (void)values;
    (void)threshold;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        weight_out[slot] = 1;
    }
}

static void weigh_threshold(
    const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out) {
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (isnan(grid->mean[slot])) {
            weight_out[slot] = (double)INFINITY;
        } else if (threshold->kind == GA_THRESHOLD_ADVANTAGE) {
            weight_out[slot] = values->centred[slot] / values->sigma[slot];
        } else {
            weight_out[slot] = grid->mean[slot];
        }
    }
}

static int32_t want_threshold(const ga_grid *grid, const ga_values *values, const ga_threshold *threshold) {
    if (threshold->kind == GA_THRESHOLD_QUANTILE) {
        const double pruned = fmin(1, fmax(0, threshold->value)) * grid->count;
        return grid->count - (int32_t)floor(pruned + 1e-9); /* .29 of 100 is 29, whatever a double says */
    }
    int32_t wanted = 0;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        const double score = threshold->kind == GA_THRESHOLD_ADVANTAGE
                                 ? values->centred[slot] / values->sigma[slot]
                                 : grid->mean[slot];
        wanted += isnan(grid->mean[slot]) || score >= threshold->value;
    }
    return wanted;
}

static const ga_policy POLICIES[GA_POLICY_COUNT] = {
    [GA_POLICY_EXTREMES] = {.name = "extremes", .weigh = weigh_extremes},
    [GA_POLICY_NEYMAN] = {.name = "neyman", .by_chance = true, .weigh = weigh_neyman},
    [GA_POLICY_TOPK] = {.name = "topk", .weigh = weigh_topk},
    [GA_POLICY_RANDOM] = {.name = "random", .by_chance = true, .weigh = weigh_random},
    [GA_POLICY_THRESHOLD] = {.name = "threshold", .weigh = weigh_threshold, .want = want_threshold},
    [GA_POLICY_BUDGET] = {.name = "budget", .weigh = weigh_extremes, .spreads_budget = true},
};

ga_status ga_policy_parse(const char *name, ga_policy_kind *kind_out, ga_error *error) {
    if (name == NULL || kind_out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "policy without a name");
    }
    for (int kind = 0; kind < GA_POLICY_COUNT; kind++) {
        if (strcmp(name, POLICIES[kind].name) == 0) {
            *kind_out = (ga_policy_kind)kind;
            return GA_OK;
        }
    }
    return GA_FAIL(error, GA_ERR_CONFIG,
        "unknown policy '%s': use extremes, neyman, topk, random, threshold or budget", name);
}

ga_status ga_policy_find(ga_policy_kind kind, const ga_policy **policy_out, ga_error *error) {
    if ((int)kind < 0 || kind >= GA_POLICY_COUNT) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown policy %d", (int)kind);
    }
    *policy_out = &POLICIES[kind];
    return GA_OK;
}

ga_status ga_threshold_parse(const char *name, ga_threshold_kind *kind_out, ga_error *error) {
    static const char *const names[] = {"absolute", "quantile", "advantage"};
    if (name == NULL || kind_out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "threshold without a kind");
    }
    for (int kind = GA_THRESHOLD_ABSOLUTE; kind <= GA_THRESHOLD_ADVANTAGE; kind++) {
        if (strcmp(name, names[kind]) == 0) {
            *kind_out = (ga_threshold_kind)kind;
            return GA_OK;
        }
    }
    return GA_FAIL(
        error, GA_ERR_CONFIG, "unknown threshold kind '%s': use absolute, quantile or advantage", name);
}
