#include "probe/train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/random.h"
#include "probe/parts.h"

/* Half width of a 90 % interval of a normal distribution, in standard deviations. */
#define NORMAL_90 1.6448536269514722

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

/* What the figures are computed from. */
typedef struct evaluation_room {
    const ga_dataset *dataset;
    const ga_evaluate_options *options;
    ga_part part;
    float *memory;
    float *mean;  /* [rows] calibrated prediction */
    float *ridge; /* [rows] of the ridge alone */
    float *other; /* [rows] scratch */
} evaluation_room;

/* Pooled figures are not defined for every table; then they are NaN, which is no failure of the rest. */
static ga_status pooled_or_nan(
    ga_pooled_kind kind, const part_columns *columns, double *value_out, ga_error *error) {
    *value_out = NAN;
    ga_error ignored;
    ga_error_clear(&ignored);
    const ga_status status =
        ga_pooled_estimate(kind, columns->prediction, columns->target, columns->count, value_out, &ignored);
    return status == GA_OK || status == GA_ERR_DATA ? GA_OK : GA_FAIL(error, status, "%s", ignored.message);
}

static ga_status judge_baseline(
    const evaluation_room *room, const float *score, ga_baseline *baseline_out, ga_error *error) {
    part_columns columns = {0};
    GA_TRY(columns_create((size_t)room->part.count, &columns, error));
    columns_fill(room->dataset, &room->part, score, 0, &columns);
    ga_status status =
        ga_within_estimate(GA_WITHIN_SPEARMAN, columns.prediction, columns.target, columns.group,
            columns.count, room->options->seed, room->options->resamples, &baseline_out->spearman, error);
    if (status == GA_OK) {
        status = pooled_or_nan(GA_POOLED_SPEARMAN, &columns, &baseline_out->pooled_spearman, error);
    }
    free(columns.prediction);
    return status;
}

static ga_status judge_probe(const evaluation_room *room, ga_evaluation *evaluation, ga_error *error) {
    part_columns columns = {0};
    GA_TRY(columns_create((size_t)room->part.count, &columns, error));
    columns_fill(room->dataset, &room->part, room->mean, 0, &columns);
    ga_status status = GA_OK;
    for (int kind = 0; kind < GA_WITHIN_KINDS && status == GA_OK; kind++) {
        status = ga_within_estimate((ga_within_kind)kind, columns.prediction, columns.target, columns.group,
            columns.count, room->options->seed, room->options->resamples, &evaluation->within[kind], error);
    }
    if (status == GA_OK) {
        status = pooled_or_nan(GA_POOLED_SPEARMAN, &columns, &evaluation->pooled_spearman, error);
    }
    if (status == GA_OK) {
        status = pooled_or_nan(GA_POOLED_PEARSON, &columns, &evaluation->pooled_pearson, error);
    }
    if (status == GA_OK) {
        status = pooled_or_nan(GA_POOLED_AUC_TOP_QUARTER, &columns, &evaluation->pooled_auc, error);
    }
    free(columns.prediction);
    return status;
}

static double mean_of(const float *values, int64_t first, int64_t end) {
    double sum = 0.0;
    for (int64_t i = first; i < end; i++) {
        sum += (double)values[i];
    }
    return sum / (double)(end - first);
}

static void fill_prompt_mean(const ga_part *part, float *score) {
    for (int32_t group = 0; group < part->grouped.groups; group++) {
        const double mean = mean_of(part->target, part->begin[group], part->begin[group + 1]);
        for (int64_t i = part->begin[group]; i < part->begin[group + 1]; i++) {
            score[i] = (float)mean;
        }
    }
}

static ga_status judge_baselines(const evaluation_room *room, ga_evaluation *evaluation, ga_error *error) {
    GA_TRY(judge_baseline(room, room->ridge, &evaluation->ridge, error));
    fill_prompt_mean(&room->part, room->other);
    GA_TRY(judge_baseline(room, room->other, &evaluation->prompt_mean, error));
    ga_random random = ga_random_make(room->options->seed, 1, GA_STREAM_BOOTSTRAP);
    for (int64_t i = 0; i < room->part.count; i++) {
        room->other[i] = (float)ga_random_uniform(&random);
    }
    return judge_baseline(room, room->other, &evaluation->random, error);
}

/* A row with how far its prediction is from its group's mean, and its true squared advantage. */
typedef struct energy_row {
    double distance;
    uint32_t ticket; /* random order of equal distances */
    double energy;
} energy_row;

static int furthest_first(const void *a, const void *b) {
    const energy_row *x = a;
    const energy_row *y = b;
    if (x->distance != y->distance) {
        return x->distance > y->distance ? -1 : 1;
    }
    return x->ticket < y->ticket ? -1 : x->ticket > y->ticket ? 1 : 0;
}

