#include "probe/train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/parts.h"
#include "probe/train/evaluate.h"
#include "probe/train/fit.h"
#include "probe/train/score.h"

/* Beyond this the ridge's normal equations no longer fit a training that runs beside a job. */
#define POOLED_MAX 4096

/* Rows that the moments of the maps are taken from. */
#define MAP_ROWS_MAX 2048

/* Share of the ridge's penalty that a score among the inputs pays. */
#define SCORE_PENALTY 0.01f

/* Standard deviations at which a map's value is clipped. */
#define MAP_CLIP 6.0f

typedef struct trainer {
    const ga_dataset *dataset;
    const ga_train_options *options;
    ga_train_callbacks callbacks;
    const ga_compute *compute;
    double started_seconds;
    ga_split split;
    ga_probe *probe;
    uint8_t *varies;      /* [pooled_count] */
    float *penalty;       /* [pooled_count] of the ridge, relative */
    float *pooled;        /* [train rows, pooled_count] standardised */
    float *score, *level; /* [train or held rows, whichever is more] */
    float *ridge_copy;    /* [2 · pooled_count] the fitted ridge, while others are tried in its place */
    int32_t scalar_place; /* in a pooled row; -1: none */
    float scalar_sign;
    ga_train_report report;
} trainer;

ga_train_options ga_train_options_default(void) {
    const ga_train_options options = {.network = ga_network_options_default(),
        .seconds_max = 20.0,
        .rounds_max = 60,
        .patience_rounds = 8,
        .batch_rows = 256,
        .learning_rate = 3e-3,
        .weight_decay = 0.05,
        .ema = 0.99,
        .input_noise = 0.7,
        .channel_drop = 0.1,
        .held_share = 0.3,
        .weight_max = 10.0,
        .loss = ga_loss_default(),
        .resamples = 1000};
    return options;
}

static ga_status check_options(const ga_train_options *options, ga_error *error) {
    if (options->model == NULL || strlen(options->model) >= GA_PROBE_MODEL_BYTES || options->steps == NULL ||
        options->step_count < 1 || options->step_count > GA_PROBE_STEPS_MAX || options->steps_total < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a probe is bound to a model name, 1 to %d decision steps and a number of all steps",
            GA_PROBE_STEPS_MAX);
    }
    for (int32_t i = 0; i < options->step_count; i++) {
        if (options->steps[i] < 0 || options->steps[i] > options->steps_total) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "decision step %d of %d", options->steps[i], options->steps_total);
        }
    }
    if (!(options->held_share > 0.0 && options->held_share < 1.0) || !(options->weight_max >= 1.0) ||
        options->rounds_max < 0 || !(options->input_noise >= 0.0) ||
        !(options->channel_drop >= 0.0 && options->channel_drop < 1.0) || !(options->learning_rate >= 0.0) ||
        !(options->weight_decay >= 0.0) || !(options->ema >= 0.0 && options->ema < 1.0) ||
        !(options->oversample_low >= 0.0)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "training options: held share %g must be in (0, 1), weight limit %g at least 1, rounds %d and "
            "rates not negative",
            options->held_share, options->weight_max, options->rounds_max);
    }
    return GA_OK;
}

static ga_status take_memory(trainer *t, ga_error *error) {
    const size_t pooled = (size_t)t->probe->inputs.pooled_count;
    const size_t train = (size_t)t->split.train.count;
    const size_t rows = train > (size_t)t->split.held.count ? train : (size_t)t->split.held.count;
    if (t->probe->inputs.pooled_count > POOLED_MAX) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%zu pooled features are more than the ridge takes (%d); use fewer map channels", pooled,
            POOLED_MAX);
    }
    t->varies = calloc(pooled, 1);
    t->penalty = malloc(pooled * sizeof(float));
    t->pooled = malloc(train * pooled * sizeof(float));
    t->score = malloc(2 * rows * sizeof(float));
    t->ridge_copy = malloc(2 * pooled * sizeof(float));
    if (t->varies == NULL || t->penalty == NULL || t->pooled == NULL || t->score == NULL ||
        t->ridge_copy == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to train on %zu rows of %zu features", train, pooled);
    }
    t->level = t->score + rows;
    return GA_OK;
}

