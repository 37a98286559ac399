#include "probe/train/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "probe/train/evaluate.h"
#include "probe/train/fit_batch.h"
#include "probe/train/score.h"

#define ROUND_ROWS_MAX 8192
#define WARM_UP_STEPS 20
#define GRADIENT_NORM_MAX 1.0

/* Behind the gradients in a sum over processes: loss, weight, out of time, told to stop. */
#define EXTRA_SUMS 4

typedef struct fitter {
    const ga_fit *fit;
    ga_probe *probe;
    const ga_compute *compute;
    ga_fit_source source;
    ga_network_pass *pass;
    int64_t parameter_count;
    /* on the device, one block of memory at parameters */
    float *parameters, *gradients, *first_moment, *second_moment, *average, *best;
    double *sums;    /* [parameter_count + EXTRA_SUMS] */
    float *transfer; /* [parameter_count] between host and device */
    float *saved;    /* [5, parameter_count] a state in host memory; NULL: nobody asks for one */
    float *tune_score, *tune_level;
    ga_train_progress *curve;
    int32_t curve_count, round, round_steps, without_gain;
    int64_t step;
    double round_loss, best_spearman;
    bool out_of_time, told_to_stop;
} fitter;

/* ---- room ---- */

static bool create_host_arrays(fitter *f) {
    const size_t count = (size_t)f->parameter_count, tune = (size_t)f->fit->tune->count;
    f->sums = malloc((count + EXTRA_SUMS) * sizeof *f->sums);
    f->transfer = malloc(count * sizeof *f->transfer);
    f->tune_score = malloc((2 * tune + 1) * sizeof *f->tune_score);
    f->curve = malloc(GA_FIT_ROUNDS_MAX * sizeof *f->curve);
    if (f->sums == NULL || f->transfer == NULL || f->tune_score == NULL || f->curve == NULL) {
        return false;
    }
    f->tune_level = f->tune_score + tune;
    if (f->fit->checkpoint != NULL) {
        f->saved = malloc(5 * count * sizeof *f->saved);
    }
    return f->fit->checkpoint == NULL || f->saved != NULL;
}

static void fitter_destroy(fitter *f) {
    ga_network_pass_destroy(&f->pass);
    ga_fit_source_destroy(&f->source);
    if (f->parameters != NULL) {
        f->compute->release(f->parameters);
    }
    free(f->sums);
    free(f->transfer);
    free(f->saved);
    free(f->tune_score);
    free(f->curve);
}

static ga_status copy_device(fitter *f, const float *from, float *to, ga_error *error) {
    const int32_t count = (int32_t)f->parameter_count; /* at most GA_NETWORK_PARAMETERS_MAX */
    return f->compute->copy_columns(1, count, count, from, count, to, error);
}

/* ---- states ---- */

static uint64_t mix(uint64_t digest, uint64_t value) {
    digest = (digest ^ value) * 0xbf58476d1ce4e5b9u;
    return digest ^ (digest >> 29);
}

static uint64_t mix_real(uint64_t digest, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return mix(digest, bits);
}

/* Whatever a step depends on; limits of time and rounds may change. */
static uint64_t fingerprint_of(const fitter *f) {
    const ga_train_options *options = f->fit->options;
    const ga_part *part = f->fit->train;
    const double reals[] = {options->learning_rate, options->weight_decay, options->input_noise,
        options->channel_drop, options->weight_max, options->ema, options->oversample_low,
        options->loss.centred, options->loss.ranked, options->loss.raw, options->loss.variance,
        options->loss.variance_beta, options->loss.variance_floor, options->loss.others};
    uint64_t digest = mix(options->seed, f->probe->info.schema.id);
    for (int32_t i = 0; i < f->probe->network.tensor_count; i++) {
        digest = mix(digest, (uint64_t)f->probe->network.tensors[i].count);
    }
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        digest = mix_real(digest, reals[i]);
    }
    digest = mix(digest, (uint64_t)f->source.batch_rows);
    digest = mix(digest, (uint64_t)f->source.room_rows);
    for (int32_t i = 0; i < part->all_groups; i++) {
        digest = mix(digest, part->all_key[i] + (uint64_t)part->all_rows[i]);
    }
    return digest;
}

