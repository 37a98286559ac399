/* Before anything is fitted: memory, units, and the moments that standardise the inputs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probe/train/trainer.h"

/* Beyond this the ridge's normal equations no longer fit a training that runs beside a job. */
#define POOLED_MAX 4096

/* Bytes of pooled rows that are held, by all processes together. Sixty thousand rows of a thousand values say
 * all that a ridge can learn from more. */
#define POOLED_BYTES ((int64_t)256 << 20)

/* Rows that the moments of the maps are taken from. */
#define MAP_ROWS_MAX 2048

/* Standard deviations at which a map's value is clipped. */
#define MAP_CLIP 6.0f

ga_status ga_trainer_each(ga_trainer *t, const ga_dataset *dataset, const ga_part *part,
    ga_trainer_visit visit, void *user, ga_error *error) {
    const int64_t values = t->dataset->schema->values_per_row;
    for (int64_t first = 0; first < part->count; first += GA_TRAINER_BLOCK_ROWS) {
        const int64_t left = part->count - first;
        const int64_t rows = left < GA_TRAINER_BLOCK_ROWS ? left : GA_TRAINER_BLOCK_ROWS;
        GA_TRY(ga_dataset_features(dataset, part->rows + first, rows, t->features, error));
        for (int64_t i = 0; i < rows; i++) {
            visit(t, first + i, t->features + i * values, user);
        }
    }
    return GA_OK;
}

static ga_status take_memory(ga_trainer *t, ga_error *error) {
    const size_t pooled = (size_t)t->probe->inputs.pooled_count;
    const size_t train = (size_t)t->split.train.count, held = (size_t)t->split.held.count;
    const size_t rows = (train > held ? train : held) + 1;
    if (t->probe->inputs.pooled_count > POOLED_MAX) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%zu pooled features are more than the ridge takes (%d); use fewer map channels", pooled,
            POOLED_MAX);
    }
    const int64_t learn_rows = POOLED_BYTES / (int64_t)(pooled * sizeof(float));
    GA_TRY(ga_part_thin(&t->split.train, learn_rows, &t->learn, error));
    t->features =
        malloc(GA_TRAINER_BLOCK_ROWS * (size_t)t->dataset->schema->values_per_row * sizeof *t->features);
    t->varies = calloc(pooled, 1);
    t->penalty = malloc(pooled * sizeof(float));
    t->pooled = malloc(((size_t)t->learn.count + 1) * pooled * sizeof(float));
    t->score = malloc(2 * rows * sizeof(float));
    t->ridge_copy = malloc(2 * pooled * sizeof(float));
    if (t->features == NULL || t->varies == NULL || t->penalty == NULL || t->pooled == NULL ||
        t->score == NULL || t->ridge_copy == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to train on %zu rows of %zu features", train, pooled);
    }
    t->level = t->score + rows;
    return GA_OK;
}

/* ---- inputs ---- */

/* moments are still neutral here: what comes out is not standardised yet */
static void pool_row(ga_trainer *t, int64_t place, const ga_half *features, void *user) {
    int64_t *bad = user;
    const double sigma = (double)t->dataset->sigma[t->learn.rows[place]];
    float *pooled = t->pooled + place * t->probe->inputs.pooled_count;
    if (!ga_probe_prepare_row(t->probe, features, sigma, t->probe->row, pooled, NULL)) {
        *bad = t->learn.rows[place];
    }
}

static ga_status learn_pooled(ga_trainer *t, ga_error *error) {
    int64_t bad = -1;
    GA_TRY(ga_trainer_each(t, t->dataset, &t->learn, pool_row, &bad, error));
    if (bad >= 0) {
        return GA_FAIL(error, GA_ERR_DATA, "row %lld has features that are not finite", (long long)bad);
    }
    GA_TRY(ga_ridge_moments(
        &t->learn.grouped, t->pooled, &t->callbacks.reduce, &t->probe->pooled_moments, t->varies, error));
    for (int64_t i = 0; i < t->learn.count; i++) {
        ga_moments_apply(&t->probe->pooled_moments, t->pooled + i * t->probe->inputs.pooled_count);
    }
    return GA_OK;
}

