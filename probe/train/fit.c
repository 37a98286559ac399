#include "probe/train/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/random.h"
#include "probe/train/evaluate.h"

#define ROUND_ROWS_MAX 2048
#define WARM_UP_STEPS 20
#define AVERAGE_DECAY 0.98
#define GRADIENT_NORM_MAX 1.0
#define BATCH_ROWS_MAX 4096

/* A group, or a part of one that has more rows than a batch. */
typedef struct group_piece {
    int64_t first; /* row of the part */
    int32_t rows;
} group_piece;

/* One batch as the network takes it; one block of memory, at maps. */
typedef struct fit_batch {
    int32_t rows, groups;
    float *maps, *scalars, *log_sigma, *base, *target, *weight, *score, *grad;
    int32_t *begin;
} fit_batch;

typedef struct fitter {
    const ga_fit *fit;
    ga_probe *probe;
    ga_network_pass *pass;
    int64_t parameter_count;
    /* one block of memory, at parameters */
    float *parameters, *gradients, *first_moment, *second_moment, *average, *best;
    double *sums; /* [parameter_count + 2] gradients and flags on their way over the ranks */
    fit_batch batch;
    float *row; /* scratch of one row's values */
    float *tune_score, *tune_level;
    group_piece *pieces;
    int32_t *order;
    int32_t piece_count, next;
    uint64_t epoch;
    ga_random noise;
    int64_t step;
    double bias; /* mean offset of the targets, in units of the scale */
    double loss_sum;
    double best_spearman;
    bool out_of_time, told_to_stop;
} fitter;

/* ---- room ---- */

static int32_t clamp_batch_rows(int32_t rows) {
    return rows < 8 ? 8 : rows > BATCH_ROWS_MAX ? BATCH_ROWS_MAX : rows;
}

static int32_t count_pieces(const ga_part *part, int32_t batch_rows, group_piece *pieces) {
    int32_t count = 0;
    for (int32_t group = 0; group < part->grouped.groups; group++) {
        for (int64_t row = part->begin[group]; row < part->begin[group + 1]; row += batch_rows) {
            const int64_t left = part->begin[group + 1] - row;
            if (pieces != NULL) {
                pieces[count] =
                    (group_piece){.first = row, .rows = left < batch_rows ? (int32_t)left : batch_rows};
            }
            count++;
        }
    }
    return count;
}

static bool create_pieces(fitter *f, int32_t batch_rows) {
    f->piece_count = count_pieces(f->fit->train, batch_rows, NULL);
    f->pieces = malloc(((size_t)f->piece_count + 1) * sizeof *f->pieces);
    f->order = malloc(((size_t)f->piece_count + 1) * sizeof *f->order);
    if (f->pieces == NULL || f->order == NULL) {
        return false;
    }
    (void)count_pieces(f->fit->train, batch_rows, f->pieces);
    f->next = f->piece_count; /* the first batch shuffles */
    return true;
}

static bool create_batch(fitter *f, int32_t batch_rows) {
    const ga_inputs *inputs = &f->probe->inputs;
    const size_t rows = (size_t)batch_rows;
    const size_t map = (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    const size_t scalars = (size_t)inputs->scalar_count;
    fit_batch *batch = &f->batch;
    batch->maps = malloc((rows * (map + scalars + 6) + 1) * sizeof(float));
    batch->begin = malloc((rows + 1) * sizeof *batch->begin);
    if (batch->maps == NULL || batch->begin == NULL) {
        return false;
    }
    batch->scalars = batch->maps + rows * map;
    batch->log_sigma = batch->scalars + rows * scalars;
    batch->base = batch->log_sigma + rows;
    batch->target = batch->base + rows;
    batch->weight = batch->target + rows;
    batch->score = batch->weight + rows;
    batch->grad = batch->score + rows;
    return true;
}

static bool create_arrays(fitter *f) {
    const size_t count = (size_t)f->parameter_count;
    const size_t tune = (size_t)f->fit->tune->count;
    f->parameters = calloc(count * 6, sizeof(float));
    f->sums = malloc((count + 2) * sizeof(double));
    f->row = malloc(((size_t)f->probe->inputs.schema.values_per_row + 2 * tune) * sizeof(float));
    if (f->parameters == NULL || f->sums == NULL || f->row == NULL) {
        return false;
    }
    f->gradients = f->parameters + count;
    f->first_moment = f->parameters + 2 * count;
    f->second_moment = f->parameters + 3 * count;
    f->average = f->parameters + 4 * count;
    f->best = f->parameters + 5 * count;
    f->tune_score = f->row + f->probe->inputs.schema.values_per_row;
    f->tune_level = f->tune_score + tune;
    return true;
}

static void fitter_destroy(fitter *f) {
    ga_network_pass_destroy(&f->pass);
    free(f->parameters);
    free(f->sums);
    free(f->row);
    free(f->pieces);
    free(f->order);
    free(f->batch.maps);
    free(f->batch.begin);
}

static ga_status fitter_create(const ga_fit *fit, ga_probe *probe, fitter *f, ga_error *error) {
    memset(f, 0, sizeof *f);
    f->fit = fit;
    f->probe = probe;
    f->parameter_count = probe->network.parameter_count;
    const int32_t batch_rows = clamp_batch_rows(fit->options->batch_rows);
    if (!create_arrays(f) || !create_batch(f, batch_rows) || !create_pieces(f, batch_rows)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to train a network of %lld weights",
            (long long)f->parameter_count);
    }
    GA_TRY(ga_network_pass_create(&probe->network, probe->compute, batch_rows, true, &f->pass, error));
    const uint64_t rank = (uint64_t)fit->callbacks->reduce.rank;
    f->noise = ga_random_make(fit->options->seed, 1 + rank, GA_STREAM_WEIGHTS); /* batch 0 draws the start */
    ga_network_initialise(&probe->network, fit->options->seed, f->parameters);
    memcpy(f->average, f->parameters, (size_t)f->parameter_count * sizeof(float));
    memcpy(f->best, f->parameters, (size_t)f->parameter_count * sizeof(float));
    return GA_OK;
}