typedef struct device_array {
    float *device;
    const float *host;
} device_array;

static void list_arrays(fitter *f, const ga_fit_state *state, device_array arrays[5]) {
    const device_array list[5] = {{f->parameters, state->parameters}, {f->first_moment, state->first_moment},
        {f->second_moment, state->second_moment}, {f->average, state->average}, {f->best, state->best}};
    memcpy(arrays, list, sizeof list);
}

static ga_status start_from_state(fitter *f, const ga_fit_state *state, ga_error *error) {
    if (state->parameter_count != f->parameter_count || state->fingerprint != fingerprint_of(f) ||
        state->curve_count < 0 || state->curve_count > GA_FIT_ROUNDS_MAX ||
        state->round < state->curve_count || state->next_group < 0 ||
        state->next_group > f->fit->train->all_groups || state->next_row < 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "the state belongs to another training: network, data, options or seed differ");
    }
    device_array arrays[5];
    list_arrays(f, state, arrays);
    for (int i = 0; i < 5; i++) {
        GA_TRY(f->compute->upload((size_t)f->parameter_count, arrays[i].host, arrays[i].device, error));
    }
    f->best_spearman = state->best_spearman;
    f->step = state->step;
    f->round = state->round;
    f->round_steps = state->round_steps;
    f->round_loss = state->round_loss;
    f->without_gain = state->without_gain;
    f->curve_count = state->curve_count;
    memcpy(f->curve, state->curve, (size_t)state->curve_count * sizeof *f->curve);
    return ga_fit_source_seek(&f->source, state->epoch, state->next_group, state->next_row, error);
}

static ga_status start_from_parameters(fitter *f, ga_error *error) {
    if (f->fit->start_parameters != NULL) {
        memcpy(f->transfer, f->fit->start_parameters, (size_t)f->parameter_count * sizeof *f->transfer);
    } else {
        ga_network_initialise(&f->probe->network, f->fit->options->seed, f->transfer);
    }
    GA_TRY(f->compute->upload((size_t)f->parameter_count, f->transfer, f->parameters, error));
    GA_TRY(copy_device(f, f->parameters, f->average, error));
    return copy_device(f, f->parameters, f->best, error);
}

static ga_status download_state(void *user, ga_error *error) {
    fitter *f = user;
    const size_t count = (size_t)f->parameter_count;
    float *const arrays[5] = {f->parameters, f->first_moment, f->second_moment, f->average, f->best};
    for (size_t i = 0; i < 5; i++) {
        GA_TRY(f->compute->download(count, arrays[i], f->saved + i * count, error));
    }
    return GA_OK;
}

static ga_status save_state(fitter *f, ga_error *error) {
    if (f->fit->checkpoint == NULL) {
        return GA_OK;
    }
    GA_TRY(f->compute->run(download_state, f, error));
    const size_t count = (size_t)f->parameter_count;
    const ga_fit_state state = {.fingerprint = fingerprint_of(f),
        .parameter_count = f->parameter_count,
        .parameters = f->saved,
        .first_moment = f->saved + count,
        .second_moment = f->saved + 2 * count,
        .average = f->saved + 3 * count,
        .best = f->saved + 4 * count,
        .best_spearman = f->best_spearman,
        .step = f->step,
        .round = f->round,
        .round_steps = f->round_steps,
        .round_loss = f->round_loss,
        .without_gain = f->without_gain,
        .epoch = f->source.epoch,
        .next_group = f->source.next_group,
        .next_row = f->source.next_row,
        .curve_count = f->curve_count,
        .curve = f->curve};
    return f->fit->checkpoint(f->fit->checkpoint_user, &state, error);
}

/* Everything on the device; inside compute->run. */
static ga_status create_device(void *user, ga_error *error) {
    fitter *f = user;
    const size_t count = ((size_t)f->parameter_count + 15) / 16 * 16;
    GA_TRY(f->compute->allocate(6 * count, &f->parameters, error));
    f->gradients = f->parameters + count;
    f->first_moment = f->parameters + 2 * count;
    f->second_moment = f->parameters + 3 * count;
    f->average = f->parameters + 4 * count;
    f->best = f->parameters + 5 * count;
    GA_TRY(ga_network_pass_create(
        &f->probe->network, f->compute, f->source.room_rows, f->source.room_pictures, true, &f->pass, error));
    return f->fit->resume != NULL ? start_from_state(f, f->fit->resume, error)
                                  : start_from_parameters(f, error);
}

