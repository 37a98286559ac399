#include "probe/train/judged.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/half.h"
#include "probe/parts.h"
#include "probe/train/score.h"

/* Rows whose features are in memory at once. */
enum { CHUNK_ROWS = 256 };

/* ---- features of some rows ---- */

/* One chunk of rows while it is scored; one block of memory, at values. */
typedef struct row_chunk {
    int32_t count;
    ga_half *values; /* [CHUNK_ROWS, values_per_row] */
    float sigma[CHUNK_ROWS];
    /* [count, targets] */
    float mean[CHUNK_ROWS * GA_NETWORK_TARGETS_MAX], variance[CHUNK_ROWS * GA_NETWORK_TARGETS_MAX];
} row_chunk;

static ga_status chunk_create(const ga_dataset *dataset, row_chunk **chunk_out, ga_error *error) {
    row_chunk *made = malloc(sizeof *made);
    ga_half *values =
        calloc(CHUNK_ROWS, (ga_size(dataset->schema->values_per_row) + 1) * sizeof *made->values);
    if (made == NULL || values == NULL) {
        free(made);
        free(values);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to score %d rows", (int)CHUNK_ROWS);
    }
    made->values = values;
    *chunk_out = made;
    return GA_OK;
}

static void chunk_free(row_chunk *chunk) {
    free(chunk->values);
    free(chunk);
}

/* Features and σ of up to CHUNK_ROWS rows. */
static ga_status chunk_fill(
    const ga_dataset *dataset, const int64_t *rows, int64_t left, row_chunk *chunk, ga_error *error) {
    chunk->count = left < CHUNK_ROWS ? (int32_t)left : CHUNK_ROWS;
    for (int32_t i = 0; i < chunk->count; i++) {
        chunk->sigma[i] = dataset->sigma[rows[i]];
    }
    return ga_dataset_features(dataset, rows, chunk->count, chunk->values, error);
}

/* ---- scores ---- */

/* What is asked of the probe for each row; outputs [rows], variance may be NULL. */
typedef struct score_wish {
    const int64_t *rows;
    int64_t count;
    int32_t target; /* of the probe */
    double *mean, *variance;
} score_wish;

/* Runs of rows with the same σ, as the probe takes them. */
static ga_status score_chunk(ga_probe *probe, const ga_dataset *dataset, row_chunk *chunk, ga_error *error) {
    const int32_t values = dataset->schema->values_per_row, targets = probe->info.target_count;
    for (int32_t first = 0, end; first < chunk->count; first = end) {
        for (end = first + 1; end < chunk->count && chunk->sigma[end] == chunk->sigma[first];) {
            end++;
        }
        const ga_feature_block block = {.schema = dataset->schema,
            .rows = end - first,
            .values = chunk->values + (ptrdiff_t)first * values};
        GA_TRY(ga_probe_score_all(probe, &block, (double)chunk->sigma[first],
            chunk->mean + (ptrdiff_t)first * targets, chunk->variance + (ptrdiff_t)first * targets, error));
    }
    return GA_OK;
}

static ga_status score_all(
    ga_probe *probe, const ga_dataset *dataset, const score_wish *wanted, ga_error *error) {
    row_chunk *chunk = NULL;
    GA_TRY(chunk_create(dataset, &chunk, error));
    ga_status status = GA_OK;
    for (int64_t first = 0; first < wanted->count && status == GA_OK; first += CHUNK_ROWS) {
        status = chunk_fill(dataset, wanted->rows + first, wanted->count - first, chunk, error);
        if (status == GA_OK) {
            status = score_chunk(probe, dataset, chunk, error);
        }
        for (int32_t i = 0; i < chunk->count && status == GA_OK; i++) {
            const int32_t at = i * probe->info.target_count + wanted->target;
            wanted->mean[first + i] = (double)chunk->mean[at];
            if (wanted->variance != NULL) {
                wanted->variance[first + i] = (double)chunk->variance[at];
            }
        }
    }
    chunk_free(chunk);
    return status;
}

static ga_status check_layout(const ga_probe *probe, const ga_dataset *dataset, ga_error *error) {
    if (!ga_schema_equal(dataset->schema, &probe->info.schema)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "the dataset's features have another layout than the probe was trained on");
    }
    return GA_OK;
}

/* ---- rows ---- */

static ga_status judged_create(int64_t rows, ga_judged *judged, ga_error *error) {
    const size_t count = ga_size(rows) + 1;
    memset(judged, 0, sizeof *judged);
    judged->begin = calloc(count + 1, sizeof *judged->begin);
    judged->group = calloc(count, sizeof *judged->group);
    judged->row = calloc(count, sizeof *judged->row);
    judged->update = calloc(count, sizeof *judged->update);
    judged->prediction = calloc(count, sizeof *judged->prediction);
    judged->variance = calloc(count, sizeof *judged->variance);
    judged->target = calloc(count, sizeof *judged->target);
    if (judged->begin == NULL || judged->group == NULL || judged->row == NULL || judged->update == NULL ||
        judged->prediction == NULL || judged->variance == NULL || judged->target == NULL) {
        ga_judged_destroy(judged);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to judge %lld rows", (long long)rows);
    }
    return GA_OK;
}

