#include "grpo_accel/base/correlation.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

enum { ROWS_PER_GROUP_MIN = 3 };

typedef struct row {
    uint64_t group;
    double target;
    double prediction;
    double target_rank;
    double prediction_rank;
} row;

static int compare_doubles(double a, double b) {
    return (a > b) - (a < b);
}

/* By group, then by values: sums are formed in the same order whatever the order of arrival. */
static int compare_rows(const void *left, const void *right) {
    const row *a = left;
    const row *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    const int by_target = compare_doubles(a->target, b->target);
    return by_target != 0 ? by_target : compare_doubles(a->prediction, b->prediction);
}

static int compare_predictions(const void *left, const void *right) {
    return compare_doubles(((const row *)left)->prediction, ((const row *)right)->prediction);
}

static int compare_values(const void *left, const void *right) {
    return compare_doubles(*(const double *)left, *(const double *)right);
}

/* Mid-ranks from 1 of rows that are sorted by prediction. */
static void rank_predictions(row *rows, size_t count) {
    for (size_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && rows[end].prediction == rows[first].prediction;) {
            end++;
        }
        for (size_t i = first; i < end; i++) {
            rows[i].prediction_rank = 0.5 * (double)(first + 1 + end);
        }
    }
}

/* Mid-ranks from 1 of rows that are sorted by target. */
static void rank_targets(row *rows, size_t count) {
    for (size_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && rows[end].target == rows[first].target;) {
            end++;
        }
        for (size_t i = first; i < end; i++) {
            rows[i].target_rank = 0.5 * (double)(first + 1 + end);
        }
    }
}

/* Fills both ranks; leaves the rows sorted by (target, prediction). */
static void rank_group(row *rows, size_t count) {
    qsort(rows, count, sizeof *rows, compare_predictions);
    rank_predictions(rows, count);
    qsort(rows, count, sizeof *rows, compare_rows);
    rank_targets(rows, count);
}

/* Correlation from centred sums; 0 without spread in the prediction. */
static double correlate(double cross, double prediction_square, double target_square) {
    if (!(prediction_square > 0) || !(target_square > 0)) {
        return 0;
    }
    const double value = cross / (sqrt(prediction_square) * sqrt(target_square));
    return fmax(-1, fmin(1, value));
}

static double pearson(const row *rows, size_t count) {
    double prediction_mean = 0, target_mean = 0;
    for (size_t i = 0; i < count; i++) {
        prediction_mean += rows[i].prediction / (double)count;
        target_mean += rows[i].target / (double)count;
    }
    /* Scaled by the largest deviation, so that squares neither overflow nor vanish. */
    double prediction_scale = 0, target_scale = 0;
    for (size_t i = 0; i < count; i++) {
        prediction_scale = fmax(prediction_scale, fabs(rows[i].prediction - prediction_mean));
        target_scale = fmax(target_scale, fabs(rows[i].target - target_mean));
    }
    if (!(prediction_scale > 0) || !(target_scale > 0)) {
        return 0;
    }
    double cross = 0, prediction_square = 0, target_square = 0;
    for (size_t i = 0; i < count; i++) {
        const double x = (rows[i].prediction - prediction_mean) / prediction_scale;
        const double y = (rows[i].target - target_mean) / target_scale;
        cross += x * y;
        prediction_square += x * x;
        target_square += y * y;
    }
    return correlate(cross, prediction_square, target_square);
}

static double spearman(const row *rows, size_t count) {
    const double mean = 0.5 * ((double)count + 1);
    double cross = 0, prediction_square = 0, target_square = 0;
    for (size_t i = 0; i < count; i++) {
        const double x = rows[i].prediction_rank - mean;
        const double y = rows[i].target_rank - mean;
        cross += x * y;
        prediction_square += x * x;
        target_square += y * y;
    }
    return correlate(cross, prediction_square, target_square);
}

typedef struct pairs {
    double right; /* both differ, same order */
    double wrong;
    double target_differs;
    double prediction_differs;
} pairs;

static pairs count_pairs(const row *rows, size_t count) {
    pairs found = {0};
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i + 1; j < count; j++) {
            const int by_target = compare_doubles(rows[i].target, rows[j].target);
            const int by_prediction = compare_doubles(rows[i].prediction, rows[j].prediction);
            found.right += by_target * by_prediction > 0;
            found.wrong += by_target * by_prediction < 0;
            found.target_differs += by_target != 0;
            found.prediction_differs += by_prediction != 0;
        }
    }
    return found;
}

