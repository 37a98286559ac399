/*
 * How well predictions order their targets: within prompt groups with an interval, and pooled over all rows.
 *
 * GRPO subtracts the group's mean, so only the figure within groups says what a prediction is worth; the
 * pooled one mostly measures how well the prompt is known and is there for comparison with published figures.
 *
 * Rows may come in any order: the result does not depend on it, bit for bit. Rows with a value that is not
 * finite in either column are left out. Ties get mid-ranks. Not collective; any thread, no state.
 */
#ifndef GA_BASE_CORRELATION_H
#define GA_BASE_CORRELATION_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef enum ga_within_kind {
    GA_WITHIN_SPEARMAN = 0,        /* Pearson of mid-ranks, in [-1, 1] */
    GA_WITHIN_PEARSON = 1,         /* in [-1, 1] */
    GA_WITHIN_KENDALL = 2,         /* tau-b (Kendall 1945), in [-1, 1]; quadratic in the group's size */
    GA_WITHIN_AUC_MEDIAN = 3,      /* area under the ROC curve for "above the group's median", in [0, 1] */
    GA_WITHIN_AUC_TOP_QUARTER = 4, /* the same for the best ceil(n/4) of the group's n rows, ties included */
    GA_WITHIN_PAIRWISE =
        5, /* share of pairs with different targets in the right order, equal predictions ½ */
    GA_WITHIN_AUC_BOTTOM_QUARTER = 6, /* area for the worst ceil(n/4) rows, ties included, lowest first */
    GA_WITHIN_KIND_COUNT = 7
} ga_within_kind;

typedef struct ga_within {
    double value; /* mean over groups of the group's statistic, each group with the same weight */
    double low;   /* 95 % percentile interval of a bootstrap over groups; = value without resamples */
    double high;
    int64_t rows;   /* rows of the groups that count */
    int64_t groups; /* groups that count */
} ga_within;

/*
 * Mean within-group statistic. prediction, target, group: [count].
 *
 * A group counts when it has at least 3 usable rows and spread in the target; with predictions all equal it
 * counts as "no skill": 0, or ½ for AUC and pairwise. `seed` keys the bootstrap of `resamples` draws (1,000
 * is usual; 0: none). GA_ERR_DATA when no group counts, GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_within_estimate(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, uint64_t seed, int32_t resamples, ga_within *within_out,
    ga_error *error);

/* One group's statistic. */
typedef struct ga_within_group {
    uint64_t group;
    double value;
    int64_t rows;
} ga_within_group;

/*
 * The statistic of each group that counts, sorted by key, into groups_out[count] (as many as there may be
 * groups); *group_count_out of them are set, 0 is no error. GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_within_groups(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, ga_within_group *groups_out, size_t *group_count_out,
    ga_error *error);

/*
 * How much better `prediction` does than `other` on the same groups: the mean over groups of the difference
 * of their statistics, with the interval of a bootstrap that draws groups and so keeps the pairs. Rows that
 * are not finite in either are left out of both. Otherwise as ga_within_estimate.
 */
ga_status ga_within_compare(ga_within_kind kind, const double *prediction, const double *other,
    const double *target, const uint64_t *group, size_t count, uint64_t seed, int32_t resamples,
    ga_within *difference_out, ga_error *error);

/*
 * Mean of one value a group with the interval of a bootstrap over groups; values that are not finite are left
 * out. within_out->rows is 0. GA_ERR_DATA when none is left, GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_bootstrap_mean(const double *values, size_t count, uint64_t seed, int32_t resamples,
    ga_within *within_out, ga_error *error);

typedef enum ga_pooled_kind {
    GA_POOLED_SPEARMAN = 0,
    GA_POOLED_PEARSON = 1,
    GA_POOLED_AUC_TOP_QUARTER = 2
} ga_pooled_kind;

/*
 * The same over all rows as if they were one group. GA_ERR_DATA with fewer than 3 usable rows or without
 * spread in the target, GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_pooled_estimate(ga_pooled_kind kind, const double *prediction, const double *target,
    size_t count, double *value_out, ga_error *error);

#endif
