#include "probe/train/reliability.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "probe/train/figures.h"

static const double levels[GA_COVERAGE_LEVELS] = {0.5, 0.8, 0.9, 0.95};

/* Half widths of these intervals of a normal distribution, in standard deviations. */
static const double reaches[GA_COVERAGE_LEVELS] = {
    0.6744897501960817, 1.2815515655446004, 1.6448536269514722, 1.959963984540054};

/* ---- sums by group ---- */

/* Scratch of one figure; one block of memory, at over. */
typedef struct group_sums {
    double *over, *under; /* [groups] */
} group_sums;

static ga_status sums_create(int32_t groups, group_sums *sums, ga_error *error) {
    sums->over = calloc(2 * ga_size(groups) + 1, sizeof *sums->over);
    if (sums->over == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the sums of %d groups", groups);
    }
    sums->under = sums->over + groups;
    return GA_OK;
}

static void sums_clear(const group_sums *sums, int32_t groups) {
    memset(sums->over, 0, 2 * ga_size(groups) * sizeof *sums->over);
}

/* ---- slope ---- */

/* Of the groups [first, end). */
static ga_within slope_of(
    const ga_judged *judged, int32_t first_group, int32_t end_group, const group_sums *sums) {
    int64_t rows = 0;
    sums_clear(sums, judged->groups);
    for (int32_t g = first_group; g < end_group; g++) {
        const double prediction = ga_judged_group_mean(judged, g, judged->prediction);
        const double target = ga_judged_group_mean(judged, g, judged->target);
        for (int64_t i = judged->begin[g]; i < judged->begin[g + 1]; i++) {
            const double x = judged->prediction[i] - prediction;
            sums->over[g - first_group] += x * (judged->target[i] - target);
            sums->under[g - first_group] += x * x;
        }
        rows += judged->begin[g + 1] - judged->begin[g];
    }
    ga_within slope = ga_ratio_of_sums(sums->over, sums->under, end_group - first_group);
    slope.rows = rows;
    return slope;
}

/* ---- reliability ---- */

/* A row in the order of its prediction. */
typedef struct bin_row {
    double prediction, reward;
    int32_t group;
} bin_row;

static int by_prediction(const void *a, const void *b) {
    const bin_row *x = a;
    const bin_row *y = b;
    if (x->prediction != y->prediction) {
        return x->prediction < y->prediction ? -1 : 1;
    }
    return x->group < y->group ? -1 : x->group > y->group ? 1 : 0;
}

/* `centred`: less the group's means. */
static void fill_rows(const ga_judged *judged, bool centred, bin_row *rows) {
    for (int32_t g = 0; g < judged->groups; g++) {
        const double prediction = centred ? ga_judged_group_mean(judged, g, judged->prediction) : 0.0;
        const double target = centred ? ga_judged_group_mean(judged, g, judged->target) : 0.0;
        for (int64_t i = judged->begin[g]; i < judged->begin[g + 1]; i++) {
            rows[i] = (bin_row){.prediction = judged->prediction[i] - prediction,
                .reward = judged->target[i] - target,
                .group = g};
        }
    }
    qsort(rows, ga_size(judged->rows), sizeof *rows, by_prediction);
}

static ga_reliability_bin judge_bin(
    const bin_row *rows, int64_t count, int32_t groups, const group_sums *sums) {
    ga_reliability_bin bin = {0};
    int64_t present = 0;
    sums_clear(sums, groups);
    for (int64_t i = 0; i < count; i++) {
        bin.prediction += rows[i].prediction / (double)count;
        present += sums->under[rows[i].group] > 0.0 ? 0 : 1;
        sums->over[rows[i].group] += rows[i].reward;
        sums->under[rows[i].group] += 1.0;
    }
    bin.reward = ga_ratio_of_sums(sums->over, sums->under, groups);
    bin.reward.rows = count;
    bin.reward.groups = present;
    return bin;
}