static double kendall(const row *rows, size_t count) {
    const pairs found = count_pairs(rows, count);
    return correlate(found.right - found.wrong, found.prediction_differs, found.target_differs);
}

static double pairwise(const row *rows, size_t count) {
    const pairs found = count_pairs(rows, count);
    const double equal = found.target_differs - found.right - found.wrong;
    return (found.right + 0.5 * equal) / found.target_differs;
}

/* Area for "positive from row `first` on", rows sorted by target: the Mann-Whitney statistic. */
static double area_above(const row *rows, size_t count, size_t first) {
    double rank_sum = 0;
    for (size_t i = first; i < count; i++) {
        rank_sum += rows[i].prediction_rank;
    }
    const double positive = (double)(count - first);
    const double negative = (double)first;
    return (rank_sum - 0.5 * positive * (positive + 1)) / (positive * negative);
}

/* First row whose target is above (or, if `inclusive`, at least) `bound`; rows sorted by target. */
static size_t first_above(const row *rows, size_t count, double bound, bool inclusive) {
    size_t first = 0;
    while (first < count && (inclusive ? rows[first].target < bound : rows[first].target <= bound)) {
        first++;
    }
    return first;
}

/* Where ties leave nothing above the median (binary rewards), the rows at the median are the positives. */
static double area_median(const row *rows, size_t count) {
    const double low = rows[(count - 1) / 2].target;
    const double median = low + 0.5 * (rows[count / 2].target - low);
    const size_t first = first_above(rows, count, median, false);
    return area_above(rows, count, first < count ? first : first_above(rows, count, median, true));
}

/* Where ties would make every row a positive, only those above the tie are. */
static double area_top_quarter(const row *rows, size_t count) {
    const double bound = rows[count - (count + 3) / 4].target;
    const size_t first = first_above(rows, count, bound, true);
    return area_above(rows, count, first > 0 ? first : first_above(rows, count, bound, false));
}

/* Where ties would make every row a positive, only those below the tie are. */
static double area_bottom_quarter(const row *rows, size_t count) {
    const double bound = rows[(count + 3) / 4 - 1].target;
    const size_t end = first_above(rows, count, bound, false);
    return area_above(rows, count, end < count ? end : first_above(rows, count, bound, true));
}

static double group_statistic(ga_within_kind kind, row *rows, size_t count) {
    rank_group(rows, count);
    switch (kind) {
    case GA_WITHIN_SPEARMAN: return spearman(rows, count);
    case GA_WITHIN_PEARSON: return pearson(rows, count);
    case GA_WITHIN_KENDALL: return kendall(rows, count);
    case GA_WITHIN_AUC_MEDIAN: return area_median(rows, count);
    case GA_WITHIN_AUC_TOP_QUARTER: return area_top_quarter(rows, count);
    case GA_WITHIN_PAIRWISE: return pairwise(rows, count);
    case GA_WITHIN_AUC_BOTTOM_QUARTER: return area_bottom_quarter(rows, count);
    case GA_WITHIN_KIND_COUNT: break;
    }
    return 0;
}

/* Usable rows, sorted, owned by the caller; NULL when memory is out. `group` NULL: all rows are one group. */
static row *collect_rows(
    const double *prediction, const double *target, const uint64_t *group, size_t count, size_t *usable_out) {
    row *rows = calloc(count + 1, sizeof *rows);
    if (rows == NULL) {
        return NULL;
    }
    size_t usable = 0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(prediction[i]) && isfinite(target[i])) {
            rows[usable].group = group != NULL ? group[i] : 0;
            rows[usable].target = target[i];
            rows[usable].prediction = prediction[i];
            usable++;
        }
    }
    qsort(rows, usable, sizeof *rows, compare_rows);
    *usable_out = usable;
    return rows;
}

/* Rows sorted by (group, target). */
static bool group_counts(const row *rows, size_t count) {
    return count >= ROWS_PER_GROUP_MIN && rows[0].target < rows[count - 1].target;
}