static ga_status fitter_create(const ga_fit *fit, ga_probe *probe, fitter *f, ga_error *error) {
    memset(f, 0, sizeof *f);
    f->fit = fit;
    f->probe = probe;
    f->compute = probe->compute;
    f->parameter_count = probe->network.parameter_count;
    probe->variance_floor = fit->options->loss.variance_floor;
    if (!create_host_arrays(f)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to train a network of %lld weights",
            (long long)f->parameter_count);
    }
    GA_TRY(ga_fit_source_create(fit, probe, &f->source, error));
    return f->compute->run(create_device, f, error);
}

/* ---- one step ---- */

/* The network's answers stand on what the ridges say. */
static void add_base(fitter *f) {
    const ga_fit_batch *batch = &f->source.batch;
    const int32_t targets = f->probe->info.target_count, outputs = f->probe->network.outputs;
    for (int32_t row = 0; row < batch->rows; row++) {
        for (int32_t target = 0; target < targets; target++) {
            batch->answer[row * outputs + target] += batch->base[row * targets + target];
        }
    }
}

static ga_loss loss_of(const fitter *f) {
    const bool paper = f->probe->network.options.architecture == GA_NETWORK_PAPER;
    ga_loss loss = paper ? ga_loss_paper() : f->fit->options->loss;
    loss.others = f->fit->options->loss.others;
    return loss;
}

/* Loss and gradient of the batch, not divided by its weight; inside compute->run. */
static ga_status batch_gradient(void *user, ga_error *error) {
    fitter *f = user;
    const ga_fit_batch *batch = &f->source.batch;
    const ga_network_input input = {.rows = batch->rows,
        .pictures = batch->own_rows,
        .picture = f->probe->network.shares_pictures ? batch->picture : NULL,
        .maps = batch->maps,
        .scalars = batch->scalars,
        .prompt = batch->prompt,
        .log_sigma = batch->log_sigma};
    const ga_loss_batch rows = {.groups = batch->groups,
        .begin = batch->begin,
        .targets = f->probe->info.target_count,
        .variances = f->probe->network.outputs > f->probe->info.target_count,
        .target = batch->target,
        .weight = batch->weight};
    const ga_loss loss = loss_of(f);
    GA_TRY(ga_network_forward(f->pass, f->parameters, &input, batch->answer, error));
    add_base(f);
    f->sums[f->parameter_count] = ga_loss_evaluate(&loss, &rows, batch->answer, batch->grad);
    GA_TRY(f->compute->zero((size_t)f->parameter_count, f->gradients, error));
    GA_TRY(ga_network_backward(f->pass, f->parameters, batch->grad, f->gradients, error));
    return f->compute->download((size_t)f->parameter_count, f->gradients, f->transfer, error);
}

static const ga_clock *clock_of(const ga_train_options *options) {
    return options->clock != NULL ? options->clock : ga_clock_system();
}

/* Sums over the processes; from here on all know the same. */
static ga_status reduce_sums(fitter *f, ga_error *error) {
    const ga_train_callbacks *callbacks = f->fit->callbacks;
    const ga_train_options *options = f->fit->options;
    const double seconds = ga_clock_now(clock_of(options)) - f->fit->started_seconds;
    double *extra = f->sums + f->parameter_count;
    for (int64_t i = 0; i < f->parameter_count; i++) {
        f->sums[i] = (double)f->transfer[i];
    }
    extra[1] = 0.0;
    for (int32_t row = 0; row < f->source.batch.own_rows; row++) {
        extra[1] += (double)f->source.batch.weight[row];
    }
    extra[2] = options->seconds_max > 0.0 && seconds >= options->seconds_max ? 1.0 : 0.0;
    extra[3] = callbacks->stop != NULL && callbacks->stop(callbacks->user) ? 1.0 : 0.0;
    GA_TRY(ga_reduce_sum(&callbacks->reduce, f->sums, f->parameter_count + EXTRA_SUMS, error));
    f->out_of_time = extra[2] > 0.0;
    f->told_to_stop = extra[3] > 0.0;
    return GA_OK;
}