static void judge_bins(const bin_row *rows, const ga_judged *judged, int32_t bins, const group_sums *sums,
    ga_reliability_bin *found) {
    for (int32_t b = 0; b < bins; b++) {
        const int64_t first = judged->rows * b / bins, end = judged->rows * (b + 1) / bins;
        found[b] = judge_bin(rows + first, end - first, judged->groups, sums);
    }
}

/* Rows of one group whose reward is inside the interval; inside a group of n rows a deviation from the mean
 * has (n − 1)/n of the variance. */
static double count_covered(const ga_judged *judged, int32_t group, bool within, double reach) {
    const int64_t first = judged->begin[group], end = judged->begin[group + 1];
    const double rows = (double)(end - first);
    const double offset = within ? ga_judged_group_mean(judged, group, judged->target) -
                                       ga_judged_group_mean(judged, group, judged->prediction)
                                 : 0.0;
    double covered = 0.0;
    for (int64_t i = first; i < end; i++) {
        const double far = judged->target[i] - judged->prediction[i] - offset;
        const double variance =
            within ? judged->variance[i] * (rows - 1.0) / rows : judged->variance[i] + judged->tau2;
        covered += far * far <= reach * reach * variance ? 1.0 : 0.0;
    }
    return covered;
}

static ga_coverage judge_coverage(const ga_judged *judged, int level, bool within, const group_sums *sums) {
    sums_clear(sums, judged->groups);
    for (int32_t g = 0; g < judged->groups; g++) {
        const int64_t count = judged->begin[g + 1] - judged->begin[g];
        if (!within || count > 1) {
            sums->over[g] = count_covered(judged, g, within, reaches[level]);
            sums->under[g] = (double)count;
        }
    }
    ga_coverage coverage = {
        .level = levels[level], .share = ga_ratio_of_sums(sums->over, sums->under, judged->groups)};
    coverage.share.rows = judged->rows;
    return coverage;
}

ga_status ga_judge_reliability(const ga_judged *judged, ga_reliability *reliability_out, ga_error *error) {
    if (judged->rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "no rows to compare predictions with rewards");
    }
    group_sums sums;
    GA_TRY(sums_create(judged->groups, &sums, error));
    bin_row *rows = calloc(ga_size(judged->rows), sizeof *rows);
    if (rows == NULL) {
        free(sums.over);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld rows", (long long)judged->rows);
    }
    ga_reliability found;
    memset(&found, 0, sizeof found);
    found.bins = judged->rows < GA_RELIABILITY_BINS ? (int32_t)judged->rows : GA_RELIABILITY_BINS;
    fill_rows(judged, false, rows);
    judge_bins(rows, judged, found.bins, &sums, found.reward);
    fill_rows(judged, true, rows);
    judge_bins(rows, judged, found.bins, &sums, found.within);
    for (int level = 0; level < GA_COVERAGE_LEVELS; level++) {
        found.reward_coverage[level] = judge_coverage(judged, level, false, &sums);
        found.within_coverage[level] = judge_coverage(judged, level, true, &sums);
    }
    found.slope = slope_of(judged, 0, judged->groups, &sums);
    free(rows);
    free(sums.over);
    *reliability_out = found;
    return GA_OK;
}

/* ---- drift ---- */

/* A group in the order of its update. */
typedef struct drift_group {
    uint32_t update;
    int32_t group;
} drift_group;

static int oldest_first(const void *a, const void *b) {
    const drift_group *x = a;
    const drift_group *y = b;
    if (x->update != y->update) {
        return x->update < y->update ? -1 : 1;
    }
    return x->group < y->group ? -1 : x->group > y->group ? 1 : 0;
}

