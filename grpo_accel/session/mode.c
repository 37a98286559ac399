#include "grpo_accel/session/mode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/shift.h"
#include "grpo_accel/session/taught.h"
#include "grpo_accel/session/watch.h"

/* Which figure of the update's header is what. */
enum { FIGURE_STEP, FIGURE_LOOK, FIGURE_REWARD, FIGURE_TRAIN, FIGURE_FIXED, FIGURE_OWN };

/* Which counts: features by decile, then looks and shared looks by candidate. */
enum { COUNT_LOOKS = GA_SHIFT_COUNTS, COUNT_SHARED = COUNT_LOOKS + GA_CANDIDATES_MAX };
_Static_assert(COUNT_SHARED + GA_CANDIDATES_MAX == GA_UPDATE_COUNTS, "the header's counts are all used");

enum {
    FIRST_TRAINING_ROWS = 192, /* observed rows with a reward from which a first training is worth while */
    GROUPS_MIN = 12            /* measured groups before a verdict */
};
static const double ENTER_MARGIN = 0.02;

struct ga_mode_state {
    ga_watch *watch; /* NULL until the first update whose rows were matched */
    ga_shift shift;
    uint16_t looks[GA_CANDIDATES_MAX], shared[GA_CANDIDATES_MAX]; /* this rank, this update */
    ga_strategy proposed;
    bool training_wanted;
    const char *training_reason;
    bool update_ended; /* and no batch has begun since */
    double update_ended_seconds;
    double begun_rows, trained_rows; /* of the last update, this rank */
    double header_seconds;           /* when the header was filled */
};

/* NULL when memory is out: then nothing is watched and the strategy stays. */
static ga_mode_state *state_of(ga_session *session) {
    if (session->guard == NULL) {
        session->guard = calloc(1, sizeof *session->guard);
        if (session->guard != NULL) {
            session->guard->proposed = session->strategy;
            ga_mode_probe_changed(session);
        }
    }
    return session->guard;
}

void ga_mode_close(ga_session *session) {
    if (session->guard != NULL) {
        ga_watch_destroy(&session->guard->watch);
        free(session->guard);
        session->guard = NULL;
    }
}

/* ---- while batches run ---- */

void ga_mode_batch_begins(ga_session *session) {
    ga_mode_state *state = session->guard;
    if (state != NULL && state->update_ended) {
        state->update_ended = false;
        ga_costs_add_training(&session->costs, ga_clock_now(session->clock) - state->update_ended_seconds,
            state->begun_rows, state->trained_rows);
    }
}

void ga_mode_look(ga_session *session, const ga_feature_block *block, int32_t candidate) {
    ga_mode_state *state = state_of(session);
    if (state != NULL && candidate >= 0 && candidate < GA_CANDIDATES_MAX) {
        state->looks[candidate]++;
        ga_shift_look(&state->shift, block, candidate);
    }
}

void ga_mode_shared_state(ga_session *session, int32_t candidate) {
    ga_mode_state *state = state_of(session);
    if (state != NULL && candidate >= 0 && candidate < GA_CANDIDATES_MAX) {
        state->shared[candidate]++;
    }
}

void ga_mode_update_ended(ga_session *session) {
    ga_mode_state *state = session->guard;
    if (state != NULL) {
        state->update_ended = true;
        state->update_ended_seconds = ga_clock_now(session->clock);
    }
}

void ga_mode_probe_changed(ga_session *session) {
    ga_mode_state *state = session->guard;
    if (state != NULL) {
        ga_shift_reset(&state->shift, session->probe != NULL ? ga_probe_get_reference(session->probe) : NULL,
            session->shapes.candidate_steps, session->shapes.candidate_count);
    }
}

/* ---- seconds ---- */