/* One statistic a group that counts into found[≥ groups]; returns how many there are. */
static size_t collect_statistics(ga_within_kind kind, row *rows, size_t count, ga_within_group *found) {
    size_t groups = 0;
    for (size_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && rows[end].group == rows[first].group;) {
            end++;
        }
        if (group_counts(rows + first, end - first)) {
            const uint64_t key = rows[first].group;
            found[groups++] = (ga_within_group){.group = key,
                .value = group_statistic(kind, rows + first, end - first),
                .rows = (int64_t)(end - first)};
        }
    }
    return groups;
}

static double mean_of(const double *values, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return sum / (double)count;
}

/* Linear between order statistics; values sorted, count ≥ 1. */
static double quantile_of(const double *values, size_t count, double share) {
    const double position = share * (double)(count - 1);
    const size_t below = (size_t)position;
    const size_t above = below + 1 < count ? below + 1 : below;
    return values[below] + (position - (double)below) * (values[above] - values[below]);
}

static void bootstrap(const double *statistics, size_t groups, uint64_t seed, double *means, size_t resamples,
    ga_within *within) {
    ga_random random = ga_random_make(seed, 0, GA_STREAM_BOOTSTRAP);
    for (size_t draw = 0; draw < resamples; draw++) {
        double sum = 0;
        for (size_t i = 0; i < groups; i++) {
            sum += statistics[ga_random_below(&random, (uint32_t)groups)];
        }
        means[draw] = sum / (double)groups;
    }
    qsort(means, resamples, sizeof *means, compare_values);
    within->low = quantile_of(means, resamples, 0.025);
    within->high = quantile_of(means, resamples, 0.975);
}

ga_status ga_bootstrap_mean(const double *values, size_t count, uint64_t seed, int32_t resamples,
    ga_within *within_out, ga_error *error) {
    if ((count > 0 && values == NULL) || within_out == NULL || count > UINT32_MAX || resamples < 0) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "mean over groups: NULL column or %d resamples (need ≥ 0)", resamples);
    }
    double *scratch = calloc(count + ga_size(resamples) + 1, sizeof *scratch);
    if (scratch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for an interval over %zu groups", count);
    }
    size_t groups = 0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(values[i])) {
            scratch[groups++] = values[i];
        }
    }
    ga_status status = GA_OK;
    if (groups > 0) {
        ga_within within = {.value = mean_of(scratch, groups), .groups = (int64_t)groups};
        within.low = within.value;
        within.high = within.value;
        if (resamples > 0) {
            bootstrap(scratch, groups, seed, scratch + count, ga_size(resamples), &within);
        }
        *within_out = within;
    } else {
        status = GA_FAIL(error, GA_ERR_DATA, "none of %zu groups has the figure: no mean", count);
    }
    free(scratch);
    return status;
}

static ga_status check_columns(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, int32_t resamples, ga_error *error) {
    const bool pointers_ok = count == 0 || (prediction != NULL && target != NULL && group != NULL);
    if (!pointers_ok || count > UINT32_MAX || resamples < 0 || (int)kind < 0 ||
        kind >= GA_WITHIN_KIND_COUNT) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "within-group figure: NULL column, unknown kind %d or %d resamples (need ≥ 0)", (int)kind,
            resamples);
    }
    return GA_OK;
}

ga_status ga_within_groups(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, ga_within_group *groups_out, size_t *group_count_out,
    ga_error *error) {
    GA_TRY(check_columns(kind, prediction, target, group, count, 0, error));
    size_t usable = 0;
    row *rows = collect_rows(prediction, target, group, count, &usable);
    if (rows == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a figure over %zu rows", count);
    }
    *group_count_out = collect_statistics(kind, rows, usable, groups_out);
    free(rows);
    return GA_OK;
}

/* Values in the groups' order, their mean and interval. found: [groups]; values: scratch [groups]. */
static ga_status summarise(const ga_within_group *found, size_t groups, size_t count, uint64_t seed,
    int32_t resamples, double *values, ga_within *within_out, ga_error *error) {
    if (groups == 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "no group has %d finite rows and spread in its target (%zu rows in all); gather more groups",
            (int)ROWS_PER_GROUP_MIN, count);
    }
    ga_within within;
    int64_t rows = 0;
    for (size_t i = 0; i < groups; i++) {
        values[i] = found[i].value;
        rows += found[i].rows;
    }
    GA_TRY(ga_bootstrap_mean(values, groups, seed, resamples, &within, error));
    within.rows = rows;
    *within_out = within;
    return GA_OK;
}