static ga_status judged_like(const ga_judged *judged, ga_judged *copy, ga_error *error) {
    memset(copy, 0, sizeof *copy);
    const size_t rows = ga_size(judged->rows) + 1;
    copy->begin = calloc(ga_size(judged->groups) + 1, sizeof *copy->begin);
    copy->group = calloc(rows, sizeof *copy->group);
    copy->update = calloc(rows, sizeof *copy->update);
    copy->prediction = calloc(rows, sizeof *copy->prediction);
    copy->target = calloc(rows, sizeof *copy->target);
    if (copy->begin == NULL || copy->group == NULL || copy->update == NULL || copy->prediction == NULL ||
        copy->target == NULL) {
        ga_judged_destroy(copy);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld rows by age", (long long)judged->rows);
    }
    return GA_OK;
}

/* The same groups, oldest first: what drift needs of them. */
static ga_status sort_by_age(const ga_judged *judged, ga_judged *sorted_out, ga_error *error) {
    drift_group *order = calloc(ga_size(judged->groups) + 1, sizeof *order);
    if (order == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %d groups by age", judged->groups);
    }
    ga_judged sorted;
    const ga_status status = judged_like(judged, &sorted, error);
    if (status != GA_OK) {
        free(order);
        return status;
    }
    for (int32_t g = 0; g < judged->groups; g++) {
        order[g] = (drift_group){.update = judged->update[judged->begin[g]], .group = g};
    }
    qsort(order, ga_size(judged->groups), sizeof *order, oldest_first);
    for (int32_t g = 0; g < judged->groups; g++) {
        const int64_t first = judged->begin[order[g].group];
        const int64_t count = judged->begin[order[g].group + 1] - first;
        for (int64_t i = 0; i < count; i++) {
            sorted.group[sorted.rows + i] = judged->group[first + i];
            sorted.update[sorted.rows + i] = order[g].update;
            sorted.prediction[sorted.rows + i] = judged->prediction[first + i];
            sorted.target[sorted.rows + i] = judged->target[first + i];
        }
        sorted.rows += count;
        sorted.begin[++sorted.groups] = sorted.rows;
    }
    free(order);
    *sorted_out = sorted;
    return GA_OK;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

#define SHIFT_TENTHS 10

/* Inner borders of tenths of the first `count` predictions. GA_ERR_MEMORY. */
static ga_status find_borders(
    const double *prediction, int64_t count, double borders[SHIFT_TENTHS - 1], ga_error *error) {
    double *sorted = calloc(ga_size(count) + 1, sizeof *sorted);
    if (sorted == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld predictions", (long long)count);
    }
    memcpy(sorted, prediction, ga_size(count) * sizeof *sorted);
    qsort(sorted, ga_size(count), sizeof *sorted, by_size);
    for (int i = 0; i < SHIFT_TENTHS - 1; i++) {
        borders[i] = sorted[count * (i + 1) / SHIFT_TENTHS];
    }
    free(sorted);
    return GA_OK;
}

/* Shares of the tenths; half a row more in each, so that none is empty. */
static void fill_tenths(
    const double *prediction, int64_t count, const double *borders, double shares[SHIFT_TENTHS]) {
    for (int i = 0; i < SHIFT_TENTHS; i++) {
        shares[i] = 0.5;
    }
    for (int64_t i = 0; i < count; i++) {
        int tenth = 0;
        while (tenth < SHIFT_TENTHS - 1 && prediction[i] >= borders[tenth]) {
            tenth++;
        }
        shares[tenth] += 1.0;
    }
    for (int i = 0; i < SHIFT_TENTHS; i++) {
        shares[i] /= (double)count + 0.5 * SHIFT_TENTHS;
    }
}

static double shift_between(const double first[SHIFT_TENTHS], const double now[SHIFT_TENTHS]) {
    double shift = 0.0;
    for (int i = 0; i < SHIFT_TENTHS; i++) {
        shift += (now[i] - first[i]) * log(now[i] / first[i]);
    }
    return shift;
}

/* First group of the next span: whole updates until `share` of the rows are passed. */
static int32_t span_end(const ga_judged *sorted, int32_t first, double share) {
    int32_t end = first;
    while (end < sorted->groups &&
           (end == first || (double)sorted->begin[end] < share * (double)sorted->rows ||
               sorted->update[sorted->begin[end]] == sorted->update[sorted->begin[end - 1]])) {
        end++;
    }
    return end;
}

static ga_status judge_span(const ga_judged *sorted, int32_t first, int32_t end, uint64_t seed,
    int32_t resamples, const group_sums *sums, ga_drift_bin *bin, ga_error *error) {
    const int64_t begin = sorted->begin[first], rows = sorted->begin[end] - begin;
    *bin = (ga_drift_bin){.update_first = sorted->update[begin],
        .update_last = sorted->update[begin + rows - 1],
        .rows = rows,
        .spearman = {.value = NAN, .low = NAN, .high = NAN},
        .slope = slope_of(sorted, first, end, sums)};
    for (int64_t i = begin; i < begin + rows; i++) {
        bin->bias += (sorted->target[i] - sorted->prediction[i]) / (double)rows;
    }
    ga_error ignored;
    ga_error_clear(&ignored);
    const ga_status status =
        ga_within_estimate(GA_WITHIN_SPEARMAN, sorted->prediction + begin, sorted->target + begin,
            sorted->group + begin, ga_size(rows), seed, resamples, &bin->spearman, &ignored);
    return status == GA_OK || status == GA_ERR_DATA ? GA_OK : GA_FAIL(error, status, "%s", ignored.message);
}

static ga_status judge_spans(const ga_judged *sorted, uint64_t seed, int32_t resamples,
    const group_sums *sums, ga_drift_bin bins[GA_DRIFT_BINS], int32_t *count_out, ga_error *error) {
    double borders[SHIFT_TENTHS - 1] = {0}, reference[SHIFT_TENTHS], now[SHIFT_TENTHS];
    int32_t count = 0;
    for (int32_t first = 0; first < sorted->groups && count < GA_DRIFT_BINS; count++) {
        const double share = (double)(count + 1) / GA_DRIFT_BINS;
        const int32_t end = count == GA_DRIFT_BINS - 1 ? sorted->groups : span_end(sorted, first, share);
        GA_TRY(judge_span(sorted, first, end, seed, resamples, sums, &bins[count], error));
        const double *prediction = sorted->prediction + sorted->begin[first];
        if (count == 0) {
            GA_TRY(find_borders(prediction, bins[0].rows, borders, error));
            fill_tenths(prediction, bins[0].rows, borders, reference);
        }
        fill_tenths(prediction, bins[count].rows, borders, now);
        bins[count].shift = shift_between(reference, now);
        first = end;
    }
    *count_out = count;
    return GA_OK;
}

ga_status ga_judge_drift(const ga_judged *judged, uint64_t seed, int32_t resamples,
    ga_drift_bin bins_out[GA_DRIFT_BINS], int32_t *count_out, ga_error *error) {
    group_sums sums;
    GA_TRY(sums_create(judged->groups, &sums, error));
    ga_judged sorted;
    ga_status status = sort_by_age(judged, &sorted, error);
    if (status == GA_OK) {
        status = judge_spans(&sorted, seed, resamples, &sums, bins_out, count_out, error);
        ga_judged_destroy(&sorted);
    }
    free(sums.over);
    return status;
}

/* ---- test and retest ---- */

static double root(double value) {
    return value > 0.0 ? sqrt(value) : 0.0;
}

ga_status ga_judge_ceiling(const ga_judged *judged, const double *again, uint64_t seed, int32_t resamples,
    ga_ceiling *ceiling_out, ga_error *error) {
    ga_within retest;
    GA_TRY(ga_within_estimate(GA_WITHIN_PEARSON, again, judged->target, judged->group, ga_size(judged->rows),
        seed, resamples, &retest, error));
    *ceiling_out = (ga_ceiling){.retest = retest,
        .ceiling = {.value = root(retest.value),
            .low = root(retest.low),
            .high = root(retest.high),
            .rows = retest.rows,
            .groups = retest.groups}};
    return GA_OK;
}
