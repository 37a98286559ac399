/* What is done for each target by itself: ridge, scale, calibration. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probe/train/fit.h"

/* Rows that are scored together while a probe is calibrated. */
#define BLOCK_ROWS 256

/* The rows of a part that have a label for one target, sorted by group. Owns its arrays. */
typedef struct labelled_rows {
    int64_t count;
    int64_t *place; /* [count] in the part */
    int64_t *begin; /* [groups + 1] */
    int32_t *fold;  /* [groups] */
    float *target, *weight;
    ga_grouped grouped;
} labelled_rows;

static void labelled_destroy(labelled_rows *rows) {
    free(rows->place);
    free(rows->begin);
    free(rows->fold);
    free(rows->target);
    memset(rows, 0, sizeof *rows);
}

static ga_status labelled_create(
    const ga_dataset *dataset, const ga_part *part, int32_t target, labelled_rows *rows, ga_error *error) {
    memset(rows, 0, sizeof *rows);
    const size_t count = (size_t)part->count + 1, groups = (size_t)part->grouped.groups + 1;
    rows->place = malloc(count * sizeof *rows->place);
    rows->begin = malloc(groups * sizeof *rows->begin);
    rows->fold = malloc(groups * sizeof *rows->fold);
    rows->target = malloc(2 * count * sizeof *rows->target);
    if (rows->place == NULL || rows->begin == NULL || rows->fold == NULL || rows->target == NULL) {
        labelled_destroy(rows);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the labels of %zu rows", count - 1);
    }
    rows->weight = rows->target + count;
    int32_t used = 0;
    rows->begin[0] = 0;
    for (int32_t group = 0; group < part->grouped.groups; group++) {
        for (int64_t i = part->begin[group]; i < part->begin[group + 1]; i++) {
            const float label = ga_dataset_target(dataset, part->rows[i], target);
            if (isfinite(label)) {
                rows->place[rows->count] = i;
                rows->target[rows->count] = label;
                rows->weight[rows->count++] = part->weight[i];
            }
        }
        if (rows->count > rows->begin[used]) {
            rows->fold[used] = part->fold[group];
            rows->begin[++used] = rows->count;
        }
    }
    rows->grouped = (ga_grouped){.groups = used,
        .begin = rows->begin,
        .target = rows->target,
        .weight = rows->weight,
        .fold = rows->fold};
    return GA_OK;
}

/* Standard deviation of labels inside groups, over all processes; 0 without a spread. */
static ga_status spread_of(
    const ga_grouped *grouped, const ga_reduce *reduce, double *spread_out, ga_error *error) {
    double sums[2] = {0.0, 0.0};
    for (int32_t group = 0; group < grouped->groups; group++) {
        double mean = 0.0, weight = 0.0;
        for (int64_t i = grouped->begin[group]; i < grouped->begin[group + 1]; i++) {
            mean += (double)grouped->weight[i] * (double)grouped->target[i];
            weight += (double)grouped->weight[i];
        }
        for (int64_t i = grouped->begin[group]; i < grouped->begin[group + 1] && weight > 0.0; i++) {
            const double deviation = (double)grouped->target[i] - mean / weight;
            sums[0] += (double)grouped->weight[i] * deviation * deviation;
        }
        sums[1] += weight;
    }
    GA_TRY(ga_reduce_sum(reduce, sums, 2, error));
    *spread_out = sums[1] > 0.0 ? sqrt(sums[0] / sums[1]) : 0.0;
    return GA_OK;
}

/* ---- ridges ---- */

static ga_status fit_ridge(const labelled_rows *rows, const float *pooled, const uint8_t *varies,
    const float *penalty, const ga_reduce *reduce, ga_probe *probe, ga_probe_target *values,
    ga_error *error) {
    const size_t count = (size_t)probe->inputs.pooled_count;
    float *features = malloc(((size_t)rows->count * count + 1) * sizeof *features);
    if (features == NULL) {
        return GA_FAIL(
            error, GA_ERR_MEMORY, "no memory for the features of %lld labelled rows", (long long)rows->count);
    }
    for (int64_t i = 0; i < rows->count; i++) {
        memcpy(
            features + (size_t)i * count, pooled + (size_t)rows->place[i] * count, count * sizeof *features);
    }
    const ga_status status = ga_ridge_fit(
        &rows->grouped, features, varies, penalty, ga_compute_native(), reduce, &values->ridge, error);
    free(features);
    return status;
}

ga_status ga_fit_targets(const ga_dataset *dataset, const ga_part *train, const float *pooled,
    const uint8_t *varies, const float *penalty, const ga_reduce *reduce, ga_probe *probe, ga_error *error) {
    for (int32_t target = 1; target < probe->info.target_count; target++) {
        ga_probe_target *values = &probe->others[target - 1];
        labelled_rows rows;
        double spread = 0.0;
        GA_TRY(labelled_create(dataset, train, target, &rows, error));
        ga_status status = spread_of(&rows.grouped, reduce, &spread, error);
        if (status == GA_OK && spread > 0.0) {
            values->scale = spread;
            status = fit_ridge(&rows, pooled, varies, penalty, reduce, probe, values, error);
        }
        labelled_destroy(&rows);
        GA_TRY(status);
    }
    return GA_OK;
}