/* Mean gradient over the weight of the batch, no longer than GRADIENT_NORM_MAX, into `transfer`. */
static void clip_gradient(fitter *f) {
    const double weight = f->sums[f->parameter_count + 1];
    const double share = weight > 0.0 ? 1.0 / weight : 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < f->parameter_count; i++) {
        squares += f->sums[i] * f->sums[i];
    }
    const double norm = sqrt(squares) * share;
    const double factor = norm > GRADIENT_NORM_MAX ? share * GRADIENT_NORM_MAX / norm : share;
    for (int64_t i = 0; i < f->parameter_count; i++) {
        /* a gradient that is not finite moves nothing: one bad batch must not spoil what was learned */
        f->transfer[i] = isfinite(norm) ? (float)(f->sums[i] * factor) : 0.0f;
    }
    f->round_loss += isfinite(f->sums[f->parameter_count]) ? f->sums[f->parameter_count] * share : 0.0;
}

/* Inside compute->run. */
static ga_status update_parameters(void *user, ga_error *error) {
    fitter *f = user;
    const ga_train_options *options = f->fit->options;
    const double warm = f->step < WARM_UP_STEPS ? (double)f->step / WARM_UP_STEPS : 1.0;
    const ga_adamw adamw = {.step = f->step,
        .learning_rate = (float)(options->learning_rate * warm),
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .epsilon = 1e-8f,
        .weight_decay = (float)options->weight_decay};
    GA_TRY(f->compute->upload((size_t)f->parameter_count, f->transfer, f->gradients, error));
    GA_TRY(f->compute->adamw(
        &adamw, f->parameter_count, f->gradients, f->parameters, f->first_moment, f->second_moment, error));
    const double young = (1.0 + (double)f->step) / (10.0 + (double)f->step);
    const float decay = (float)(young < options->ema ? young : options->ema);
    return f->compute->lerp(f->parameter_count, decay, f->parameters, f->average, error);
}

static ga_status train_step(fitter *f, ga_error *error) {
    GA_TRY(ga_fit_source_next(&f->source, error));
    GA_TRY(f->compute->run(batch_gradient, f, error));
    GA_TRY(reduce_sums(f, error));
    clip_gradient(f);
    f->step++;
    f->round_steps++;
    return f->compute->run(update_parameters, f, error);
}

/* ---- rounds ---- */

/* The averaged weights are what the probe answers with; inside compute->run. */
static ga_status lend_average(void *user, ga_error *error) {
    fitter *f = user;
    GA_TRY(ga_probe_load(f->probe, error));
    return copy_device(f, f->average, f->probe->loaded, error);
}

/* Spearman within the tuning groups of the averaged weights. */
static ga_status judge(fitter *f, double *spearman_out, ga_error *error) {
    const ga_fit *fit = f->fit;
    ga_within within;
    GA_TRY(f->compute->run(lend_average, f, error));
    GA_TRY(ga_dataset_score(
        f->probe, fit->dataset, fit->tune->rows, fit->tune->count, f->tune_score, f->tune_level, error));
    GA_TRY(ga_evaluate_part(GA_WITHIN_SPEARMAN, fit->dataset, fit->tune, f->tune_score, fit->options->seed, 0,
        &fit->callbacks->reduce, &within, error));
    *spearman_out = isfinite(within.value) ? within.value : 0.0; /* equal scores order nothing */
    return GA_OK;
}

static ga_status keep_average(void *user, ga_error *error) {
    fitter *f = user;
    return copy_device(f, f->average, f->best, error);
}

/* Judges where the training stands, and keeps it if it is the best so far. */
static ga_status judge_round(fitter *f, ga_train_progress *point, ga_error *error) {
    double spearman;
    GA_TRY(judge(f, &spearman, error));
    const bool better = spearman > f->best_spearman;
    if (better) {
        f->best_spearman = spearman;
        GA_TRY(f->compute->run(keep_average, f, error));
    }
    f->without_gain = better ? 0 : f->without_gain + 1;
    *point = (ga_train_progress){.round = f->round + 1,
        .rounds_max = f->fit->options->rounds_max,
        .seconds = ga_clock_now(clock_of(f->fit->options)) - f->fit->started_seconds,
        .loss = f->round_steps > 0 ? f->round_loss / (double)f->round_steps : 0.0,
        .spearman = spearman,
        .spearman_best = f->best_spearman};
    if (f->fit->callbacks->progress != NULL) {
        f->fit->callbacks->progress(f->fit->callbacks->user, point);
    }
    return GA_OK;
}