/* [channels] Σ (value − center), [channels] Σ (value − center)², rows */
static void add_map(ga_trainer *t, int64_t place, const ga_half *features, void *user) {
    (void)place;
    double *sums = user;
    const ga_inputs *inputs = &t->probe->inputs;
    const int32_t channels = inputs->map_channels, positions = inputs->height * inputs->width;
    const float *values = t->probe->maps;
    ga_probe_prepare_maps(t->probe, features, t->probe->row, t->probe->maps);
    for (int32_t channel = 0; channel < channels; channel++) {
        for (int32_t k = 0; k < positions; k++, values++) {
            sums[channel] += (double)*values;
            sums[channels + channel] += (double)*values * (double)*values;
        }
    }
    sums[2 * channels] += 1.0;
}

static void set_map_moment(ga_moments *moments, int32_t channel, double mean, double square) {
    const double deviation = sqrt(fmax(square - mean * mean, 0.0));
    const bool flat = deviation <= 1e-6 * (1.0 + fabs((double)moments->center[channel]));
    moments->scale[channel] = flat ? 1.0f : (float)deviation;
    moments->limit[channel] = flat ? 0.0f : MAP_CLIP;
}

/* Mean and standard deviation of each map channel, in two passes so that an offset costs no digits. */
static ga_status learn_maps(ga_trainer *t, const ga_part *rows, ga_error *error) {
    const int32_t channels = t->probe->inputs.map_channels;
    const double positions = (double)t->probe->inputs.height * (double)t->probe->inputs.width;
    ga_moments *moments = &t->probe->map_moments;
    for (int pass = 0; pass < 2 && channels > 0; pass++) {
        double *sums = calloc(2 * (size_t)channels + 1, sizeof *sums);
        if (sums == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the moments of %d maps", channels);
        }
        ga_status status = ga_trainer_each(t, t->dataset, rows, add_map, sums, error);
        if (status == GA_OK) {
            status = ga_reduce_sum(&t->callbacks.reduce, sums, 2 * (int64_t)channels + 1, error);
        }
        const double count = sums[2 * channels] * positions;
        for (int32_t c = 0; c < channels && status == GA_OK && count > 0.0; c++) {
            if (pass == 0) {
                moments->center[c] = (float)(sums[c] / count);
            } else {
                set_map_moment(moments, c, sums[c] / count, sums[channels + c] / count);
            }
        }
        free(sums);
        GA_TRY(status);
    }
    return GA_OK;
}

static ga_status learn_map_moments(ga_trainer *t, ga_error *error) {
    ga_part rows;
    GA_TRY(ga_part_thin(&t->split.train, MAP_ROWS_MAX, &rows, error));
    const ga_status status = learn_maps(t, &rows, error);
    ga_part_destroy(&rows);
    return status;
}

/* Spread of the rewards inside groups: the unit of the network's answer. */
static ga_status learn_scale(ga_trainer *t, ga_error *error) {
    const ga_part *train = &t->split.train;
    double sums[2] = {0.0, 0.0};
    for (int32_t group = 0; group < train->grouped.groups; group++) {
        double mean = 0.0, weight = 0.0;
        for (int64_t i = train->begin[group]; i < train->begin[group + 1]; i++) {
            mean += (double)train->weight[i] * (double)train->target[i];
            weight += (double)train->weight[i];
        }
        for (int64_t i = train->begin[group]; i < train->begin[group + 1]; i++) {
            const double deviation = (double)train->target[i] - mean / weight;
            sums[0] += (double)train->weight[i] * deviation * deviation;
        }
        sums[1] += weight;
    }
    GA_TRY(ga_reduce_sum(&t->callbacks.reduce, sums, 2, error));
    t->probe->reward_scale = sums[1] > 0.0 ? sqrt(sums[0] / sums[1]) : 0.0;
    if (!(t->probe->reward_scale > 0.0)) {
        return GA_FAIL(
            error, GA_ERR_DATA, "the rewards don't differ inside any training group: nothing can be learned");
    }
    return GA_OK;
}

ga_status ga_trainer_prepare(ga_trainer *t, ga_error *error) {
    GA_TRY(take_memory(t, error));
    GA_TRY(learn_scale(t, error));
    GA_TRY(learn_pooled(t, error));
    return learn_map_moments(t, error);
}
