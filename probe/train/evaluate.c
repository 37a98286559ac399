#include "probe/train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

/* ---- columns of a part ---- */

/* Columns as base/correlation takes them; one block of memory, at prediction. */
typedef struct part_columns {
    size_t count;
    double *prediction, *target;
    uint64_t *group;
} part_columns;

static ga_status columns_create(size_t count, part_columns *columns, ga_error *error) {
    double *block = malloc((count + 1) * (2 * sizeof(double) + sizeof(uint64_t)));
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to judge %zu predictions", count);
    }
    *columns = (part_columns){.count = count,
        .prediction = block,
        .target = block + count,
        .group = (uint64_t *)(void *)(block + 2 * count)};
    return GA_OK;
}

static void columns_fill(
    const ga_dataset *dataset, const ga_part *part, const float *score, size_t first, part_columns *columns) {
    for (size_t i = 0; i < (size_t)part->count; i++) {
        columns->prediction[first + i] = (double)score[i];
        columns->target[first + i] = (double)part->target[i];
        columns->group[first + i] = dataset->group[part->rows[i]];
    }
}

/* Where this rank's rows begin among those of all, and how many there are. */
static ga_status place_rows(
    const ga_reduce *reduce, size_t count, size_t *first_out, size_t *total_out, ga_error *error) {
    double *counts = calloc((size_t)reduce->ranks, sizeof *counts);
    if (counts == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the counts of %d ranks", reduce->ranks);
    }
    counts[reduce->rank] = (double)count;
    const ga_status status = ga_reduce_sum(reduce, counts, reduce->ranks, error);
    *first_out = 0;
    *total_out = 0;
    for (int32_t rank = 0; rank < reduce->ranks && status == GA_OK; rank++) {
        *first_out += rank < reduce->rank ? (size_t)counts[rank] : 0;
        *total_out += (size_t)counts[rank];
    }
    free(counts);
    return status;
}

/* Every rank's rows on every rank, by a sum in which each fills its own places. A group key travels as two
 * halves, because a double holds 53 bits. */
static ga_status columns_share(
    const ga_reduce *reduce, size_t first, size_t own, part_columns *columns, ga_error *error) {
    const size_t total = columns->count;
    double *wire = calloc(4 * total + 1, sizeof *wire);
    if (wire == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to share %zu predictions", total);
    }
    for (size_t i = first; i < first + own; i++) {
        wire[4 * i] = columns->prediction[i];
        wire[4 * i + 1] = columns->target[i];
        wire[4 * i + 2] = (double)(columns->group[i] >> 32);
        wire[4 * i + 3] = (double)(columns->group[i] & 0xffffffffu);
    }
    const ga_status status = ga_reduce_sum(reduce, wire, (int64_t)(4 * total), error);
    for (size_t i = 0; i < total && status == GA_OK; i++) {
        columns->prediction[i] = wire[4 * i];
        columns->target[i] = wire[4 * i + 1];
        columns->group[i] = ((uint64_t)wire[4 * i + 2] << 32) | (uint64_t)wire[4 * i + 3];
    }
    free(wire);
    return status;
}

ga_status ga_evaluate_part(ga_within_kind kind, const ga_dataset *dataset, const ga_part *part,
    const float *score, uint64_t seed, int32_t resamples, const ga_reduce *reduce, ga_within *within_out,
    ga_error *error) {
    const bool shared = reduce != NULL && reduce->sum != NULL && reduce->ranks > 1;
    const size_t own = (size_t)part->count;
    size_t first = 0, total = own;
    if (shared) {
        GA_TRY(place_rows(reduce, own, &first, &total, error));
    }
    part_columns columns = {0};
    GA_TRY(columns_create(total, &columns, error));
    columns_fill(dataset, part, score, first, &columns);
    ga_status status = shared ? columns_share(reduce, first, own, &columns, error) : GA_OK;
    if (status == GA_OK) {
        status = ga_within_estimate(kind, columns.prediction, columns.target, columns.group, total, seed,
            resamples, within_out, error);
    }
    free(columns.prediction);
    return status;
}

/* ---- the figures of an evaluation ---- */

/* Keys of ga_random's batch, so that figures do not share their draws. */
enum { DRAW_RANDOM = 1 };

/* Pooled figures are not defined for every table; then they are NaN, which is no failure of the rest. */
static ga_status pooled_or_nan(
    ga_pooled_kind kind, const ga_judged *judged, const double *score, double *value_out, ga_error *error) {
    *value_out = NAN;
    ga_error ignored;
    ga_error_clear(&ignored);
    const ga_status status =
        ga_pooled_estimate(kind, score, judged->target, ga_size(judged->rows), value_out, &ignored);
    return status == GA_OK || status == GA_ERR_DATA ? GA_OK : GA_FAIL(error, status, "%s", ignored.message);
}

ga_status ga_judge_against(const ga_judged *judged, const double *score, uint64_t seed, int32_t resamples,
    ga_baseline *baseline_out, ga_error *error) {
    ga_baseline baseline;
    const size_t rows = ga_size(judged->rows);
    GA_TRY(ga_within_estimate(GA_WITHIN_SPEARMAN, score, judged->target, judged->group, rows, seed, resamples,
        &baseline.spearman, error));
    GA_TRY(ga_within_compare(GA_WITHIN_SPEARMAN, judged->prediction, score, judged->target, judged->group,
        rows, seed, resamples, &baseline.difference, error));
    GA_TRY(pooled_or_nan(GA_POOLED_SPEARMAN, judged, score, &baseline.pooled_spearman, error));
    *baseline_out = baseline;
    return GA_OK;
}