void ga_judged_destroy(ga_judged *judged) {
    free(judged->begin);
    free(judged->group);
    free(judged->row);
    free(judged->update);
    free(judged->prediction);
    free(judged->variance);
    free(judged->target);
    memset(judged, 0, sizeof *judged);
}

/* Takes over the rows that have a prediction; part rows are sorted by group. */
static void take_rows(const ga_dataset *dataset, const ga_part *part, ga_judged *judged) {
    int64_t used = 0;
    for (int64_t i = 0; i < part->count; i++) {
        if (!isfinite(judged->prediction[i]) || !isfinite(judged->variance[i])) {
            continue;
        }
        const int64_t row = part->rows[i];
        if (used == 0 || dataset->group[row] != judged->group[used - 1]) {
            judged->begin[judged->groups++] = used;
        }
        judged->group[used] = dataset->group[row];
        judged->row[used] = row;
        judged->update[used] = dataset->update[row];
        judged->prediction[used] = judged->prediction[i];
        judged->variance[used] = judged->variance[i];
        judged->target[used] = (double)part->target[i];
        used++;
    }
    judged->begin[judged->groups] = used;
    judged->rows = used;
}

static ga_status judge_part(
    ga_probe *probe, const ga_dataset *dataset, const ga_part *part, ga_judged *judged_out, ga_error *error) {
    if (part->count == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "none of %lld rows can be judged: no reward, or no features",
            (long long)dataset->rows);
    }
    ga_judged judged;
    GA_TRY(judged_create(part->count, &judged, error));
    const score_wish wanted = {
        .rows = part->rows, .count = part->count, .mean = judged.prediction, .variance = judged.variance};
    const ga_status status = score_all(probe, dataset, &wanted, error);
    if (status != GA_OK) {
        ga_judged_destroy(&judged);
        return status;
    }
    take_rows(dataset, part, &judged);
    judged.tau2 = probe->info.calibration.tau2;
    *judged_out = judged;
    return GA_OK;
}

ga_status ga_judge(
    ga_probe *probe, const ga_dataset *dataset, bool audited_only, ga_judged *judged_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    GA_TRY(check_layout(probe, dataset, error));
    ga_part part;
    GA_TRY(ga_part_all(dataset, audited_only, 1.0, &part, error));
    const ga_status status = judge_part(probe, dataset, &part, judged_out, error);
    ga_part_destroy(&part);
    return status;
}

ga_status ga_judged_score(
    ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged, double *mean_out, ga_error *error) {
    GA_TRY(check_layout(probe, dataset, error));
    const score_wish wanted = {.rows = judged->row, .count = judged->rows, .mean = mean_out};
    return score_all(probe, dataset, &wanted, error);
}

ga_status ga_judged_score_target(ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged,
    int32_t target, double *mean_out, ga_error *error) {
    GA_TRY(check_layout(probe, dataset, error));
    if (target < 0 || target >= probe->info.target_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the probe has %d targets, no number %d",
            probe->info.target_count, target);
    }
    const score_wish wanted = {
        .rows = judged->row, .count = judged->rows, .target = target, .mean = mean_out};
    return score_all(probe, dataset, &wanted, error);
}

ga_status ga_judged_ridge(
    ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged, double *score_out, ga_error *error) {
    GA_TRY(check_layout(probe, dataset, error));
    float *score = calloc(2 * ga_size(judged->rows) + 1, sizeof *score);
    if (score == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to score %lld rows", (long long)judged->rows);
    }
    const ga_probe_kind kind = probe->info.kind;
    probe->info.kind = kind == GA_PROBE_NETWORK ? GA_PROBE_RIDGE : kind;
    const ga_status status =
        ga_dataset_score(probe, dataset, judged->row, judged->rows, score, score + judged->rows, error);
    probe->info.kind = kind;
    for (int64_t i = 0; i < judged->rows && status == GA_OK; i++) {
        score_out[i] = (double)score[i] + (double)score[judged->rows + i];
    }
    free(score);
    return status;
}

ga_status ga_judged_feature(
    const ga_dataset *dataset, const ga_judged *judged, int32_t offset, double *value_out, ga_error *error) {
    const int32_t values = dataset->schema->values_per_row;
    if (offset < 0 || offset >= values) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "a row of features has %d values, no number %d", values, offset);
    }
    row_chunk *chunk = NULL;
    GA_TRY(chunk_create(dataset, &chunk, error));
    ga_status status = GA_OK;
    for (int64_t first = 0; first < judged->rows && status == GA_OK; first += CHUNK_ROWS) {
        status = chunk_fill(dataset, judged->row + first, judged->rows - first, chunk, error);
        for (int32_t i = 0; i < chunk->count && status == GA_OK; i++) {
            value_out[first + i] = (double)ga_half_to_float(chunk->values[(ptrdiff_t)i * values + offset]);
        }
    }
    chunk_free(chunk);
    return status;
}

double ga_judged_group_mean(const ga_judged *judged, int32_t group, const double *values) {
    const int64_t first = judged->begin[group], end = judged->begin[group + 1];
    double sum = 0.0;
    for (int64_t i = first; i < end; i++) {
        sum += values[i];
    }
    return sum / (double)(end - first);
}