/* ---- calibration ---- */

/* What a probe answers to the rows of a part. One block of memory, at score. */
typedef struct part_answers {
    float *score, *level, *variance; /* [rows, targets] */
} part_answers;

static ga_status answer_block(ga_probe *probe, const ga_dataset *dataset, const int64_t *rows, int64_t count,
    ga_half *features, const part_answers *to, ga_error *error) {
    float sigma[BLOCK_ROWS];
    GA_TRY(ga_dataset_features(dataset, rows, count, features, error));
    for (int64_t i = 0; i < count; i++) {
        sigma[i] = dataset->sigma[rows[i]];
    }
    const ga_probe_rows block = {.features = features, .count = count, .sigma = sigma};
    return ga_probe_answer_rows(probe, &block, to->score, to->level, to->variance, error);
}

static ga_status answer_part(ga_probe *probe, const ga_dataset *dataset, const ga_part *part,
    const part_answers *answers, ga_error *error) {
    const int32_t targets = probe->info.target_count;
    ga_half *features = malloc(BLOCK_ROWS * (size_t)probe->inputs.schema.values_per_row * sizeof *features);
    ga_status status = GA_OK;
    if (features == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the features of %d rows", BLOCK_ROWS);
    }
    for (int64_t first = 0; first < part->count && status == GA_OK; first += BLOCK_ROWS) {
        const int64_t count = part->count - first < BLOCK_ROWS ? part->count - first : BLOCK_ROWS;
        const part_answers to = {answers->score + first * targets, answers->level + first * targets,
            answers->variance + first * targets};
        status = answer_block(probe, dataset, part->rows + first, count, features, &to, error);
    }
    free(features);
    return status;
}

/* One target's columns of the answers, for its labelled rows, into `column` [3, count]. */
static void take_column(
    const labelled_rows *rows, const part_answers *answers, int32_t targets, int32_t target, float *column) {
    for (int64_t i = 0; i < rows->count; i++) {
        const int64_t from = rows->place[i] * targets + target;
        column[i] = answers->score[from];
        column[rows->count + i] = answers->level[from];
        column[2 * rows->count + i] = answers->variance[from];
    }
}

static ga_status calibrate_target(const labelled_rows *rows, const float *column, const ga_reduce *reduce,
    bool own_variance, ga_calibration *calibration_out, ga_error *error) {
    const float *score = column, *level = column + rows->count, *variance = column + 2 * rows->count;
    GA_TRY(ga_calibrate(&rows->grouped, score, level, reduce, calibration_out, error));
    return own_variance
               ? ga_calibrate_variance(&rows->grouped, score, level, variance, reduce, calibration_out, error)
               : GA_OK;
}

static ga_status calibrate_all(const ga_dataset *dataset, const ga_part *held, const ga_reduce *reduce,
    const part_answers *answers, float *column, ga_probe *probe, ga_error *error) {
    const int32_t targets = probe->info.target_count;
    const bool own_variance = probe->info.kind == GA_PROBE_NETWORK && probe->network.outputs > targets;
    for (int32_t target = 0; target < targets; target++) {
        ga_calibration calibration = {0};
        labelled_rows rows;
        GA_TRY(labelled_create(dataset, held, target, &rows, error));
        take_column(&rows, answers, targets, target, column);
        const ga_status status =
            calibrate_target(&rows, column, reduce, own_variance, &calibration, target == 0 ? error : NULL);
        labelled_destroy(&rows);
        if (status != GA_OK && (target == 0 || status != GA_ERR_DATA)) {
            return status;
        }
        *ga_probe_calibration(probe, target) = calibration;
    }
    probe->info.residual_variance = probe->info.calibration.sigma_r2 + probe->info.calibration.tau2;
    return GA_OK;
}

ga_status ga_fit_calibrate(const ga_dataset *dataset, const ga_part *held, const ga_reduce *reduce,
    ga_probe *probe, ga_error *error) {
    const size_t values = (size_t)held->count * (size_t)probe->info.target_count;
    float *memory = malloc((3 * values + 3 * (size_t)held->count + 1) * sizeof *memory);
    if (memory == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to calibrate on %lld rows", (long long)held->count);
    }
    const part_answers answers = {memory, memory + values, memory + 2 * values};
    ga_status status = answer_part(probe, dataset, held, &answers, error);
    if (status == GA_OK) {
        status = calibrate_all(dataset, held, reduce, &answers, memory + 3 * values, probe, error);
    }
    free(memory);
    return status;
}
