#include "probe/train/figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

/* Half width of a 95 % interval of a normal distribution, in standard deviations. */
#define NORMAL_95 1.959963984540054

/* Keys of ga_random's batch, so that figures do not share their draws. */
enum { DRAW_ENERGY = 11, DRAW_BEST = 12 };

ga_within ga_ratio_of_sums(const double *over, const double *under, int32_t groups) {
    double over_sum = 0.0, under_sum = 0.0, squares = 0.0;
    for (int32_t g = 0; g < groups; g++) {
        over_sum += over[g];
        under_sum += under[g];
    }
    if (!(fabs(under_sum) > 0.0)) {
        return (ga_within){.value = NAN, .low = NAN, .high = NAN, .groups = groups};
    }
    const double ratio = over_sum / under_sum;
    for (int32_t g = 0; g < groups; g++) {
        const double residual = over[g] - ratio * under[g];
        squares += residual * residual;
    }
    const double many = groups > 1 ? (double)groups / (double)(groups - 1) : 1.0;
    const double reach = NORMAL_95 * sqrt(many * squares) / fabs(under_sum);
    return (ga_within){.value = ratio, .low = ratio - reach, .high = ratio + reach, .groups = groups};
}

/* ---- spread over groups ---- */

static int by_value(const void *a, const void *b) {
    const ga_within_group *x = a;
    const ga_within_group *y = b;
    if (x->value != y->value) {
        return x->value < y->value ? -1 : 1;
    }
    return x->group < y->group ? -1 : x->group > y->group ? 1 : 0;
}

/* Spearman of each group that can be ordered, lowest first; *found_out is the caller's. */
static ga_status order_groups(
    const ga_judged *judged, ga_within_group **found_out, size_t *count_out, ga_error *error) {
    ga_within_group *found = calloc(ga_size(judged->rows) + 1, sizeof *found);
    if (found == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the figures of %d groups", judged->groups);
    }
    const ga_status status = ga_within_groups(GA_WITHIN_SPEARMAN, judged->prediction, judged->target,
        judged->group, ga_size(judged->rows), found, count_out, error);
    if (status != GA_OK) {
        free(found);
        return status;
    }
    qsort(found, *count_out, sizeof *found, by_value);
    *found_out = found;
    return GA_OK;
}

/* Linear between order statistics; sorted, count ≥ 1. */
static double quantile(const ga_within_group *sorted, size_t count, double share) {
    const double position = share * (double)(count - 1);
    const size_t below = (size_t)position, above = below + 1 < count ? below + 1 : below;
    return sorted[below].value + (position - (double)below) * (sorted[above].value - sorted[below].value);
}

static void fill_distribution(const ga_within_group *sorted, size_t count, ga_distribution *d) {
    double mean = 0.0, squares = 0.0;
    d->groups = (int64_t)count;
    for (size_t i = 0; i < count; i++) {
        mean += sorted[i].value / (double)count;
        d->below_zero += sorted[i].value < 0.0 ? 1.0 / (double)count : 0.0;
        const int bin = (int)floor((sorted[i].value + 1.0) * GA_HISTOGRAM / 2.0);
        d->histogram[bin < 0 ? 0 : bin >= GA_HISTOGRAM ? GA_HISTOGRAM - 1 : bin]++;
    }
    for (size_t i = 0; i < count; i++) {
        squares += (sorted[i].value - mean) * (sorted[i].value - mean);
    }
    d->sd = count > 1 ? sqrt(squares / (double)(count - 1)) : 0.0;
    for (int i = 0; i < GA_DECILES; i++) {
        d->decile[i] = quantile(sorted, count, (double)i / (GA_DECILES - 1));
    }
}

ga_status ga_judge_distribution(const ga_judged *judged, ga_distribution *distribution_out, ga_error *error) {
    ga_within_group *found = NULL;
    size_t count = 0;
    GA_TRY(order_groups(judged, &found, &count, error));
    if (count == 0) {
        free(found);
        return GA_FAIL(error, GA_ERR_DATA, "none of %d groups can be ordered", judged->groups);
    }
    ga_distribution distribution;
    memset(&distribution, 0, sizeof distribution);
    fill_distribution(found, count, &distribution);
    free(found);
    *distribution_out = distribution;
    return GA_OK;
}

