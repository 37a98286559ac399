#include "probe/train/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* As base/correlation counts groups. */
enum { ROWS_PER_GROUP_MIN = 3 };

typedef struct curve_row {
    double score, target; /* both with their sign turned for the worst quarter */
    bool positive;
} curve_row;

static int highest_score_first(const void *a, const void *b) {
    const curve_row *x = a;
    const curve_row *y = b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : 0;
}

static int highest_target_first(const void *a, const void *b) {
    const curve_row *x = a;
    const curve_row *y = b;
    return x->target > y->target ? -1 : x->target < y->target ? 1 : 0;
}

/* Marks the positives; rows are sorted by target. Returns how many there are. */
static int64_t mark_positives(curve_row *rows, int64_t count) {
    const double bound = rows[(count + 3) / 4 - 1].target;
    const bool all = rows[count - 1].target >= bound;
    int64_t positives = 0;
    for (int64_t i = 0; i < count; i++) {
        rows[i].positive = all ? rows[i].target > bound : rows[i].target >= bound;
        positives += rows[i].positive ? 1 : 0;
    }
    return positives;
}

/* Sums over groups. */
typedef struct curve_sums {
    double groups, positives;
    double recall[GA_CURVE_POINTS], fall_out[GA_CURVE_POINTS], precision[GA_CURVE_POINTS];
} curve_sums;

/* Adds the points of the curve that lie in the run of equal scores [first, end): the run's `hits` positives
 * are spread evenly in it, `found` positives came before. */
static void add_points(curve_sums *sums, int64_t first, int64_t end, int64_t count, double found, double hits,
    double positives) {
    for (int p = 0; p < GA_CURVE_POINTS; p++) {
        const double depth = (double)(p + 1) / GA_CURVE_POINTS * (double)count;
        if (depth <= (double)first || depth > (double)end) {
            continue;
        }
        const double right = found + hits * (depth - (double)first) / (double)(end - first);
        sums->recall[p] += right / positives;
        sums->fall_out[p] += (depth - right) / ((double)count - positives);
        sums->precision[p] += right / depth;
    }
}

/* One group's average precision; its curve is added to the sums. rows: [count], in any order. */
static double judge_group(curve_row *rows, int64_t count, curve_sums *sums) {
    qsort(rows, ga_size(count), sizeof *rows, highest_target_first);
    if (count < ROWS_PER_GROUP_MIN || !(rows[0].target > rows[count - 1].target)) {
        return NAN;
    }
    const double positives = (double)mark_positives(rows, count);
    qsort(rows, ga_size(count), sizeof *rows, highest_score_first);
    double found = 0.0, average = 0.0;
    for (int64_t first = 0, end; first < count; first = end) {
        double hits = 0.0;
        for (end = first; end < count && rows[end].score == rows[first].score; end++) {
            hits += rows[end].positive ? 1.0 : 0.0;
        }
        add_points(sums, first, end, count, found, hits, positives);
        found += hits;
        average += hits / positives * found / (double)end;
    }
    sums->groups += 1.0;
    sums->positives += positives / (double)count;
    return average;
}

static void judge_groups(
    const ga_judged *judged, double sign, curve_row *rows, double *average, curve_sums *sums) {
    for (int32_t group = 0; group < judged->groups; group++) {
        const int64_t first = judged->begin[group], count = judged->begin[group + 1] - first;
        for (int64_t i = 0; i < count; i++) {
            rows[i] = (curve_row){
                .score = sign * judged->prediction[first + i], .target = sign * judged->target[first + i]};
        }
        average[group] = judge_group(rows, count, sums);
    }
}

static void fill_curve(const curve_sums *sums, ga_quarter *quarter) {
    quarter->positives = sums->positives / sums->groups;
    for (int p = 0; p < GA_CURVE_POINTS; p++) {
        quarter->curve[p] = (ga_curve_point){.taken = (double)(p + 1) / GA_CURVE_POINTS,
            .recall = sums->recall[p] / sums->groups,
            .fall_out = sums->fall_out[p] / sums->groups,
            .precision = sums->precision[p] / sums->groups};
    }
}

ga_status ga_judge_quarter(const ga_judged *judged, bool top, uint64_t seed, int32_t resamples,
    ga_quarter *quarter_out, ga_error *error) {
    const ga_within_kind kind = top ? GA_WITHIN_AUC_TOP_QUARTER : GA_WITHIN_AUC_BOTTOM_QUARTER;
    ga_quarter quarter;
    memset(&quarter, 0, sizeof quarter);
    GA_TRY(ga_within_estimate(kind, judged->prediction, judged->target, judged->group, ga_size(judged->rows),
        seed, resamples, &quarter.auc, error));
    curve_row *rows = calloc(ga_size(judged->rows) + 1, sizeof *rows);
    double *average = calloc(ga_size(judged->groups) + 1, sizeof *average);
    ga_status status = GA_OK;
    if (rows == NULL || average == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for the curves of %d groups", judged->groups);
    } else {
        curve_sums sums;
        memset(&sums, 0, sizeof sums);
        judge_groups(judged, top ? 1.0 : -1.0, rows, average, &sums);
        fill_curve(&sums, &quarter);
        status = ga_bootstrap_mean(
            average, ga_size(judged->groups), seed, resamples, &quarter.average_precision, error);
    }
    free(average);
    free(rows);
    if (status == GA_OK) {
        quarter.average_precision.rows = quarter.auc.rows;
        *quarter_out = quarter;
    }
    return status;
}