/* ---- one step ---- */

static int32_t next_piece(fitter *f) {
    if (f->next == f->piece_count) {
        const ga_train_callbacks *callbacks = f->fit->callbacks;
        const uint64_t ranks = callbacks->reduce.ranks > 1 ? (uint64_t)callbacks->reduce.ranks : 1;
        ga_random random = ga_random_make(
            f->fit->options->seed, f->epoch * ranks + (uint64_t)callbacks->reduce.rank, GA_STREAM_TRAIN);
        for (int32_t i = 0; i < f->piece_count; i++) {
            f->order[i] = i;
        }
        ga_random_shuffle(&random, f->order, (uint32_t)f->piece_count);
        f->next = 0;
        f->epoch++;
    }
    return f->order[f->next];
}

/* Uniform noise of standard deviation `deviation`: as good a guard as normal noise, and quick. */
static void add_noise(ga_random *random, double deviation, int64_t count, float *values) {
    const float width = (float)(deviation * sqrt(12.0) * 0x1p-32);
    const float half = (float)(deviation * sqrt(3.0));
    for (int64_t i = 0; i < count && deviation > 0.0; i++) {
        values[i] += width * (float)ga_random_u32(random) - half;
    }
}

/* Makes a row a little different each time it is seen: what can't be learned by heart must be understood. */
static void disturb_row(fitter *f, float *maps, float *scalars) {
    const ga_inputs *inputs = &f->probe->inputs;
    const ga_train_options *options = f->fit->options;
    const int64_t positions = (int64_t)inputs->height * inputs->width;
    for (int32_t channel = 0; channel < inputs->map_channels; channel++, maps += positions) {
        if (ga_random_uniform(&f->noise) < options->channel_drop) {
            memset(maps, 0, (size_t)positions * sizeof *maps);
        } else {
            add_noise(&f->noise, options->input_noise, positions, maps);
        }
    }
    add_noise(&f->noise, options->input_noise, inputs->scalar_count, scalars);
}