/* Number in the dataset of the group's first row. */
static int64_t row_of_group(const ga_judged *judged, uint64_t key) {
    for (int32_t g = 0; g < judged->groups; g++) {
        if (judged->group[judged->begin[g]] == key) {
            return judged->row[judged->begin[g]];
        }
    }
    return -1;
}

ga_status ga_judge_worst(
    const ga_judged *judged, ga_worst_group worst_out[GA_WORST_MAX], int32_t *count_out, ga_error *error) {
    ga_within_group *found = NULL;
    size_t count = 0;
    GA_TRY(order_groups(judged, &found, &count, error));
    *count_out = count < GA_WORST_MAX ? (int32_t)count : GA_WORST_MAX;
    for (int32_t i = 0; i < *count_out; i++) {
        worst_out[i] = (ga_worst_group){.group = found[i].group,
            .row = row_of_group(judged, found[i].group),
            .rows = found[i].rows,
            .spearman = found[i].value};
    }
    free(found);
    return GA_OK;
}

/* ---- energy ---- */

static const double keeps[GA_ENERGY_POINTS] = {0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

/* A row with what is expected of it and what came of it. */
typedef struct energy_row {
    double expected; /* squared advantage */
    double energy;   /* squared advantage */
    uint32_t ticket; /* random order of equal ones */
    int32_t group;
} energy_row;

static int most_expected_first(const void *a, const void *b) {
    const energy_row *x = a;
    const energy_row *y = b;
    if (x->expected != y->expected) {
        return x->expected > y->expected ? -1 : 1;
    }
    return x->ticket < y->ticket ? -1 : x->ticket > y->ticket ? 1 : 0;
}

static int most_energy_first(const void *a, const void *b) {
    const energy_row *x = a;
    const energy_row *y = b;
    return x->energy > y->energy ? -1 : x->energy < y->energy ? 1 : 0;
}

/* The rows of one group; with GA_STD_GROUP both squares are in units of the group's own variance, the
 * expected one of the expected variance. Returns how many rows there are. */
static int64_t fill_group_energy(
    const ga_judged *judged, int32_t group, ga_std_kind std, ga_random *random, energy_row *rows) {
    const int64_t first = judged->begin[group], count = judged->begin[group + 1] - first;
    const double prediction = ga_judged_group_mean(judged, group, judged->prediction);
    const double target = ga_judged_group_mean(judged, group, judged->target);
    double expected = 0.0, energy = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double far = judged->prediction[first + i] - prediction;
        const double advantage = judged->target[first + i] - target;
        rows[i] = (energy_row){.expected = far * far + judged->variance[first + i],
            .energy = advantage * advantage,
            .ticket = ga_random_u32(random),
            .group = group};
        expected += rows[i].expected / (double)count;
        energy += rows[i].energy / (double)count;
    }
    if (std == GA_STD_GLOBAL) {
        return count;
    }
    for (int64_t i = 0; i < count && energy > 0.0; i++) {
        rows[i].expected = expected > 0.0 ? rows[i].expected / expected : 1.0;
        rows[i].energy /= energy;
    }
    return energy > 0.0 ? count : 0;
}

/* rows sorted; sums of the first `kept`, by group. */
static void sum_by_group(const energy_row *rows, int64_t kept, int32_t groups, double *sums) {
    memset(sums, 0, ga_size(groups) * sizeof *sums);
    for (int64_t i = 0; i < kept; i++) {
        sums[rows[i].group] += rows[i].energy;
    }
}

/* kept, all: scratch [groups]. */
static void fill_points(energy_row *rows, int64_t count, int32_t groups, double *kept, double *all,
    ga_energy_point points[GA_ENERGY_POINTS]) {
    qsort(rows, ga_size(count), sizeof *rows, most_expected_first);
    sum_by_group(rows, count, groups, all);
    for (int i = 0; i < GA_ENERGY_POINTS; i++) {
        const int64_t keep = (int64_t)llround(keeps[i] * (double)count);
        sum_by_group(rows, keep, groups, kept);
        points[i].keep = keeps[i];
        points[i].probe = ga_ratio_of_sums(kept, all, groups);
        points[i].probe.rows = count;
        points[i].random = (double)keep / (double)count;
    }
    qsort(rows, ga_size(count), sizeof *rows, most_energy_first);
    for (int i = 0; i < GA_ENERGY_POINTS; i++) {
        sum_by_group(rows, (int64_t)llround(keeps[i] * (double)count), groups, kept);
        points[i].oracle = ga_ratio_of_sums(kept, all, groups).value;
    }
}