static void book_batch(ga_costs *costs, const ga_batch *batch) {
    const double looked = (double)ga_batch_rows_observed(batch);
    const double features = ga_batch_feature_seconds(batch);
    ga_costs_add_denoising(costs, batch->seconds[GA_PHASE_DENOISE], (double)ga_batch_row_steps(batch));
    ga_costs_add(costs, GA_COST_PREVIEW, batch->seconds[GA_PHASE_PREVIEW], looked);
    ga_costs_add(costs, GA_COST_LOOKAHEAD, batch->seconds[GA_PHASE_LOOKAHEAD], looked);
    ga_costs_add(costs, GA_COST_DISTILLED, batch->seconds[GA_PHASE_DISTILLED], looked);
    ga_costs_add(costs, GA_COST_FEATURES, features, looked);
    ga_costs_add(costs, GA_COST_LOOK, batch->seconds[GA_PHASE_SIGNAL] + features, looked);
    ga_costs_add(costs, GA_COST_REWARD, batch->seconds[GA_PHASE_REWARD], batch->kept_count);
    ga_costs_add(costs, GA_COST_OWN, batch->own_seconds - batch->feature_seconds, batch->rows);
}

static void book_update(ga_session *session, ga_mode_state *state) {
    state->begun_rows = state->trained_rows = 0.0;
    ga_costs_age(&session->costs);
    for (int32_t i = 0; i < session->batch_count; i++) {
        book_batch(&session->costs, session->batches[i]);
        state->begun_rows += session->batches[i]->rows;
        state->trained_rows += session->batches[i]->kept_count * session->config->advantage.train_share;
    }
}

void ga_mode_fill_header(ga_session *session, ga_update_header *header) {
    ga_mode_state *state = state_of(session);
    for (int32_t i = 0; i < GA_UPDATE_FIGURES; i++) {
        header->figures[i] = NAN;
    }
    memset(header->counts, 0, sizeof header->counts);
    if (state == NULL) {
        return;
    }
    state->header_seconds = ga_clock_now(session->clock);
    book_update(session, state);
    const ga_costs *costs = &session->costs;
    header->figures[FIGURE_STEP] = (float)ga_costs_row_step_seconds(costs);
    header->figures[FIGURE_LOOK] = (float)ga_costs_row_seconds(costs, GA_COST_LOOK);
    header->figures[FIGURE_REWARD] = (float)ga_costs_row_seconds(costs, GA_COST_REWARD);
    header->figures[FIGURE_TRAIN] = (float)ga_costs_training_seconds(costs);
    header->figures[FIGURE_FIXED] = (float)ga_costs_fixed_seconds(costs);
    header->figures[FIGURE_OWN] = (float)ga_costs_row_seconds(costs, GA_COST_OWN);
    memcpy(header->counts, state->shift.counts, sizeof state->shift.counts);
    memcpy(header->counts + COUNT_LOOKS, state->looks, sizeof state->looks);
    memcpy(header->counts + COUNT_SHARED, state->shared, sizeof state->shared);
    memset(state->looks, 0, sizeof state->looks);
    memset(state->shared, 0, sizeof state->shared);
}

/* The slowest rank's: it sets the pace. */
static ga_seconds seconds_of(const ga_exchange_report *exchange) {
    const float *figures = exchange->figure_max;
    ga_seconds seconds = {.step = (double)figures[FIGURE_STEP],
        .reward = (double)figures[FIGURE_REWARD],
        .train = (double)figures[FIGURE_TRAIN],
        .fixed = (double)figures[FIGURE_FIXED],
        .own = (double)figures[FIGURE_OWN]};
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        seconds.signal[i] = (double)figures[FIGURE_LOOK];
    }
    return seconds;
}

/* ---- the watch ---- */

static ga_watch_kind kind_of(const ga_session *session) {
    switch (session->config->mode) {
    case GA_CONFIG_MODE_AUTO: return GA_WATCH_AUTO;
    case GA_CONFIG_MODE_PRUNE: return GA_WATCH_PRUNE;
    case GA_CONFIG_MODE_OFF:
    case GA_CONFIG_MODE_SHADOW: break;
    }
    return GA_WATCH_SHADOW;
}