static void release(trainer *t) {
    free(t->varies);
    free(t->penalty);
    free(t->pooled);
    free(t->score);
    free(t->ridge_copy);
    ga_split_destroy(&t->split);
    ga_probe_close(&t->probe);
}

/* ---- inputs ---- */

static ga_status learn_pooled(trainer *t, ga_error *error) {
    const ga_probe *probe = t->probe;
    const int64_t count = probe->inputs.pooled_count;
    const ga_part *train = &t->split.train;
    for (int64_t i = 0; i < train->count; i++) {
        const int64_t row = train->rows[i];
        /* moments are still neutral here: what comes out is not standardised yet */
        if (!ga_probe_prepare_row(probe, t->dataset->features + row * probe->inputs.schema.values_per_row,
                (double)t->dataset->sigma[row], probe->row, t->pooled + i * count, NULL)) {
            return GA_FAIL(error, GA_ERR_DATA, "row %lld has features that are not finite", (long long)row);
        }
    }
    GA_TRY(ga_ridge_moments(
        &train->grouped, t->pooled, &t->callbacks.reduce, &t->probe->pooled_moments, t->varies, error));
    for (int64_t i = 0; i < train->count; i++) {
        ga_moments_apply(&probe->pooled_moments, t->pooled + i * count);
    }
    return GA_OK;
}

/* sums[channel]: Σ (value − center), squares[channel]: Σ (value − center)²; returns rows. */
static double add_map_sums(const trainer *t, double *sums, double *squares) {
    const ga_inputs *inputs = &t->probe->inputs;
    const ga_part *train = &t->split.train;
    const int32_t positions = inputs->height * inputs->width;
    const int64_t stride = train->count / MAP_ROWS_MAX + 1;
    double rows = 0.0;
    for (int64_t i = 0; i < train->count; i += stride, rows += 1.0) {
        const int64_t row = train->rows[i];
        ga_probe_prepare_maps(t->probe, t->dataset->features + row * inputs->schema.values_per_row,
            t->probe->row, t->probe->maps);
        const float *values = t->probe->maps;
        for (int32_t channel = 0; channel < inputs->map_channels; channel++) {
            for (int32_t k = 0; k < positions; k++, values++) {
                sums[channel] += (double)*values;
                squares[channel] += (double)*values * (double)*values;
            }
        }
    }
    return rows;
}

/* Mean and standard deviation of each map channel, in two passes so that an offset costs no digits. */
static ga_status learn_maps(trainer *t, ga_error *error) {
    const int32_t channels = t->probe->inputs.map_channels;
    const double positions = (double)t->probe->inputs.height * (double)t->probe->inputs.width;
    ga_moments *moments = &t->probe->map_moments;
    for (int pass = 0; pass < 2 && channels > 0; pass++) {
        double *sums = calloc(2 * (size_t)channels + 1, sizeof *sums);
        if (sums == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the moments of %d maps", channels);
        }
        sums[2 * channels] = add_map_sums(t, sums, sums + channels);
        const ga_status status = ga_reduce_sum(&t->callbacks.reduce, sums, 2 * (int64_t)channels + 1, error);
        const double count = sums[2 * channels] * positions;
        for (int32_t c = 0; c < channels && status == GA_OK && count > 0.0; c++) {
            const double mean = sums[c] / count;
            if (pass == 0) {
                moments->center[c] = (float)mean;
                continue;
            }
            const double deviation = sqrt(fmax(sums[channels + c] / count - mean * mean, 0.0));
            const bool flat = deviation <= 1e-6 * (1.0 + fabs((double)moments->center[c]));
            moments->scale[c] = flat ? 1.0f : (float)deviation;
            moments->limit[c] = flat ? 0.0f : MAP_CLIP;
        }
        free(sums);
        GA_TRY(status);
    }
    return GA_OK;
}