ga_status ga_judge_energy(const ga_judged *judged, ga_std_kind std, uint64_t seed,
    ga_energy_point points_out[GA_ENERGY_POINTS], ga_error *error) {
    energy_row *rows = malloc((ga_size(judged->rows) + 1) * sizeof *rows);
    double *sums = calloc(2 * ga_size(judged->groups) + 1, sizeof *sums);
    ga_status status = GA_OK;
    if (rows == NULL || sums == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld rows", (long long)judged->rows);
    } else {
        ga_random random = ga_random_make(seed, DRAW_ENERGY, GA_STREAM_BOOTSTRAP);
        int64_t count = 0;
        double energy = 0.0;
        for (int32_t group = 0; group < judged->groups; group++) {
            const int64_t added = fill_group_energy(judged, group, std, &random, rows + count);
            for (int64_t i = count; i < count + added; i++) {
                energy += rows[i].energy;
            }
            count += added;
        }
        if (energy > 0.0) {
            fill_points(rows, count, judged->groups, sums, sums + judged->groups, points_out);
        } else {
            status = GA_FAIL(error, GA_ERR_DATA, "no group has rewards that differ");
        }
    }
    free(sums);
    free(rows);
    return status;
}

/* ---- best of n ---- */

static const int32_t best_counts[GA_BEST_POINTS] = {1, 2, 4, 8};

/* A row of one group, by prediction or by target. */
typedef struct best_row {
    double prediction, target;
    uint32_t ticket;
} best_row;

static int highest_prediction_first(const void *a, const void *b) {
    const best_row *x = a;
    const best_row *y = b;
    if (x->prediction != y->prediction) {
        return x->prediction > y->prediction ? -1 : 1;
    }
    return x->ticket < y->ticket ? -1 : x->ticket > y->ticket ? 1 : 0;
}

static int highest_target_first(const void *a, const void *b) {
    const best_row *x = a;
    const best_row *y = b;
    return x->target > y->target ? -1 : x->target < y->target ? 1 : 0;
}

/* One group's figures for one k. */
typedef struct best_of {
    double recall, regret, recall_random, regret_random;
} best_of;

/* What k rows drawn by chance give: the best of them is row i (sorted by target) with probability
 * C(n−1−i, k−1)/C(n, k); filled by the ratio of neighbours. Rows sorted by target. */
static void fill_chance(const best_row *rows, int64_t count, int32_t k, double sd, best_of *best) {
    double chance = (double)k / (double)count;
    for (int64_t i = 0; i + k <= count; i++) {
        best->recall_random += rows[i].target == rows[0].target ? chance : 0.0;
        best->regret_random += chance * (rows[0].target - rows[i].target) / sd;
        const double left = (double)(count - 1 - i);
        chance *= left > 0.0 ? (left - (double)k + 1.0) / left : 0.0;
    }
}

static double standard_deviation(const best_row *rows, int64_t count) {
    double mean = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        mean += rows[i].target / (double)count;
    }
    for (int64_t i = 0; i < count; i++) {
        squares += (rows[i].target - mean) * (rows[i].target - mean);
    }
    return sqrt(squares / (double)count);
}

