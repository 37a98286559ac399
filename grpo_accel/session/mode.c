#include "grpo_accel/session/mode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/shift.h"
#include "grpo_accel/session/taught.h"
#include "grpo_accel/session/watch.h"

/* Which figure of the update's header is what. */
enum {
    FIGURE_STEP,
    FIGURE_STEP_FIXED, /* the share of it that does not fall with the rows */
    FIGURE_LOOK,
    FIGURE_REWARD,
    FIGURE_TRAIN,
    FIGURE_TRAIN_FIXED,
    FIGURE_OWN
};

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
    ga_strategy proposed; /* by this rank; in force where it is rank 0's and has been heard of */
    char change[512];     /* what `proposed` changes and why; told as it comes into force */
    bool training_wanted;
    const char *training_reason;
    bool update_ended; /* and no batch has begun since */
    double update_ended_seconds;
    double begun_rows, trained_rows; /* of the last update, this rank */
    double header_seconds;           /* when the header was filled */
    double stepped_seconds;          /* when ga_mode_step had ended; 0: it did not come to it */
    double late_seconds;             /* our own work behind the header, of the update before */
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
        ga_shift_look(&state->shift, block, candidate);
    }
}

void ga_mode_state_seen(ga_session *session, int32_t candidate, bool shared) {
    ga_mode_state *state = state_of(session);
    if (state != NULL && candidate >= 0 && candidate < GA_CANDIDATES_MAX) {
        state->looks[candidate]++;
        state->shared[candidate] = (uint16_t)(state->shared[candidate] + shared);
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

/* ---- what rank 0 proposes ---- */

/* A strategy on the wire; stages 0: none. */
typedef struct strategy_note {
    double keep[GA_STAGES_MAX];
    double explore_share;
    int32_t stage_count, prune;
    int32_t candidate[GA_STAGES_MAX];
    int32_t unused;
} strategy_note;
_Static_assert(sizeof(strategy_note) == GA_UPDATE_NOTE_BYTES, "no padding travels");

static void write_note(const ga_strategy *strategy, unsigned char *bytes) {
    strategy_note note = {.explore_share = strategy->explore_share,
        .stage_count = strategy->stage_count,
        .prune = strategy->prune};
    for (int32_t stage = 0; stage < strategy->stage_count; stage++) {
        note.keep[stage] = strategy->keep[stage];
        note.candidate[stage] = strategy->candidate[stage];
    }
    memcpy(bytes, &note, sizeof note);
}

static bool read_note(const ga_session *session, const unsigned char *bytes, ga_strategy *strategy_out) {
    strategy_note note;
    memcpy(&note, bytes, sizeof note);
    bool valid = note.stage_count > 0 && note.stage_count <= GA_STAGES_MAX && note.explore_share >= 0;
    ga_strategy strategy = {
        .prune = note.prune != 0, .stage_count = note.stage_count, .explore_share = note.explore_share};
    for (int32_t stage = 0; valid && stage < note.stage_count; stage++) {
        strategy.candidate[stage] = note.candidate[stage];
        strategy.keep[stage] = note.keep[stage];
        valid = note.candidate[stage] >= 0 && note.candidate[stage] < GA_CANDIDATES_MAX &&
                (!note.prune || note.candidate[stage] < session->shapes.candidate_count) &&
                note.keep[stage] > 0 && note.keep[stage] <= 1;
    }
    if (valid) {
        *strategy_out = strategy;
    }
    return valid;
}

/* ---- seconds ---- */

static void book_batch(ga_costs *costs, const ga_batch *batch) {
    const double looked = (double)ga_batch_rows_observed(batch);
    const double features = ga_batch_feature_seconds(batch);
    const double full = (double)batch->rows * batch->session->shapes.steps_total;
    ga_costs_add_denoising(costs, batch->seconds[GA_PHASE_DENOISE], (double)ga_batch_row_steps(batch), full);
    ga_costs_add(costs, GA_COST_PREVIEW, batch->seconds[GA_PHASE_PREVIEW], looked);
    ga_costs_add(costs, GA_COST_LOOKAHEAD, batch->seconds[GA_PHASE_LOOKAHEAD], looked);
    ga_costs_add(costs, GA_COST_DISTILLED, batch->seconds[GA_PHASE_DISTILLED], looked);
    ga_costs_add(costs, GA_COST_FEATURES, features, looked);
    ga_costs_add(costs, GA_COST_LOOK, batch->seconds[GA_PHASE_SIGNAL] + features, looked);
    ga_costs_add(costs, GA_COST_REWARD, batch->seconds[GA_PHASE_REWARD], batch->kept_count);
}

/* Waiting in the exchanges of batches is left out: whoever waits there waits for the seconds of a slower
 * rank, which are counted as that rank's. */
static void book_update(ga_session *session, ga_mode_state *state) {
    const double train_share = session->taught.prunes ? session->config->advantage.train_share : 1.0;
    double own_seconds = state->late_seconds - session->metrics.wait_seconds;
    state->begun_rows = state->trained_rows = 0.0;
    ga_costs_age(&session->costs);
    for (int32_t i = 0; i < session->batch_count; i++) {
        const ga_batch *batch = session->batches[i];
        book_batch(&session->costs, batch);
        own_seconds += batch->own_seconds - batch->feature_seconds;
        state->begun_rows += batch->rows;
        state->trained_rows += batch->kept_count * train_share;
    }
    ga_costs_add(&session->costs, GA_COST_OWN, own_seconds, state->begun_rows);
    state->late_seconds = 0.0;
}

void ga_mode_fill_header(ga_session *session, ga_update_header *header) {
    ga_mode_state *state = state_of(session);
    for (int32_t i = 0; i < GA_UPDATE_FIGURES; i++) {
        header->figures[i] = NAN;
    }
    memset(header->counts, 0, sizeof header->counts);
    memset(header->note, 0, sizeof header->note);
    if (state == NULL) {
        return;
    }
    write_note(&state->proposed, header->note);
    state->header_seconds = ga_clock_now(session->clock);
    book_update(session, state);
    const ga_costs *costs = &session->costs;
    header->figures[FIGURE_STEP] = (float)ga_costs_row_step_seconds(costs);
    header->figures[FIGURE_STEP_FIXED] = (float)ga_costs_denoising_fixed_share(costs);
    header->figures[FIGURE_LOOK] = (float)ga_costs_row_seconds(costs, GA_COST_LOOK);
    header->figures[FIGURE_REWARD] = (float)ga_costs_row_seconds(costs, GA_COST_REWARD);
    header->figures[FIGURE_TRAIN] = (float)ga_costs_training_seconds(costs);
    header->figures[FIGURE_TRAIN_FIXED] = (float)ga_costs_training_fixed_share(costs);
    header->figures[FIGURE_OWN] = (float)ga_costs_row_seconds(costs, GA_COST_OWN);
    memcpy(header->counts, state->shift.counts, sizeof state->shift.counts);
    memcpy(header->counts + COUNT_LOOKS, state->looks, sizeof state->looks);
    memcpy(header->counts + COUNT_SHARED, state->shared, sizeof state->shared);
    memset(state->looks, 0, sizeof state->looks);
    memset(state->shared, 0, sizeof state->shared);
}

/* The slowest rank's: it sets the pace. Of the fixed shares the largest, which promises least. */
static ga_seconds seconds_of(const ga_exchange_report *exchange) {
    const float *figures = exchange->figure_max;
    const double step = (double)figures[FIGURE_STEP], train = (double)figures[FIGURE_TRAIN];
    const double step_fixed = (double)figures[FIGURE_STEP_FIXED];
    const double train_fixed = (double)figures[FIGURE_TRAIN_FIXED];
    ga_seconds seconds = {.step = step * (1 - step_fixed),
        .forward = step * step_fixed,
        .reward = (double)figures[FIGURE_REWARD],
        .train = train * (1 - train_fixed),
        .fixed = train * train_fixed,
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
        .estimator = ga_taught_estimator(session),
        .train_share = config->advantage.train_share,
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
        .noise_end_step = session->batch_count > 0 ? session->batches[0]->noise_end_step : -1,
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
        .prunes = session->strategy.prune,
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
        .explore_share = session->strategy.prune ? (double)NAN : session->strategy.explore_share,
        .groups = report->parts,
        .seconds = update->seconds};
    (void)snprintf(m->reason, sizeof m->reason, "%s", verdict->reason);
}

/* A change is told once it is in force. */
static void tell(const ga_session *session, ga_mode_state *state, const ga_watch_report *report) {
    if (report->changed && session->config->mode == GA_CONFIG_MODE_AUTO) {
        (void)snprintf(state->change, sizeof state->change, "%s", report->line);
    } else if (session->rank == 0 && report->line[0] != '\0') {
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
    tell(session, state, &report);
}

/*
 * What rank 0 proposed at the end of the update before comes into force, on every rank that has its header:
 * they all read the same bytes. Ranks that took part in the same exchanges propose the same; one that missed
 * some follows.
 */
static void adopt(ga_session *session, ga_mode_state *state, const ga_exchange_report *exchange) {
    ga_strategy strategy;
    if (session->config->mode != GA_CONFIG_MODE_AUTO ||
        !read_note(session, exchange->first_note, &strategy)) {
        return;
    }
    if (state->watch != NULL) {
        ga_watch_follow(state->watch, &strategy);
    }
    session->strategy = state->proposed = strategy;
    if (session->rank == 0 && state->change[0] != '\0') {
        ga_log(GA_LOG_INFO, "after update %u, %s", (unsigned)session->next_update, state->change);
    }
    state->change[0] = '\0';
}

void ga_mode_step(ga_session *session, const ga_exchange_report *exchange, const ga_outcome *outcomes,
    int32_t count, bool prunable) {
    ga_mode_state *state = state_of(session);
    if (state == NULL || exchange == NULL) {
        return;
    }
    adopt(session, state, exchange);
    if (watch_of(session, state) == NULL) {
        return;
    }
    if (count > 0) {
        ga_shift_take(&state->shift, outcomes, count, exchange->count_sum);
    }
    learn(session, state, exchange, outcomes, count, prunable);
    state->stepped_seconds = ga_clock_now(session->clock);
    state->late_seconds = state->stepped_seconds - state->header_seconds - exchange->seconds;
}

/* The log of the update has been written by now. */
void ga_mode_update_logged(ga_session *session) {
    ga_mode_state *state = session->guard;
    if (state != NULL && state->stepped_seconds > 0) {
        state->late_seconds += ga_clock_now(session->clock) - state->stepped_seconds;
        state->stepped_seconds = 0.0;
    }
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