/* Row `from` of the part into place `to` of the batch. */
static void take_row(fitter *f, int64_t from, int32_t to) {
    const ga_fit *fit = f->fit;
    const ga_inputs *inputs = &f->probe->inputs;
    fit_batch *batch = &f->batch;
    const int64_t row = fit->train->rows[from];
    const size_t map = (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    float *maps = batch->maps + (size_t)to * map;
    float *scalars = batch->scalars + (size_t)to * (size_t)inputs->scalar_count;
    if (map > 0) {
        ga_probe_prepare_maps(
            f->probe, fit->dataset->features + row * inputs->schema.values_per_row, f->row, maps);
    }
    ga_inputs_scalars(inputs, fit->pooled + from * inputs->pooled_count, scalars);
    disturb_row(f, maps, scalars);
    const double scale = f->probe->reward_scale;
    batch->log_sigma[to] = ga_inputs_log_sigma((double)fit->dataset->sigma[row]);
    batch->base[to] = (float)((double)fit->train_score[from] / scale);
    batch->target[to] = (float)(((double)fit->train->target[from] - (double)fit->train_level[from]) / scale);
    batch->weight[to] = fit->train->weight[from];
}

/* Whole pieces until the next would not fit. */
static void fill_batch(fitter *f) {
    fit_batch *batch = &f->batch;
    const int32_t rows_max = clamp_batch_rows(f->fit->options->batch_rows);
    batch->rows = 0;
    batch->groups = 0;
    batch->begin[0] = 0;
    while (f->piece_count > 0 && batch->groups < f->piece_count) {
        const group_piece *piece = &f->pieces[next_piece(f)];
        if (batch->rows + piece->rows > rows_max) {
            return;
        }
        for (int32_t i = 0; i < piece->rows; i++) {
            take_row(f, piece->first + i, batch->rows + i);
        }
        batch->rows += piece->rows;
        batch->begin[++batch->groups] = batch->rows;
        f->next++;
    }
}

/* Loss and gradient of the batch; the network's answer stands on the ridge's score. */
static ga_status batch_gradient(fitter *f, ga_error *error) {
    fit_batch *batch = &f->batch;
    const ga_network_input input = {
        .rows = batch->rows, .maps = batch->maps, .scalars = batch->scalars, .log_sigma = batch->log_sigma};
    GA_TRY(ga_network_forward(f->pass, f->parameters, &input, batch->score, error));
    for (int32_t i = 0; i < batch->rows; i++) {
        batch->score[i] += batch->base[i];
    }
    const ga_loss_batch rows = {.groups = batch->groups,
        .begin = batch->begin,
        .target = batch->target,
        .weight = batch->weight,
        .bias = f->bias};
    f->loss_sum += ga_loss_evaluate(&f->fit->options->loss, &rows, batch->score, batch->grad);
    memset(f->gradients, 0, (size_t)f->parameter_count * sizeof(float));
    return ga_network_backward(f->pass, f->parameters, &input, batch->grad, f->gradients, error);
}

static const ga_clock *clock_of(const ga_train_options *options) {
    return options->clock != NULL ? options->clock : ga_clock_system();
}

/* Mean gradient over the ranks, and whether any of them has to end. */
static ga_status reduce_gradient(fitter *f, ga_error *error) {
    const ga_train_callbacks *callbacks = f->fit->callbacks;
    const ga_train_options *options = f->fit->options;
    const int64_t count = f->parameter_count;
    const double seconds = ga_clock_now(clock_of(options)) - f->fit->started_seconds;
    for (int64_t i = 0; i < count; i++) {
        f->sums[i] = (double)f->gradients[i];
    }
    f->sums[count] = options->seconds_max > 0.0 && seconds >= options->seconds_max ? 1.0 : 0.0;
    f->sums[count + 1] = callbacks->stop != NULL && callbacks->stop(callbacks->user) ? 1.0 : 0.0;
    GA_TRY(ga_reduce_sum(&callbacks->reduce, f->sums, count + 2, error));
    f->out_of_time = f->sums[count] > 0.0;
    f->told_to_stop = f->sums[count + 1] > 0.0;
    const double ranks = callbacks->reduce.ranks > 1 ? (double)callbacks->reduce.ranks : 1.0;
    double squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        f->sums[i] /= ranks;
        squares += f->sums[i] * f->sums[i];
    }
    const double norm = sqrt(squares);
    const double factor = norm > GRADIENT_NORM_MAX ? GRADIENT_NORM_MAX / norm : 1.0;
    for (int64_t i = 0; i < count; i++) {
        /* a gradient that is not finite moves nothing: one bad batch must not spoil what was learned */
        f->gradients[i] = isfinite(norm) ? (float)(f->sums[i] * factor) : 0.0f;
    }
    return GA_OK;
}

static ga_status train_step(fitter *f, ga_error *error) {
    const ga_train_options *options = f->fit->options;
    fill_batch(f);
    GA_TRY(batch_gradient(f, error));
    GA_TRY(reduce_gradient(f, error));
    f->step++;
    const double warm = f->step < WARM_UP_STEPS ? (double)f->step / WARM_UP_STEPS : 1.0;
    const ga_adamw adamw = {.step = f->step,
        .learning_rate = (float)(options->learning_rate * warm),
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .epsilon = 1e-8f,
        .weight_decay = (float)options->weight_decay};
    GA_TRY(f->probe->compute->adamw(
        &adamw, f->parameter_count, f->gradients, f->parameters, f->first_moment, f->second_moment, error));
    const double young = (1.0 + (double)f->step) / (10.0 + (double)f->step);
    const float decay = (float)(young < AVERAGE_DECAY ? young : AVERAGE_DECAY);
    for (int64_t i = 0; i < f->parameter_count; i++) {
        f->average[i] = decay * f->average[i] + (1.0f - decay) * f->parameters[i];
    }
    return GA_OK;
}

/* ---- rounds ---- */