static void fill_energy(const evaluation_room *room, energy_row *rows) {
    const ga_part *part = &room->part;
    ga_random random = ga_random_make(room->options->seed, 2, GA_STREAM_BOOTSTRAP);
    for (int32_t group = 0; group < part->grouped.groups; group++) {
        const int64_t first = part->begin[group], end = part->begin[group + 1];
        const double mean = mean_of(room->mean, first, end), target = mean_of(part->target, first, end);
        for (int64_t i = first; i < end; i++) {
            const double advantage = (double)part->target[i] - target;
            rows[i] = (energy_row){.distance = fabs((double)room->mean[i] - mean),
                .ticket = ga_random_u32(&random),
                .energy = advantage * advantage};
        }
    }
}

static double kept_energy(const energy_row *rows, int64_t count, double share) {
    const int64_t kept = (int64_t)llround(share * (double)count);
    double kept_sum = 0.0, sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += rows[i].energy;
        kept_sum += i < kept ? rows[i].energy : 0.0;
    }
    return sum > 0.0 ? kept_sum / sum : NAN;
}

static ga_status judge_energy(const evaluation_room *room, ga_evaluation *evaluation, ga_error *error) {
    energy_row *rows = malloc(((size_t)room->part.count + 1) * sizeof *rows);
    if (rows == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld rows", (long long)room->part.count);
    }
    fill_energy(room, rows);
    qsort(rows, (size_t)room->part.count, sizeof *rows, furthest_first);
    evaluation->kept_energy_quarter = kept_energy(rows, room->part.count, 0.25);
    evaluation->kept_energy_half = kept_energy(rows, room->part.count, 0.5);
    free(rows);
    return GA_OK;
}

static ga_status judge_calibration(
    const evaluation_room *room, const ga_probe_info *info, ga_evaluation *evaluation, ga_error *error) {
    const ga_part *part = &room->part;
    memset(room->other, 0, (size_t)part->count * sizeof *room->other);
    ga_calibration calibration;
    GA_TRY(ga_calibrate(&part->grouped, room->mean, room->other, NULL, &calibration, error));
    evaluation->calibration_slope = calibration.slope;
    const double reach = NORMAL_90 * sqrt(info->residual_variance);
    int64_t inside = 0;
    for (int64_t i = 0; i < part->count; i++) {
        inside += fabs((double)part->target[i] - (double)room->mean[i]) <= reach ? 1 : 0;
    }
    evaluation->coverage90 = (double)inside / (double)part->count;
    return GA_OK;
}

/* Scores of the probe (calibrated) and of its ridge alone. */
static ga_status fill_scores(ga_probe *probe, evaluation_room *room, ga_error *error) {
    const ga_calibration *calibration = &probe->info.calibration;
    const ga_probe_rows rows = {.features = room->dataset->features,
        .rows = room->part.rows,
        .count = room->part.count,
        .sigma = room->dataset->sigma};
    const ga_probe_kind kind = probe->info.kind;
    GA_TRY(ga_probe_score_rows(probe, &rows, room->mean, room->other, error));
    for (int64_t i = 0; i < room->part.count; i++) {
        room->mean[i] = (float)(calibration->intercept + calibration->slope * (double)room->mean[i] +
                                (double)room->other[i]);
    }
    probe->info.kind = kind == GA_PROBE_NETWORK ? GA_PROBE_RIDGE : kind;
    const ga_status status = ga_probe_score_rows(probe, &rows, room->ridge, room->other, error);
    probe->info.kind = kind;
    for (int64_t i = 0; i < room->part.count && status == GA_OK; i++) {
        room->ridge[i] += room->other[i];
    }
    return status;
}

static ga_status judge_all(
    ga_probe *probe, evaluation_room *room, ga_evaluation *evaluation, ga_error *error) {
    GA_TRY(fill_scores(probe, room, error));
    evaluation->rows = room->part.count;
    evaluation->groups = room->part.grouped.groups;
    GA_TRY(judge_probe(room, evaluation, error));
    GA_TRY(judge_baselines(room, evaluation, error));
    GA_TRY(judge_energy(room, evaluation, error));
    return judge_calibration(room, &probe->info, evaluation, error);
}

ga_status ga_evaluate(ga_probe *probe, const ga_dataset *dataset, const ga_evaluate_options *options,
    ga_evaluation *evaluation_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    if (!ga_schema_equal(dataset->schema, &probe->info.schema)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "the dataset's features have another layout than the probe was trained on");
    }
    evaluation_room room = {.dataset = dataset, .options = options};
    GA_TRY(ga_part_all(dataset, options->audited_only, 1.0, &room.part, error));
    const size_t rows = (size_t)room.part.count;
    room.memory = malloc((3 * rows + 1) * sizeof *room.memory);
    ga_status status = GA_OK;
    if (room.memory == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory to evaluate %zu rows", rows);
    } else {
        room.mean = room.memory;
        room.ridge = room.memory + rows;
        room.other = room.memory + 2 * rows;
        ga_evaluation evaluation;
        memset(&evaluation, 0, sizeof evaluation);
        status = judge_all(probe, &room, &evaluation, error);
        if (status == GA_OK) {
            *evaluation_out = evaluation;
        }
    }
    free(room.memory);
    ga_part_destroy(&room.part);
    return status;
}