static ga_watch_options watch_options(const ga_session *session) {
    const ga_config *config = session->config;
    ga_watch_options options = {.kind = kind_of(session),
        .ranks = session->world_size,
        .rows = session->shapes.rows,
        .steps_total = session->shapes.steps_total,
        .candidate_count = session->shapes.candidate_count,
        .told = ga_strategy_of_config(session),
        .step_open = config->decision.step.count == 0 && !(config->decision.sigma > 0),
        .keep_open = config->decision.keep.count == 0,
        .plan = ga_decide_options(session),
        .guard = {.confidence = config->guard.confidence,
            .enter_margin = ENTER_MARGIN,
            .parts_min = GROUPS_MIN,
            .drift_max = config->guard.drift_max,
            .patience = (int32_t)config->guard.patience_updates},
        .lost_extremes_max = config->guard.lost_extremes_max,
        .slowdown_max = config->guard.slowdown_max,
        .rows_wanted = FIRST_TRAINING_ROWS,
        .on_drift = config->retrain.on_drift};
    memcpy(options.candidate_steps, session->shapes.candidate_steps, sizeof options.candidate_steps);
    return options;
}

static ga_watch *watch_of(ga_session *session, ga_mode_state *state) {
    if (state->watch == NULL && session->prepared) {
        const ga_watch_options options = watch_options(session);
        ga_error why = {0};
        if (ga_watch_create(&options, &state->watch, &why) != GA_OK) {
            ga_log(GA_LOG_WARNING, "nothing is watched: %s", why.message);
        }
    }
    return state->watch;
}

/* Bits of the candidates at which most looks of all ranks found shared states. */
static uint32_t shared_candidates(const ga_exchange_report *exchange) {
    uint32_t bits = 0;
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        const uint64_t looks = exchange->count_sum[COUNT_LOOKS + i];
        const bool shared = looks > 0 && 2 * exchange->count_sum[COUNT_SHARED + i] >= looks;
        bits |= shared ? 1U << i : 0U;
    }
    return bits;
}

static const char *input_name(int32_t input) {
    static const char *const names[GA_INPUT_COUNT] = {
        "attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled"};
    return input >= 0 ? names[input] : NULL;
}

static ga_watch_update update_of(const ga_session *session, const ga_mode_state *state,
    const ga_exchange_report *exchange, const ga_outcome *outcomes, int32_t count, bool prunable) {
    ga_watch_update update = {.update = session->next_update,
        .outcomes = outcomes,
        .count = count,
        .batches = session->batch_count,
        .first_batch = session->batch_count > 0 ? session->batches[0]->number : 0,
        .seconds = seconds_of(exchange),
        .has_probe = session->probe != NULL,
        .probe_version = session->probe_version,
        .obstacle = prunable ? NULL : "the host's advantages are of a kind that kept rows don't tell",
        .shared_candidates = shared_candidates(exchange)};
    int32_t input = -1;
    ga_shift_read(&state->shift, &update.scores, &update.features, &input);
    update.feature_name = input_name(input);
    ga_taught_offsets(session, &update.tau2, &update.sigma_r2);
    return update;
}

/* ---- numbers ---- */

static void put_metrics(ga_session *session, const ga_watch_update *update, const ga_watch_report *report) {
    ga_guard_metrics *m = &session->metrics.guard;
    const ga_verdict *verdict = &report->verdict;
    int32_t count = 0;
    const ga_option *options = ga_watch_options_of(session->guard->watch, &count);
    const ga_course *course = verdict->option >= 0 ? &options[verdict->option].course : NULL;
    *m = (ga_guard_metrics){.answer = ga_guard_answer_name(verdict->answer),
        .feature = update->feature_name,
        .prunes = report->strategy.prune,
        .step = course != NULL ? course->step[course->stage_count - 1] : -1,
        .keep = course != NULL ? course->keep[course->stage_count - 1] : (double)NAN,
        .rho = report->agreement.rho,
        .rho_low = report->agreement.rho_low,
        .rho_high = report->agreement.rho_high,
        .break_even_rho = verdict->break_even_rho,
        .slope = report->agreement.slope,
        .coverage90 = report->agreement.coverage,
        .energy = report->energy.value,
        .energy_low = report->energy.low,
        .energy_high = report->energy.high,
        .snr2 = report->energy.snr2,
        .snr2_low = report->energy.snr2_low,
        .cost_ratio = verdict->cost_ratio,
        .speed_up = verdict->gain,
        .speed_up_low = verdict->gain_low,
        .psi_scores = update->scores.psi,
        .ks_scores = update->scores.ks,
        .psi_features = update->features.psi,
        .ks_features = update->features.ks,
        .lost_extremes = report->lost_share,
        .lost_extremes_bound = verdict->loss_bound,
        .alpha = report->level,
        .explore_share = report->strategy.prune ? (double)NAN : report->strategy.explore_share,
        .groups = report->parts,
        .seconds = update->seconds};
    (void)snprintf(m->reason, sizeof m->reason, "%s", verdict->reason);
}