/* Spearman within the tuning groups of the averaged weights. */
static ga_status judge(fitter *f, double *spearman_out, ga_error *error) {
    const ga_fit *fit = f->fit;
    memcpy(f->probe->parameters, f->average, (size_t)f->parameter_count * sizeof(float));
    const ga_probe_rows rows = {.features = fit->dataset->features,
        .rows = fit->tune->rows,
        .count = fit->tune->count,
        .sigma = fit->dataset->sigma};
    GA_TRY(ga_probe_score_rows(f->probe, &rows, f->tune_score, f->tune_level, error));
    ga_within within;
    GA_TRY(ga_evaluate_part(GA_WITHIN_SPEARMAN, fit->dataset, fit->tune, f->tune_score, fit->options->seed, 0,
        &fit->callbacks->reduce, &within, error));
    *spearman_out = within.value;
    return GA_OK;
}

/* Steps of a round: the same on all ranks. */
static ga_status count_steps(fitter *f, int64_t *steps_out, ga_error *error) {
    const ga_reduce *reduce = &f->fit->callbacks->reduce;
    double rows = (double)f->fit->train->count;
    GA_TRY(ga_reduce_sum(reduce, &rows, 1, error));
    rows /= reduce->ranks > 1 ? (double)reduce->ranks : 1.0;
    rows = rows < ROUND_ROWS_MAX ? rows : ROUND_ROWS_MAX;
    *steps_out = (int64_t)ceil(rows / (double)clamp_batch_rows(f->fit->options->batch_rows));
    *steps_out = *steps_out < 1 ? 1 : *steps_out;
    return GA_OK;
}

/* Mean of target − score over all training rows: what the raw term takes as the level. */
static ga_status find_bias(fitter *f, ga_error *error) {
    const ga_fit *fit = f->fit;
    double sums[2] = {0.0, 0.0};
    for (int64_t i = 0; i < fit->train->count; i++) {
        const double w = (double)fit->train->weight[i];
        sums[0] +=
            w * ((double)fit->train->target[i] - (double)fit->train_level[i] - (double)fit->train_score[i]);
        sums[1] += w;
    }
    GA_TRY(ga_reduce_sum(&fit->callbacks->reduce, sums, 2, error));
    f->bias = sums[1] > 0.0 ? sums[0] / sums[1] / f->probe->reward_scale : 0.0;
    return GA_OK;
}

static void tell_progress(const fitter *f, int32_t round, int64_t steps, double spearman) {
    const ga_train_callbacks *callbacks = f->fit->callbacks;
    if (callbacks->progress == NULL) {
        return;
    }
    const ga_train_progress progress = {.round = round,
        .rounds_max = f->fit->options->rounds_max,
        .seconds = ga_clock_now(clock_of(f->fit->options)) - f->fit->started_seconds,
        .loss = f->loss_sum / (double)steps,
        .spearman = spearman,
        .spearman_best = f->best_spearman};
    callbacks->progress(callbacks->user, &progress);
}

/* One round: steps until its rows or the time are used up, then the judgement. */
static ga_status train_round(fitter *f, int32_t round, int64_t steps, bool *better_out, ga_error *error) {
    double spearman;
    int64_t done = 0;
    f->loss_sum = 0.0;
    while (done < steps && !f->out_of_time && !f->told_to_stop) {
        GA_TRY(train_step(f, error));
        done++;
    }
    GA_TRY(judge(f, &spearman, error));
    *better_out = spearman > f->best_spearman;
    if (*better_out) {
        f->best_spearman = spearman;
        memcpy(f->best, f->average, (size_t)f->parameter_count * sizeof(float));
    }
    tell_progress(f, round, done, spearman);
    return GA_OK;
}

static ga_status train_rounds(fitter *f, ga_train_report *report, ga_error *error) {
    const ga_train_options *options = f->fit->options;
    int64_t steps;
    GA_TRY(count_steps(f, &steps, error));
    GA_TRY(find_bias(f, error));
    GA_TRY(judge(f, &f->best_spearman, error)); /* untrained: the ridge */
    int32_t without_gain = 0;
    report->end = GA_TRAIN_END_ROUNDS;
    for (int32_t round = 1; round <= options->rounds_max; round++) {
        bool better;
        GA_TRY(train_round(f, round, steps, &better, error));
        without_gain = better ? 0 : without_gain + 1;
        report->rounds = round;
        report->steps = f->step;
        if (f->out_of_time || f->told_to_stop) {
            report->end = f->told_to_stop ? GA_TRAIN_END_STOP : GA_TRAIN_END_SECONDS;
            break;
        }
        if (without_gain >= options->patience_rounds) {
            report->end = GA_TRAIN_END_PATIENCE;
            break;
        }
    }
    memcpy(f->probe->parameters, f->best, (size_t)f->parameter_count * sizeof(float));
    return GA_OK;
}

ga_status ga_fit_network(const ga_fit *fit, ga_probe *probe, ga_train_report *report, ga_error *error) {
    fitter f;
    ga_status status = fitter_create(fit, probe, &f, error);
    if (status == GA_OK) {
        status = train_rounds(&f, report, error);
    }
    fitter_destroy(&f);
    return status;
}