/* found[GA_BEST_POINTS] of one group; NaN where the group is too small or without spread. */
static void judge_group_best(best_row *rows, int64_t count, best_of *found) {
    double best_target[GA_BEST_POINTS];
    qsort(rows, ga_size(count), sizeof *rows, highest_prediction_first);
    for (int p = 0; p < GA_BEST_POINTS; p++) {
        best_target[p] = -INFINITY;
        for (int64_t i = 0; i < count && i < best_counts[p]; i++) {
            best_target[p] = fmax(best_target[p], rows[i].target);
        }
    }
    qsort(rows, ga_size(count), sizeof *rows, highest_target_first);
    const double sd = standard_deviation(rows, count);
    for (int p = 0; p < GA_BEST_POINTS; p++) {
        found[p] = (best_of){NAN, NAN, NAN, NAN};
        if (count >= 3 && count > best_counts[p] && sd > 0.0) {
            found[p] = (best_of){.recall = best_target[p] == rows[0].target ? 1.0 : 0.0,
                .regret = (rows[0].target - best_target[p]) / sd};
            fill_chance(rows, count, best_counts[p], sd, &found[p]);
        }
    }
}

/* Mean over groups; without a group that has the figure groups = 0 and NaN. */
static ga_status mean_or_nothing(const double *values, int32_t groups, uint64_t seed, int32_t resamples,
    ga_within *within_out, ga_error *error) {
    ga_error ignored;
    ga_error_clear(&ignored);
    const ga_status status =
        ga_bootstrap_mean(values, ga_size(groups), seed, resamples, within_out, &ignored);
    if (status == GA_ERR_DATA) {
        *within_out = (ga_within){.value = NAN, .low = NAN, .high = NAN};
        return GA_OK;
    }
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s", ignored.message);
}

/* found: [groups][points]; column: scratch [groups]. */
static ga_status sum_up_best(const best_of *found, int32_t groups, int point, uint64_t seed,
    int32_t resamples, double *column, ga_best_point *best, ga_error *error) {
    ga_within chance;
    best->k = best_counts[point];
    for (int32_t g = 0; g < groups; g++) {
        column[g] = found[g * GA_BEST_POINTS + point].recall;
    }
    GA_TRY(mean_or_nothing(column, groups, seed, resamples, &best->recall, error));
    for (int32_t g = 0; g < groups; g++) {
        column[g] = found[g * GA_BEST_POINTS + point].regret;
    }
    GA_TRY(mean_or_nothing(column, groups, seed, resamples, &best->regret, error));
    for (int32_t g = 0; g < groups; g++) {
        column[g] = found[g * GA_BEST_POINTS + point].recall_random;
    }
    GA_TRY(mean_or_nothing(column, groups, seed, 0, &chance, error));
    best->recall_random = chance.value;
    for (int32_t g = 0; g < groups; g++) {
        column[g] = found[g * GA_BEST_POINTS + point].regret_random;
    }
    GA_TRY(mean_or_nothing(column, groups, seed, 0, &chance, error));
    best->regret_random = chance.value;
    return GA_OK;
}

static void judge_groups_best(const ga_judged *judged, uint64_t seed, best_row *rows, best_of *found) {
    ga_random random = ga_random_make(seed, DRAW_BEST, GA_STREAM_BOOTSTRAP);
    for (int32_t group = 0; group < judged->groups; group++) {
        const int64_t first = judged->begin[group], count = judged->begin[group + 1] - first;
        for (int64_t i = 0; i < count; i++) {
            rows[i] = (best_row){.prediction = judged->prediction[first + i],
                .target = judged->target[first + i],
                .ticket = ga_random_u32(&random)};
        }
        judge_group_best(rows, count, found + ga_size(group) * GA_BEST_POINTS);
    }
}

ga_status ga_judge_best(const ga_judged *judged, uint64_t seed, int32_t resamples,
    ga_best_point points_out[GA_BEST_POINTS], ga_error *error) {
    const size_t groups = ga_size(judged->groups);
    best_row *rows = calloc(ga_size(judged->rows) + 1, sizeof *rows);
    best_of *found = calloc(groups * GA_BEST_POINTS + 1, sizeof *found);
    double *column = calloc(groups + 1, sizeof *column);
    ga_status status = GA_OK;
    if (rows == NULL || found == NULL || column == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for the figures of %zu groups", groups);
    } else {
        judge_groups_best(judged, seed, rows, found);
    }
    for (int p = 0; p < GA_BEST_POINTS && status == GA_OK; p++) {
        status = sum_up_best(found, judged->groups, p, seed, resamples, column, &points_out[p], error);
    }
    free(column);
    free(found);
    free(rows);
    return status;
}