static void tell(const ga_session *session, const ga_watch_report *report) {
    if (session->rank == 0 && report->line[0] != '\0') {
        ga_log(report->warns ? GA_LOG_WARNING : GA_LOG_INFO, "after update %u, %s",
            (unsigned)session->next_update, report->line);
    }
}

/* ---- the end of an update ---- */

static void learn(ga_session *session, ga_mode_state *state, const ga_exchange_report *exchange,
    const ga_outcome *outcomes, int32_t count, bool prunable) {
    ga_error why = {0};
    ga_watch_report report;
    const ga_watch_update update = update_of(session, state, exchange, outcomes, count, prunable);
    if (ga_watch_take(state->watch, &update, session->update_arena, &report, &why) != GA_OK) {
        ga_log(GA_LOG_WARNING, "update %u taught the guard nothing: %s", (unsigned)session->next_update,
            why.message);
        return;
    }
    state->proposed = report.strategy;
    if (report.wants_training) {
        state->training_wanted = true;
        state->training_reason = report.training_reason;
    }
    put_metrics(session, &update, &report);
    tell(session, &report);
}

void ga_mode_step(ga_session *session, const ga_exchange_report *exchange, const ga_outcome *outcomes,
    int32_t count, bool prunable) {
    ga_mode_state *state = state_of(session);
    if (state == NULL || count == 0 || watch_of(session, state) == NULL) {
        return;
    }
    ga_shift_take(&state->shift, outcomes, count, exchange->count_sum);
    learn(session, state, exchange, outcomes, count, prunable);
    const double seconds = ga_clock_now(session->clock) - state->header_seconds - exchange->seconds;
    session->costs.seconds[GA_COST_OWN] += seconds > 0 ? seconds : 0.0;
}

static uint64_t digest_of(const ga_strategy *strategy) {
    uint64_t digest = ga_digest_join(strategy->prune ? 1U : 0U, (uint64_t)strategy->stage_count);
    for (int32_t stage = 0; stage < strategy->stage_count; stage++) {
        digest = ga_digest_join(digest, (uint64_t)strategy->candidate[stage]);
        digest = ga_digest_join(digest, ga_digest64(&strategy->keep[stage], sizeof strategy->keep[stage]));
    }
    return ga_digest_join(digest, ga_digest64(&strategy->explore_share, sizeof strategy->explore_share));
}

/* All ranks were there and differ. */
static void start_again(ga_session *session, ga_mode_state *state) {
    ga_log(GA_LOG_INFO,
        "ranks came to different verdicts after update %u (one missed an update before): all of them start "
        "from shadow again",
        (unsigned)session->next_update);
    if (state->watch != NULL) {
        ga_watch_restart(state->watch);
    }
    session->offsets = ga_offsets_make(GA_SESSION_OFFSETS_HALF_LIFE_UPDATES);
    state->proposed = ga_strategy_of_config(session);
    session->strategy = state->proposed;
}

bool ga_mode_settle(ga_session *session, bool exchanged) {
    ga_mode_state *state = session->guard;
    if (session->config->mode != GA_CONFIG_MODE_AUTO) {
        return exchanged;
    }
    if (!exchanged || state == NULL) {
        ga_world_skip(session->world);
        return false;
    }
    bool all = false;
    const ga_status status = ga_world_agree(session->world, digest_of(&state->proposed),
        session->config->decision.timeout_seconds, &all, NULL, NULL);
    if (status == GA_OK && all) {
        session->strategy = state->proposed;
    } else if (status == GA_OK) {
        start_again(session, state);
    }
    return status == GA_OK;
}

bool ga_mode_wants_training(ga_session *session, const char **reason_out) {
    ga_mode_state *state = session->guard;
    if (state == NULL || !state->training_wanted) {
        return false;
    }
    state->training_wanted = false;
    *reason_out = state->training_reason;
    return true;
}
