/* The network's training: a head start on the run's own finals, then the signals at the decision. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe/train/labels.h"
#include "probe/train/state.h"
#include "probe/train/trainer.h"

/* Share of the time that the head start may take. */
#define CLEAN_SHARE 0.4

/* Order in which they are trained; numbers stand in states. */
enum { PHASE_CLEAN = 0, PHASE_SIGNALS = 1 };

/* One fit. */
typedef struct phase {
    ga_trainer *t;
    int32_t number;
    ga_dataset dataset; /* with the labels that may be seen */
    const ga_part *train, *tune;
    ga_train_options options;
    bool keeps_state;
    float *score, *level; /* [train rows] of the ridge */
} phase;

/* What the ridge says of a row whose unknown features count as the mean. */
static void predict_row(ga_trainer *t, int64_t place, const ga_half *features, void *user) {
    phase *p = user;
    const double sigma = (double)p->dataset.sigma[p->train->rows[place]];
    ga_probe_prepare_known(t->probe, features, sigma, t->probe->row, t->probe->pooled, NULL);
    ga_ridge_predict(&t->probe->ridge, t->probe->pooled, &p->score[place], &p->level[place]);
}

static ga_status save_state(void *user, const ga_fit_state *state, ga_error *error) {
    const phase *p = user;
    const bool first = p->t->callbacks.reduce.rank == 0;
    return first ? ga_train_state_write(state, p->number, p->t->options->state_path, error) : GA_OK;
}

/* A state to go on from, where one is asked for and all processes see one; stage −1: none. */
static ga_status find_state(ga_trainer *t, ga_train_state *state, ga_error *error) {
    state->stage = -1;
    if (!t->options->resume) {
        return GA_OK;
    }
    double missing = access(t->options->state_path, F_OK) == 0 ? 0.0 : 1.0;
    GA_TRY(ga_reduce_sum(&t->callbacks.reduce, &missing, 1, error));
    if (missing > 0.0) {
        return GA_OK;
    }
    GA_TRY(ga_train_state_read(t->options->state_path, state, error));
    t->report.resumed_rounds = state->state.round;
    return GA_OK;
}

/* The curve that a report has room for: every k-th point, and the last. */
static void keep_curve(const ga_fit_report *fit, ga_train_report *report) {
    const int32_t every = (fit->curve_count + GA_TRAIN_CURVE_MAX - 2) / (GA_TRAIN_CURVE_MAX - 1);
    report->curve_count = 0;
    for (int32_t i = 0; i < fit->curve_count; i++) {
        if (i % every == 0 || i == fit->curve_count - 1) {
            report->curve[report->curve_count++] = fit->curve[i];
        }
    }
}

/* Standardised rows are there where the ridge has learned from the same part. */
static const float *pooled_of(const phase *p) {
    const ga_trainer *t = p->t;
    const bool same = p->train == &t->split.train && t->learn.all_groups == t->split.train.all_groups;
    return same ? t->pooled : NULL;
}

static ga_status fit_phase(
    phase *p, const ga_train_state *state, const float *start, ga_fit_report *report_out, ga_error *error) {
    ga_trainer *t = p->t;
    GA_TRY(ga_trainer_each(t, &p->dataset, p->train, predict_row, p, error));
    const ga_fit fit = {.dataset = &p->dataset,
        .train = p->train,
        .tune = p->tune,
        .pooled = pooled_of(p),
        .train_score = p->score,
        .train_level = p->level,
        .options = &p->options,
        .callbacks = &t->callbacks,
        .started_seconds = t->started_seconds,
        .start_parameters = start,
        .resume = state->stage == p->number ? &state->state : NULL,
        .checkpoint = p->keeps_state ? save_state : NULL,
        .checkpoint_user = p};
    return ga_fit_network(&fit, t->probe, report_out, error);
}

static ga_status run_phase(
    phase *p, const ga_train_state *state, const float *start, ga_fit_report *report_out, ga_error *error) {
    ga_kept_labels labels;
    GA_TRY(ga_labels_keep(&p->dataset, p->train, &labels, error));
    p->dataset.more = p->dataset.more != NULL ? &labels.view : NULL;
    p->t->report.more_labels = labels.label_count;
    p->score = malloc(((size_t)p->train->count + 1) * 2 * sizeof *p->score);
    ga_status status = GA_OK;
    if (p->score == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for %lld rows", (long long)p->train->count);
    } else {
        p->level = p->score + p->train->count;
        status = fit_phase(p, state, start, report_out, error);
    }
    free(p->score);
    ga_labels_free(&labels);
    return status;
}

/* The head start; *start_out are its weights, the caller's; *stopped_out: it was told to end early. */
static ga_status learn_from_finals(
    ga_trainer *t, const ga_train_state *state, float **start_out, bool *stopped_out, ga_error *error) {
    const ga_dataset *clean = t->options->clean;
    ga_part train, tune;
    GA_TRY(ga_part_of_prompts(clean, &t->split.train, t->options->weight_max, &train, error));
    ga_status status = ga_part_of_prompts(clean, &t->split.tune, t->options->weight_max, &tune, error);
    if (status != GA_OK) {
        ga_part_destroy(&train);
        return status;
    }
    phase p = {.t = t,
        .number = PHASE_CLEAN,
        .dataset = *clean,
        .train = &train,
        .tune = &tune,
        .options = *t->options,
        .keeps_state = t->options->state_path != NULL};
    p.options.seconds_max *= CLEAN_SHARE;
    ga_fit_report report;
    if (train.all_groups > 0 && tune.all_groups > 0) {
        status = run_phase(&p, state, NULL, &report, error);
        if (status == GA_OK) {
            t->report.clean_rounds = report.rounds;
            *stopped_out = report.end == GA_TRAIN_END_STOP;
            ga_fit_report_destroy(&report);
            const size_t bytes = (size_t)t->probe->network.parameter_count * sizeof(float);
            *start_out = malloc(bytes);
            status = *start_out != NULL ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a head start");
        }
        if (status == GA_OK) {
            memcpy(
                *start_out, t->probe->parameters, (size_t)t->probe->network.parameter_count * sizeof(float));
        }
    }
    ga_part_destroy(&train);
    ga_part_destroy(&tune);
    return status;
}

static ga_status learn_from_signals(
    ga_trainer *t, const ga_train_state *state, const float *start, bool keeps_state, ga_error *error) {
    phase p = {.t = t,
        .number = PHASE_SIGNALS,
        .dataset = *t->dataset,
        .train = &t->split.train,
        .tune = &t->split.tune,
        .options = *t->options,
        .keeps_state = keeps_state};
    ga_fit_report report;
    GA_TRY(run_phase(&p, state, start, &report, error));
    t->report.end = report.end;
    t->report.rounds = report.rounds;
    t->report.steps = report.steps;
    keep_curve(&report, &t->report);
    ga_fit_report_destroy(&report);
    return GA_OK;
}

ga_status ga_trainer_fit_network(ga_trainer *t, ga_error *error) {
    ga_train_state state = {.stage = -1};
    float *start = NULL;
    bool stopped = false; /* in the head start: its state is the one to go on from */
    ga_status status = find_state(t, &state, error);
    if (status == GA_OK && t->options->clean != NULL && state.stage != PHASE_SIGNALS) {
        status = learn_from_finals(t, &state, &start, &stopped, error);
    }
    if (status == GA_OK) {
        status = learn_from_signals(t, &state, start, t->options->state_path != NULL && !stopped, error);
    }
    free(start);
    ga_train_state_destroy(&state);
    return status;
}