ga_status ga_judge_slice(const ga_judged *judged, const int32_t *label, int32_t value, uint64_t seed,
    int32_t resamples, ga_within *within_out, ga_error *error) {
    double *masked = malloc((ga_size(judged->rows) + 1) * sizeof *masked);
    if (masked == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to judge %lld rows", (long long)judged->rows);
    }
    for (int64_t i = 0; i < judged->rows; i++) {
        masked[i] = label[judged->row[i]] == value ? judged->prediction[i] : (double)NAN;
    }
    const ga_status status = ga_within_estimate(GA_WITHIN_SPEARMAN, masked, judged->target, judged->group,
        ga_size(judged->rows), seed, resamples, within_out, error);
    free(masked);
    return status;
}

static ga_status judge_probe(
    const ga_judged *judged, const ga_evaluate_options *options, ga_evaluation *evaluation, ga_error *error) {
    for (int kind = 0; kind < GA_WITHIN_KIND_COUNT; kind++) {
        GA_TRY(ga_within_estimate((ga_within_kind)kind, judged->prediction, judged->target, judged->group,
            ga_size(judged->rows), options->seed, options->resamples, &evaluation->within[kind], error));
    }
    GA_TRY(
        pooled_or_nan(GA_POOLED_SPEARMAN, judged, judged->prediction, &evaluation->pooled_spearman, error));
    GA_TRY(pooled_or_nan(GA_POOLED_PEARSON, judged, judged->prediction, &evaluation->pooled_pearson, error));
    return pooled_or_nan(
        GA_POOLED_AUC_TOP_QUARTER, judged, judged->prediction, &evaluation->pooled_auc, error);
}

static void fill_prompt_mean(const ga_judged *judged, double *score) {
    for (int32_t group = 0; group < judged->groups; group++) {
        const double mean = ga_judged_group_mean(judged, group, judged->target);
        for (int64_t i = judged->begin[group]; i < judged->begin[group + 1]; i++) {
            score[i] = mean;
        }
    }
}

/* score: scratch [rows]. */
static ga_status judge_baselines(ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged,
    const ga_evaluate_options *options, double *score, ga_evaluation *evaluation, ga_error *error) {
    const uint64_t seed = options->seed;
    GA_TRY(ga_judged_ridge(probe, dataset, judged, score, error));
    GA_TRY(ga_judge_against(judged, score, seed, options->resamples, &evaluation->ridge, error));
    fill_prompt_mean(judged, score);
    GA_TRY(ga_judge_against(judged, score, seed, options->resamples, &evaluation->prompt_mean, error));
    ga_random random = ga_random_make(seed, DRAW_RANDOM, GA_STREAM_BOOTSTRAP);
    for (int64_t i = 0; i < judged->rows; i++) {
        score[i] = ga_random_uniform(&random);
    }
    return ga_judge_against(judged, score, seed, options->resamples, &evaluation->random, error);
}

static ga_status judge_figures(
    const ga_judged *judged, const ga_evaluate_options *options, ga_evaluation *evaluation, ga_error *error) {
    const uint64_t seed = options->seed;
    GA_TRY(ga_judge_distribution(judged, &evaluation->distribution, error));
    GA_TRY(ga_judge_worst(judged, evaluation->worst, &evaluation->worst_count, error));
    GA_TRY(ga_judge_quarter(judged, true, seed, options->resamples, &evaluation->top, error));
    GA_TRY(ga_judge_quarter(judged, false, seed, options->resamples, &evaluation->bottom, error));
    GA_TRY(ga_judge_best(judged, seed, options->resamples, evaluation->best, error));
    GA_TRY(ga_judge_energy(judged, GA_STD_GLOBAL, seed, evaluation->energy[GA_STD_GLOBAL], error));
    GA_TRY(ga_judge_energy(judged, GA_STD_GROUP, seed, evaluation->energy[GA_STD_GROUP], error));
    GA_TRY(ga_judge_reliability(judged, &evaluation->reliability, error));
    return ga_judge_drift(
        judged, seed, options->resamples, evaluation->drift, &evaluation->drift_count, error);
}

ga_status ga_evaluate_judged(ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged,
    const ga_evaluate_options *options, ga_evaluation *evaluation_out, ga_error *error) {
    double *score = malloc((ga_size(judged->rows) + 1) * sizeof *score);
    ga_evaluation *evaluation = calloc(1, sizeof *evaluation);
    ga_status status = GA_OK;
    if (score == NULL || evaluation == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory to evaluate %lld rows", (long long)judged->rows);
    } else {
        evaluation->rows = judged->rows;
        evaluation->groups = judged->groups;
        status = judge_probe(judged, options, evaluation, error);
    }
    if (status == GA_OK) {
        status = judge_baselines(probe, dataset, judged, options, score, evaluation, error);
    }
    if (status == GA_OK) {
        status = judge_figures(judged, options, evaluation, error);
    }
    if (status == GA_OK) {
        *evaluation_out = *evaluation;
    }
    free(evaluation);
    free(score);
    return status;
}

ga_status ga_evaluate(ga_probe *probe, const ga_dataset *dataset, const ga_evaluate_options *options,
    ga_evaluation *evaluation_out, ga_error *error) {
    ga_judged judged;
    GA_TRY(ga_judge(probe, dataset, options->audited_only, &judged, error));
    const ga_status status = ga_evaluate_judged(probe, dataset, &judged, options, evaluation_out, error);
    ga_judged_destroy(&judged);
    return status;
}