ga_status ga_within_estimate(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, uint64_t seed, int32_t resamples, ga_within *within_out,
    ga_error *error) {
    GA_TRY(check_columns(kind, prediction, target, group, count, resamples, error));
    if (within_out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "within-group figure: NULL for the answer");
    }
    ga_within_group *found = calloc(count + 1, sizeof *found);
    double *values = calloc(count + 1, sizeof *values);
    size_t groups = 0;
    ga_status status;
    if (found == NULL || values == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for a figure over %zu rows", count);
    } else {
        status = ga_within_groups(kind, prediction, target, group, count, found, &groups, error);
    }
    if (status == GA_OK) {
        status = summarise(found, groups, count, seed, resamples, values, within_out, error);
    }
    free(values);
    free(found);
    return status;
}

/* found: scratch for the groups of both, [2 (count + 1)]; masked: scratch for their columns, [2 (count + 1)].
 */
static ga_status compare(ga_within_kind kind, const double *prediction, const double *other,
    const double *target, const uint64_t *group, size_t count, uint64_t seed, int32_t resamples,
    ga_within_group *found, double *masked, ga_within *difference_out, ga_error *error) {
    for (size_t i = 0; i < count; i++) {
        const bool both = isfinite(prediction[i]) && isfinite(other[i]);
        masked[i] = both ? prediction[i] : (double)NAN;
        masked[count + i] = both ? other[i] : (double)NAN;
    }
    ga_within_group *others = found + count + 1;
    size_t groups = 0, other_groups = 0;
    GA_TRY(ga_within_groups(kind, masked, target, group, count, found, &groups, error));
    GA_TRY(ga_within_groups(kind, masked + count, target, group, count, others, &other_groups, error));
    GA_REQUIRE(error, groups == other_groups);
    for (size_t i = 0; i < groups; i++) {
        found[i].value -= others[i].value;
    }
    return summarise(found, groups, count, seed, resamples, masked, difference_out, error);
}

ga_status ga_within_compare(ga_within_kind kind, const double *prediction, const double *other,
    const double *target, const uint64_t *group, size_t count, uint64_t seed, int32_t resamples,
    ga_within *difference_out, ga_error *error) {
    GA_TRY(check_columns(kind, prediction, target, group, count, resamples, error));
    if ((count > 0 && other == NULL) || difference_out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "difference of figures: NULL column");
    }
    ga_within_group *found = calloc(2 * (count + 1), sizeof *found);
    double *masked = calloc(2 * (count + 1), sizeof *masked);
    ga_status status;
    if (found == NULL || masked == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for a figure over %zu rows", count);
    } else {
        status = compare(kind, prediction, other, target, group, count, seed, resamples, found, masked,
            difference_out, error);
    }
    free(masked);
    free(found);
    return status;
}

static ga_within_kind within_kind_of(ga_pooled_kind kind) {
    switch (kind) {
    case GA_POOLED_SPEARMAN: return GA_WITHIN_SPEARMAN;
    case GA_POOLED_PEARSON: return GA_WITHIN_PEARSON;
    case GA_POOLED_AUC_TOP_QUARTER: return GA_WITHIN_AUC_TOP_QUARTER;
    }
    return GA_WITHIN_SPEARMAN;
}

ga_status ga_pooled_estimate(ga_pooled_kind kind, const double *prediction, const double *target,
    size_t count, double *value_out, ga_error *error) {
    const bool pointers_ok = count == 0 || (prediction != NULL && target != NULL);
    if (!pointers_ok || value_out == NULL || (int)kind < 0 || kind > GA_POOLED_AUC_TOP_QUARTER) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "pooled figure: NULL column or unknown kind %d", (int)kind);
    }
    size_t usable = 0;
    row *rows = collect_rows(prediction, target, NULL, count, &usable);
    if (rows == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a figure over %zu rows", count);
    }
    ga_status status = GA_OK;
    if (group_counts(rows, usable)) {
        *value_out = group_statistic(within_kind_of(kind), rows, usable);
    } else {
        status = GA_FAIL(error, GA_ERR_DATA,
            "%zu finite rows of %zu without spread in the target: no pooled figure", usable, count);
    }
    free(rows);
    return status;
}