/* Steps of a round: one pass over the rows of all processes, at most ROUND_ROWS_MAX of them. */
static int64_t count_steps(const fitter *f) {
    double rows = 0.0;
    for (int32_t i = 0; i < f->fit->train->all_groups; i++) {
        rows += (double)f->fit->train->all_rows[i];
    }
    rows = rows < ROUND_ROWS_MAX ? rows : ROUND_ROWS_MAX;
    const int64_t steps = (int64_t)ceil(rows / (double)f->source.batch_rows);
    return steps < 1 ? 1 : steps;
}

/* Steps until the round is full or the training has to end; then the judgement. A round that was cut short is
 * saved as it stands before it is judged, so that it can be continued. */
static ga_status train_round(fitter *f, int64_t steps, ga_error *error) {
    ga_train_progress point;
    while (f->round_steps < steps && !f->out_of_time && !f->told_to_stop) {
        GA_TRY(train_step(f, error));
    }
    if (f->round_steps < steps) {
        GA_TRY(save_state(f, error));
        GA_TRY(judge_round(f, &point, error));
        f->curve[f->curve_count++] = point;
        f->round++;
        return GA_OK;
    }
    GA_TRY(judge_round(f, &point, error));
    f->curve[f->curve_count++] = point;
    f->round++;
    f->round_steps = 0;
    f->round_loss = 0.0;
    return save_state(f, error);
}

static ga_train_end end_of(const fitter *f) {
    return f->told_to_stop                                       ? GA_TRAIN_END_STOP
           : f->out_of_time                                      ? GA_TRAIN_END_SECONDS
           : f->without_gain >= f->fit->options->patience_rounds ? GA_TRAIN_END_PATIENCE
                                                                 : GA_TRAIN_END_ROUNDS;
}

static ga_status return_best(void *user, ga_error *error) {
    fitter *f = user;
    GA_TRY(ga_probe_load(f->probe, error));
    GA_TRY(copy_device(f, f->best, f->probe->loaded, error));
    return f->compute->download((size_t)f->parameter_count, f->best, f->probe->parameters, error);
}

static ga_status train_rounds(fitter *f, ga_error *error) {
    const ga_train_options *options = f->fit->options;
    const int64_t steps = count_steps(f);
    const int32_t rounds_max =
        options->rounds_max < GA_FIT_ROUNDS_MAX ? options->rounds_max : GA_FIT_ROUNDS_MAX;
    if (f->fit->resume == NULL) {
        GA_TRY(judge(f, &f->best_spearman, error)); /* where it starts: untrained, the ridge */
    }
    while (f->round < rounds_max && !f->out_of_time && !f->told_to_stop &&
           f->without_gain < options->patience_rounds) {
        GA_TRY(train_round(f, steps, error));
    }
    return f->compute->run(return_best, f, error);
}

static ga_fit_report report_of(fitter *f) {
    const ga_fit_report report = {.end = end_of(f),
        .rounds = f->round,
        .steps = f->step,
        .loss = f->curve_count > 0 ? f->curve[f->curve_count - 1].loss : 0.0,
        .best_spearman = f->best_spearman,
        .curve_count = f->curve_count,
        .curve = f->curve};
    f->curve = NULL; /* the caller's now */
    return report;
}

void ga_fit_report_destroy(ga_fit_report *report) {
    free(report->curve);
    memset(report, 0, sizeof *report);
}

ga_status ga_fit_network(const ga_fit *fit, ga_probe *probe, ga_fit_report *report_out, ga_error *error) {
    GA_REQUIRE(error, probe->info.kind == GA_PROBE_NETWORK && probe->parameters != NULL);
    fitter f;
    ga_status status = fitter_create(fit, probe, &f, error);
    if (status == GA_OK) {
        status = train_rounds(&f, error);
    }
    if (status == GA_OK) {
        *report_out = report_of(&f);
    }
    fitter_destroy(&f);
    return status;
}
