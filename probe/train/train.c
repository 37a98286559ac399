#include "probe/train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probe/train/trainer.h"

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

static void release(ga_trainer *t) {
    free(t->features);
    free(t->varies);
    free(t->penalty);
    free(t->pooled);
    free(t->score);
    free(t->ridge_copy);
    ga_part_destroy(&t->learn);
    ga_split_destroy(&t->split);
    ga_probe_close(&t->probe);
}

/* ---- what the probe says of itself ---- */

/* Smallest and largest σ over all ranks: each fills its own place of a sum. */
static ga_status find_sigma_range(ga_trainer *t, double *low_out, double *high_out, ga_error *error) {
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

static ga_status fill_counts(ga_trainer *t, ga_probe_info *info, ga_error *error) {
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

static ga_status fill_info(ga_trainer *t, ga_error *error) {
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

/* The rows' runs, and the prompts that it has not learned from. */
static ga_status fill_learned(ga_trainer *t, ga_error *error) {
    uint64_t *held = NULL;
    int32_t count = 0;
    GA_TRY(ga_part_prompts(&t->split.held, &held, &count, error));
    ga_learned_set(&t->probe->learned, t->options->runs, t->options->run_count, held, count);
    return GA_OK;
}

static ga_status train_all(ga_trainer *t, ga_error *error) {
    const ga_dataset *dataset = t->dataset;
    GA_TRY(ga_dataset_split(dataset, t->options->held_share, t->options->weight_max, &t->split, error));
    GA_TRY(ga_probe_create(dataset->schema, t->compute, &t->probe, error));
    if (ga_dataset_target_count(dataset) > 1) {
        GA_TRY(ga_probe_set_targets(t->probe, dataset->target_count, dataset->target_names, error));
    }
    GA_TRY(ga_trainer_prepare(t, error));
    GA_TRY(ga_trainer_choose(t, error));
    GA_TRY(fill_info(t, error));
    GA_TRY(fill_learned(t, error));
    return ga_trainer_refer(t, error);
}

ga_status ga_train(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, ga_probe **probe_out,
    ga_train_report *report_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    GA_TRY(check_options(options, error));
    const ga_clock *clock = options->clock != NULL ? options->clock : ga_clock_system();
    ga_trainer t;
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
