/* The models that compete, and which of them the probe becomes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/train/evaluate.h"
#include "probe/train/score.h"
#include "probe/train/trainer.h"

/* Share of the ridge's penalty that a score among the inputs pays. */
#define SCORE_PENALTY 0.01f

/* ---- ridge and scalar ---- */

/* Inputs that are a score of the final image already; the rest must prove itself beside them. */
static const ga_input score_inputs[] = {GA_INPUT_PREVIEW, GA_INPUT_LOOKAHEAD, GA_INPUT_DISTILLED};
#define SCORE_INPUTS (sizeof score_inputs / sizeof score_inputs[0])

/* With one penalty for all, a hundred features of noise would drown the one score that counts. */
static void set_penalties(ga_trainer *t) {
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

static ga_status learn_ridge(ga_trainer *t, ga_error *error) {
    ga_ridge *ridge = &t->probe->ridge;
    set_penalties(t);
    GA_TRY(ga_ridge_fit(&t->learn.grouped, t->pooled, t->varies, t->penalty, ga_compute_native(),
        &t->callbacks.reduce, ridge, error)); /* its arrays are the host's, whoever computes the network */
    memcpy(t->ridge_copy, ridge->within, 2 * (size_t)ridge->count * sizeof(float));
    t->report.lambda_within = ridge->lambda_within;
    t->report.lambda_level = ridge->lambda_level;
    return ga_fit_targets(
        t->dataset, &t->learn, t->pooled, t->varies, t->penalty, &t->callbacks.reduce, t->probe, error);
}

/* Spearman within training groups of one pooled value. */
static ga_status judge_place(ga_trainer *t, int32_t place, double *spearman_out, ga_error *error) {
    const int64_t count = t->probe->inputs.pooled_count;
    for (int64_t i = 0; i < t->learn.count; i++) {
        t->score[i] = t->pooled[i * count + place];
    }
    ga_within within;
    GA_TRY(ga_evaluate_part(GA_WITHIN_SPEARMAN, t->dataset, &t->learn, t->score, t->options->seed, 0,
        &t->callbacks.reduce, &within, error));
    *spearman_out = within.value;
    return GA_OK;
}

/* The scalar among those that are a score already which orders the training groups best. */
static ga_status choose_scalar(ga_trainer *t, ga_error *error) {
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
static void become(ga_trainer *t, ga_probe_kind kind) {
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

static ga_status score_part(ga_trainer *t, const ga_part *part, ga_error *error) {
    return ga_dataset_score(t->probe, t->dataset, part->rows, part->count, t->score, t->level, error);
}

static ga_status judge_part(
    ga_trainer *t, const ga_part *part, int32_t resamples, ga_within *within_out, ga_error *error) {
    GA_TRY(score_part(t, part, error));
    return ga_evaluate_part(GA_WITHIN_SPEARMAN, t->dataset, part, t->score, t->options->seed, resamples,
        &t->callbacks.reduce, within_out, error);
}

static ga_status judge_candidate(ga_trainer *t, ga_probe_kind kind, ga_error *error) {
    ga_train_candidate *candidate = &t->report.candidates[kind];
    become(t, kind);
    GA_TRY(judge_part(t, &t->split.tune, 0, &candidate->tune, error));
    GA_TRY(judge_part(t, &t->split.report, t->options->resamples, &candidate->report, error));
    return judge_part(t, &t->split.held, t->options->resamples, &candidate->held, error);
}

static ga_status learn_network(ga_trainer *t, ga_error *error) {
    GA_TRY(ga_probe_add_network(t->probe, &t->options->network, error));
    become(t, GA_PROBE_NETWORK);
    return ga_trainer_fit_network(t, error);
}

/* ---- the choice ---- */

/* Scalar and ridge are compared on all held-out groups, which neither has seen; the network only on those
 * that did not stop its training. The simpler one wins a tie. */
static void choose(ga_trainer *t) {
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

ga_status ga_trainer_choose(ga_trainer *t, ga_error *error) {
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
