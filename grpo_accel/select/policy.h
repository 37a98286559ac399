/*
 * Policies by name: each is one entry of a table, a weight function; quotas, floors, audits and rounding are
 * the same for all (plan.h).
 */
#ifndef GA_SELECT_POLICY_H
#define GA_SELECT_POLICY_H

#include <stdbool.h>

#include "grpo_accel/select/value.h"

typedef enum ga_policy_kind {
    GA_POLICY_EXTREMES = 0,  /* largest expected squared advantage */
    GA_POLICY_NEYMAN = 1,    /* by chance, in proportion to the square root of that */
    GA_POLICY_TOPK = 2,      /* largest predicted advantage; keeps one end only, for comparison */
    GA_POLICY_RANDOM = 3,    /* equal chances */
    GA_POLICY_THRESHOLD = 4, /* those above a predicted value; the batch's count sets every rank's quota */
    GA_POLICY_BUDGET = 5,    /* a global budget, spread over groups by predicted spread; by value inside */
    GA_POLICY_COUNT = 6
} ga_policy_kind;

typedef enum ga_threshold_kind {
    GA_THRESHOLD_ABSOLUTE = 0, /* keep m ≥ value, in reward units */
    GA_THRESHOLD_QUANTILE = 1, /* prune the share `value` of the batch with the lowest m; value in [0, 1] */
    GA_THRESHOLD_ADVANTAGE = 2 /* keep (m − m̄_g)/(σ + 1e-4) ≥ value, in the host's advantage units */
} ga_threshold_kind;

typedef struct ga_threshold {
    ga_threshold_kind kind;
    double value;
} ga_threshold;

typedef struct ga_policy {
    const char *name;
    /* true: weights are proportions of inclusion probabilities, drawn by dependent rounding.
     * false: weights are an order of preference, the best set under quotas and floors is taken. */
    bool by_chance;
    /* Weight of each slot, infinite: to be kept. */
    void (*weigh)(
        const ga_grid *grid, const ga_values *values, const ga_threshold *threshold, double *weight_out);
    /* Each group has a share of the batch's rows, given out before any row is looked at (budget.h). */
    bool spreads_budget;
    /* How many rows of the whole batch the policy wants; NULL: the configured quota decides. */
    int32_t (*want)(const ga_grid *grid, const ga_values *values, const ga_threshold *threshold);
} ga_policy;

/* Name → kind. GA_ERR_CONFIG for an unknown name. */
ga_status ga_policy_parse(const char *name, ga_policy_kind *kind_out, ga_error *error);

/* Entry of a policy; GA_ERR_ARGUMENT for an unknown kind. Static storage. */
ga_status ga_policy_find(ga_policy_kind kind, const ga_policy **policy_out, ga_error *error);

/* "absolute" | "quantile" | "advantage" → kind. GA_ERR_CONFIG. */
ga_status ga_threshold_parse(const char *name, ga_threshold_kind *kind_out, ga_error *error);

#endif