/* Spread of the rewards inside groups: the unit of the network's answer. */
static ga_status learn_scale(trainer *t, ga_error *error) {
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

/* ---- ridge and scalar ---- */

static void predict_train(trainer *t) {
    const int64_t count = t->probe->inputs.pooled_count;
    for (int64_t i = 0; i < t->split.train.count; i++) {
        ga_ridge_predict(&t->probe->ridge, t->pooled + i * count, &t->score[i], &t->level[i]);
    }
}

/* Inputs that are a score of the final image already; the rest must prove itself beside them. */
static const ga_input score_inputs[] = {GA_INPUT_PREVIEW, GA_INPUT_LOOKAHEAD, GA_INPUT_DISTILLED};
#define SCORE_INPUTS (sizeof score_inputs / sizeof score_inputs[0])

/* With one penalty for all, a hundred features of noise would drown the one score that counts. */
static void set_penalties(trainer *t) {
    for (int32_t i = 0; i < t->probe->inputs.pooled_count; i++) {
        t->penalty[i] = 1.0f;
    }
    for (size_t k = 0; k < SCORE_INPUTS; k++) {
        int32_t values;
        const int32_t first = ga_inputs_place(&t->probe->inputs, score_inputs[k], &values);
        for (int32_t i = 0; i < values; i++) {
            t->penalty[first + i] = SCORE_PENALTY;
        }
    }
}

static ga_status learn_ridge(trainer *t, ga_error *error) {
    ga_ridge *ridge = &t->probe->ridge;
    set_penalties(t);
    GA_TRY(ga_ridge_fit(&t->split.train.grouped, t->pooled, t->varies, t->penalty, t->compute,
        &t->callbacks.reduce, ridge, error));
    memcpy(t->ridge_copy, ridge->within, 2 * (size_t)ridge->count * sizeof(float));
    t->report.lambda_within = ridge->lambda_within;
    t->report.lambda_level = ridge->lambda_level;
    return GA_OK;
}

/* Spearman within training groups of one pooled value. */
static ga_status judge_place(trainer *t, int32_t place, double *spearman_out, ga_error *error) {
    const int64_t count = t->probe->inputs.pooled_count;
    for (int64_t i = 0; i < t->split.train.count; i++) {
        t->score[i] = t->pooled[i * count + place];
    }
    ga_within within;
    GA_TRY(ga_evaluate_part(GA_WITHIN_SPEARMAN, t->dataset, &t->split.train, t->score, t->options->seed, 0,
        &t->callbacks.reduce, &within, error));
    *spearman_out = within.value;
    return GA_OK;
}

/* The scalar among those that are a score already which orders the training groups best. */
static ga_status choose_scalar(trainer *t, ga_error *error) {
    double best = 0.0;
    t->scalar_place = -1;
    t->report.scalar = GA_INPUT_COUNT;
    for (size_t k = 0; k < SCORE_INPUTS; k++) {
        int32_t values;
        const int32_t first = ga_inputs_place(&t->probe->inputs, score_inputs[k], &values);
        for (int32_t i = 0; i < values; i++) {
            double spearman;
            GA_TRY(judge_place(t, first + i, &spearman, error));
            if (fabs(spearman) > best) {
                best = fabs(spearman);
                t->scalar_place = first + i;
                t->scalar_sign = spearman < 0.0 ? -1.0f : 1.0f;
                t->report.scalar = score_inputs[k];
            }
        }
    }
    return GA_OK;
}

/* ---- candidates ---- */

/* Makes the probe answer as the candidate does. */
static void become(trainer *t, ga_probe_kind kind) {
    ga_ridge *ridge = &t->probe->ridge;
    const size_t bytes = 2 * (size_t)ridge->count * sizeof(float);
    t->probe->info.kind = kind;
    if (kind != GA_PROBE_SCALAR) {
        memcpy(ridge->within, t->ridge_copy, bytes);
        return;
    }
    memset(ridge->within, 0, bytes);
    ridge->within[t->scalar_place] = t->scalar_sign;
}

static ga_status score_part(trainer *t, const ga_part *part, ga_error *error) {
    return ga_dataset_score(t->probe, t->dataset, part->rows, part->count, t->score, t->level, error);
}

static ga_status judge_part(
    trainer *t, const ga_part *part, int32_t resamples, ga_within *within_out, ga_error *error) {
    GA_TRY(score_part(t, part, error));
    return ga_evaluate_part(GA_WITHIN_SPEARMAN, t->dataset, part, t->score, t->options->seed, resamples,
        &t->callbacks.reduce, within_out, error);
}

static ga_status judge_candidate(trainer *t, ga_probe_kind kind, ga_error *error) {
    ga_train_candidate *candidate = &t->report.candidates[kind];
    become(t, kind);
    GA_TRY(judge_part(t, &t->split.tune, 0, &candidate->tune, error));
    GA_TRY(judge_part(t, &t->split.report, t->options->resamples, &candidate->report, error));
    return judge_part(t, &t->split.held, t->options->resamples, &candidate->held, error);
}

static ga_status learn_network(trainer *t, ga_error *error) {
    GA_TRY(ga_probe_add_network(t->probe, &t->options->network, error));
    become(t, GA_PROBE_NETWORK);
    predict_train(t);
    const ga_fit fit = {.dataset = t->dataset,
        .train = &t->split.train,
        .tune = &t->split.tune,
        .pooled = t->pooled,
        .train_score = t->score,
        .train_level = t->level,
        .options = t->options,
        .callbacks = &t->callbacks,
        .started_seconds = t->started_seconds};
    ga_fit_report report;
    GA_TRY(ga_fit_network(&fit, t->probe, &report, error));
    t->report.end = report.end;
    t->report.rounds = report.rounds;
    t->report.steps = report.steps;
    ga_fit_report_destroy(&report);
    return GA_OK;
}

/* Scalar and ridge are compared on all held-out groups, which neither has seen; the network only on those
 * that did not stop its training. The simpler one wins a tie. */
static void choose(trainer *t) {
    ga_train_report *report = &t->report;
    const ga_train_candidate *scalar = &report->candidates[GA_PROBE_SCALAR];
    const ga_train_candidate *ridge = &report->candidates[GA_PROBE_RIDGE];
    const ga_train_candidate *network = &report->candidates[GA_PROBE_NETWORK];
    const bool scalar_leads = scalar->held.groups > 0 && scalar->held.value >= ridge->held.value;
    report->chosen = scalar_leads ? GA_PROBE_SCALAR : GA_PROBE_RIDGE;
    const ga_train_candidate *simple = scalar_leads ? scalar : ridge;
    const bool network_leads = network->report.groups > 0 && network->report.value > simple->report.value &&
                               network->report.value > ridge->report.value;
    if (network_leads) {
        report->chosen = GA_PROBE_NETWORK;
    }
    snprintf(report->reason, sizeof report->reason,
        "%s: Spearman within held-out groups %.3f; scalar %.3f, ridge %.3f, network %.3f (0 where there is "
        "none)",
        ga_probe_kind_name(report->chosen), report->candidates[report->chosen].report.value,
        scalar->report.value, ridge->report.value, network->report.value);
}

static ga_status learn_candidates(trainer *t, ga_error *error) {
    GA_TRY(learn_ridge(t, error));
    GA_TRY(judge_candidate(t, GA_PROBE_RIDGE, error));
    GA_TRY(choose_scalar(t, error));
    if (t->scalar_place >= 0) {
        GA_TRY(judge_candidate(t, GA_PROBE_SCALAR, error));
    }
    t->report.end = GA_TRAIN_END_NONE;
    if (t->options->network.architecture != GA_NETWORK_NONE) {
        GA_TRY(learn_network(t, error));
        GA_TRY(judge_candidate(t, GA_PROBE_NETWORK, error));
    }
    choose(t);
    become(t, t->report.chosen);
    return GA_OK;
}

/* ---- what the probe says of itself ---- */

/* Smallest and largest σ over all ranks: each fills its own place of a sum. */
static ga_status find_sigma_range(trainer *t, double *low_out, double *high_out, ga_error *error) {
    const ga_reduce *reduce = &t->callbacks.reduce;
    const int32_t ranks = reduce->ranks > 1 ? reduce->ranks : 1;
    double low = INFINITY, high = -INFINITY;
    const ga_part *parts[2] = {&t->split.train, &t->split.held};
    for (int p = 0; p < 2; p++) {
        for (int64_t i = 0; i < parts[p]->count; i++) {
            const double sigma = (double)t->dataset->sigma[parts[p]->rows[i]];
            low = fmin(low, sigma);
            high = fmax(high, sigma);
        }
    }
    double *ends = calloc(2 * (size_t)ranks, sizeof *ends);
    if (ends == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the noise levels of %d ranks", ranks);
    }
    const int32_t rank = ranks > 1 ? reduce->rank : 0;
    ends[2 * rank] = low;
    ends[2 * rank + 1] = high;
    const ga_status status = ga_reduce_sum(reduce, ends, 2 * (int64_t)ranks, error);
    *low_out = INFINITY;
    *high_out = -INFINITY;
    for (int32_t i = 0; i < ranks; i++) {
        *low_out = fmin(*low_out, ends[2 * i]);
        *high_out = fmax(*high_out, ends[2 * i + 1]);
    }
    free(ends);
    return status;
}

static ga_status fill_counts(trainer *t, ga_probe_info *info, ga_error *error) {
    t->report.train_rows = t->split.train.count;
    t->report.train_groups = t->split.train.grouped.groups;
    t->report.held_rows = t->split.held.count;
    t->report.held_groups = t->split.held.grouped.groups;
    double counts[4] = {(double)t->report.train_rows, (double)t->report.train_groups,
        (double)t->report.held_rows, (double)t->report.held_groups};
    GA_TRY(ga_reduce_sum(&t->callbacks.reduce, counts, 4, error));
    info->trained_rows = (int64_t)counts[0];
    info->trained_groups = (int64_t)counts[1];
    info->held_rows = (int64_t)counts[2];
    info->held_groups = (int64_t)counts[3];
    return GA_OK;
}

static ga_status fill_info(trainer *t, ga_error *error) {
    const ga_train_options *options = t->options;
    ga_probe_info *info = &t->probe->info;
    strcpy(info->model, options->model);
    info->version = options->version;
    info->step_count = options->step_count;
    memcpy(info->steps, options->steps, (size_t)options->step_count * sizeof info->steps[0]);
    info->steps_total = options->steps_total;
    const ga_within *within = &t->report.candidates[t->report.chosen].report;
    info->spearman = within->value;
    info->spearman_low = within->low;
    info->spearman_high = within->high;
    GA_TRY(fill_counts(t, info, error));
    GA_TRY(find_sigma_range(t, &info->sigma_low, &info->sigma_high, error));
    if (info->kind != GA_PROBE_NETWORK) {
        ga_probe_remove_network(t->probe);
    }
    return ga_fit_calibrate(t->dataset, &t->split.held, &t->callbacks.reduce, t->probe, error);
}

static ga_status train_all(trainer *t, ga_error *error) {
    GA_TRY(ga_dataset_split(t->dataset, t->options->held_share, t->options->weight_max, &t->split, error));
    GA_TRY(ga_probe_create(t->dataset->schema, t->compute, &t->probe, error));
    GA_TRY(take_memory(t, error));
    GA_TRY(learn_scale(t, error));
    GA_TRY(learn_pooled(t, error));
    GA_TRY(learn_maps(t, error));
    GA_TRY(learn_candidates(t, error));
    return fill_info(t, error);
}

ga_status ga_train(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, ga_probe **probe_out,
    ga_train_report *report_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    GA_TRY(check_options(options, error));
    const ga_clock *clock = options->clock != NULL ? options->clock : ga_clock_system();
    trainer t;
    memset(&t, 0, sizeof t);
    t.dataset = dataset;
    t.options = options;
    t.compute = compute;
    t.started_seconds = ga_clock_now(clock);
    if (callbacks != NULL) {
        t.callbacks = *callbacks;
    }
    const ga_status status = train_all(&t, error);
    if (status == GA_OK) {
        t.report.seconds = ga_clock_now(clock) - t.started_seconds;
        *report_out = t.report;
        *probe_out = t.probe;
        t.probe = NULL;
    }
    release(&t);
    return status;
}
