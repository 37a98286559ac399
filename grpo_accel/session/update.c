#include "grpo_accel/session/update.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/session/logbook.h"

/* One update on its way: rows of all ranks in the host's order, which is rank after rank, batch after batch.
 */
typedef struct update {
    ga_session *session;
    const ga_update_options *options;
    ga_arena *arena;
    int32_t own_rows;       /* of this rank */
    int32_t own_start;      /* position of its first row */
    ga_outcome *own;        /* [own_rows] */
    ga_outcome *all;        /* [world size · own_rows] */
    uint32_t ready_version; /* of a probe that rank 0 has published */
    bool placed;            /* the host has as many rows as were sampled, so positions are known */
    bool pruned;            /* some row of some rank */
    bool exchanged;         /* the collective came about */
    bool matched;           /* and every rank's rows are the host's: `all` can be used */
} update;

/* The end of an update waits for the slowest rank's rewards: so many times the deadline of a batch. */
enum { UPDATE_DEADLINES = 6 };

/* Bits of the exchange's header. */
enum {
    FLAG_HOST_DIFFERS = 1u /* this rank can't match its rows with the host's: nobody computes advantages */
};

/* ---- this rank's outcomes ---- */

static int32_t count_rows(const ga_session *session) {
    int32_t rows = 0;
    for (int32_t i = 0; i < session->batch_count; i++) {
        rows += session->batches[i]->rows;
    }
    return rows;
}

static void fill_batch(const update *u, const ga_batch *batch, int32_t start) {
    for (int32_t row = 0; row < batch->rows; row++) {
        const int32_t position = u->own_start + start + row;
        const bool kept = batch->kept[row] != 0;
        u->own[start + row] = (ga_outcome){.group = u->placed ? (uint64_t)u->options->groups[position] : 0,
            .reward = kept && u->placed ? u->options->rewards[position] : (double)NAN,
            .inclusion = batch->inclusion[row],
            .mean = batch->prediction[row],
            .variance = batch->variance[row],
            .rank = u->session->rank,
            .index = start + row,
            .kept = kept,
            .audit = batch->audited};
    }
}

/* What the scorer said of a kept row must be what the host hands in for it, or the rows stand in another
 * order. */
static ga_status check_order(const update *u, const ga_batch *batch, int32_t start, ga_error *error) {
    for (int32_t i = 0; i < batch->kept_count; i++) {
        const int32_t row = batch->kept_rows[i];
        const double scored = batch->combined[row];
        const double gathered = u->options->rewards[u->own_start + start + row];
        if (isfinite(scored) && fabs(scored - gathered) > 1e-3 * (1.0 + fabs(scored))) {
            return GA_FAIL(error, GA_ERR_DATA,
                "rank %d, batch %llu, row %d: its reward was %g when scored and is %g among the gathered "
                "ones, so the "
                "host orders or changes rewards in a way that is not known; its own advantages are used",
                (int)u->session->rank, (unsigned long long)batch->number, (int)row, scored, gathered);
        }
    }
    return GA_OK;
}

static ga_status take_memory(update *u, ga_error *error) {
    const ga_session *session = u->session;
    u->own_rows = count_rows(session);
    u->own_start = u->own_rows * session->rank;
    u->placed = u->options->count == (int64_t)u->own_rows * session->world_size;
    u->own = ga_arena_take(u->arena, ga_size(u->own_rows) + 1, sizeof *u->own);
    u->all = ga_arena_take(u->arena, ga_size(u->own_rows) * ga_size(session->world_size) + 1, sizeof *u->all);
    if (u->own == NULL || u->all == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the %d rows of an update", (int)u->own_rows);
    }
    return GA_OK;
}

/* Fills `own`; an error says that the host's rows can't be matched with ours. */
static ga_status collect_own(update *u, ga_error *error) {
    const ga_session *session = u->session;
    ga_status status = GA_OK;
    if (!u->placed) {
        status = GA_FAIL(error, GA_ERR_DATA,
            "the host computes advantages of %lld rows, %d ranks sampled %d rows each; its own advantages "
            "are used",
            (long long)u->options->count, (int)session->world_size, (int)u->own_rows);
    }
    for (int32_t i = 0, start = 0; i < session->batch_count; start += session->batches[i]->rows, i++) {
        fill_batch(u, session->batches[i], start);
        if (status == GA_OK) {
            status = check_order(u, session->batches[i], start, error);
        }
    }
    return status;
}

/* ---- all ranks' outcomes ---- */

static ga_status exchange(update *u, bool matched, ga_error *error) {
    ga_session *session = u->session;
    const ga_update_header header = {.update = session->next_update,
        .fingerprint = session->fingerprint,
        .batches = (uint32_t)session->batch_count,
        .rows = (uint32_t)u->own_rows,
        .probe_version_ready = session->rank == 0 ? session->retrain.ready_version : UINT32_MAX,
        .flags = matched ? 0u : FLAG_HOST_DIFFERS};
    ga_exchange_report report = {0};
    const double deadline_seconds = UPDATE_DEADLINES * session->config->decision.timeout_seconds;
    const ga_status status =
        ga_exchange_update(session->world, &header, u->own, deadline_seconds, u->all, &report, error);
    session->metrics.wait_seconds += report.seconds;
    GA_TRY(status);
    u->exchanged = true;
    u->ready_version = report.probe_version_ready;
    if ((report.flags_any & FLAG_HOST_DIFFERS) != 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "a rank can't match its rows with the host's, so all ranks use the host's own advantages");
    }
    for (int64_t i = 0; i < u->options->count; i++) {
        u->all[i].group = (uint64_t)u->options->groups[i];
        u->pruned |= u->all[i].kept == 0;
    }
    return GA_OK;
}

/* ---- advantages ---- */

static void host_advantages_with_own_zeros(const update *u, double *advantages_out) {
    memcpy(advantages_out, u->options->host_advantages, ga_size(u->options->count) * sizeof *advantages_out);
    for (int32_t i = 0; i < u->own_rows && u->own != NULL && u->placed; i++) {
        if (u->own[i].kept == 0) {
            advantages_out[u->own_start + i] = 0.0;
        }
    }
}

/* τ² and σ_r² from the run's own log, before that what the probe's file says. */
static void read_offsets(const ga_session *session, double *tau2, double *residual_variance) {
    *tau2 = *residual_variance = (double)NAN;
    if (!ga_offsets_estimate(&session->offsets, tau2, residual_variance) && session->probe != NULL) {
        *tau2 = ga_probe_get_info(session->probe)->calibration.tau2;
        *residual_variance = ga_probe_get_info(session->probe)->calibration.sigma_r2;
    }
}

static ga_advantage_options advantage_options(const update *u) {
    static const ga_estimator estimators[] = {
        GA_ESTIMATOR_SHRUNK, GA_ESTIMATOR_DIFFERENCE, GA_ESTIMATOR_SURVIVORS};
    const ga_config *config = u->session->config;
    const ga_std_kind host_std = u->options->host_std == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
    ga_advantage_options options = {.estimator = estimators[config->advantage.estimator],
        .weighting = config->advantage.weights == GA_CONFIG_WEIGHTS_ONE ? GA_WEIGHT_ONE : GA_WEIGHT_INVERSE,
        .clip = config->advantage.clip,
        .std_kind = config->advantage.std == GA_CONFIG_STD_AUTO ? host_std : ga_session_std(u->session),
        .epsilon = 1e-4};
    read_offsets(u->session, &options.tau2, &options.sigma_r2);
    return options;
}

static ga_status whole_group_advantages(update *u, double *advantages_out, ga_error *error) {
    const ga_advantage_options options = advantage_options(u);
    return ga_advantage_compute(
        &options, u->all, (int32_t)u->options->count, u->arena, advantages_out, NULL, error);
}

/* ---- numbers ---- */

static void measure_within(update *u) {
    ga_metrics *m = &u->session->metrics;
    const size_t count = ga_size(u->options->count);
    double *prediction = ga_arena_take(u->arena, count, sizeof *prediction);
    double *reward = ga_arena_take(u->arena, count, sizeof *reward);
    uint64_t *group = ga_arena_take(u->arena, count, sizeof *group);
    if (prediction == NULL || reward == NULL || group == NULL) {
        return;
    }
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const ga_outcome *outcome = &u->all[i];
        if (outcome->kept && outcome->audit && isfinite(outcome->mean)) {
            prediction[used] = (double)outcome->mean;
            reward[used] = outcome->reward;
            group[used++] = outcome->group;
        }
    }
    ga_within within;
    if (used > 0 && ga_within_estimate(GA_WITHIN_SPEARMAN, prediction, reward, group, used,
                        (uint64_t)u->session->config->seed, 500, &within, NULL) == GA_OK) {
        m->within = within;
        m->within_known = true;
    }
}

static void measure_rows(update *u) {
    ga_session *session = u->session;
    ga_metrics *m = &session->metrics;
    const int64_t steps = session->shapes.steps_total;
    const int64_t stopped_steps =
        ga_session_decision_step(session) + 1; /* the decision's own step is whole */
    double reward_sum = 0.0;
    for (int64_t i = 0; i < u->options->count; i++) {
        const ga_outcome *outcome = &u->all[i];
        m->rows++;
        m->kept_rows += outcome->kept;
        m->audited_rows += outcome->audit && outcome->kept;
        m->row_steps_full += steps;
        m->row_steps_run += outcome->kept ? steps : stopped_steps;
        reward_sum += outcome->kept ? outcome->reward : 0.0;
    }
    m->reward_kept_mean = m->kept_rows > 0 ? reward_sum / (double)m->kept_rows : (double)NAN;
    m->imputed_share = 1.0 - (double)m->kept_rows / (double)m->rows;
}

static void measure_seconds(ga_session *session) {
    ga_metrics *m = &session->metrics;
    for (int32_t i = 0; i < session->batch_count; i++) {
        const ga_batch *batch = session->batches[i];
        m->seconds_denoise += batch->seconds[GA_PHASE_DENOISE];
        m->seconds_signal += batch->seconds[GA_PHASE_SIGNAL];
        m->seconds_reward += batch->seconds[GA_PHASE_REWARD];
        m->seconds_own += batch->own_seconds;
        m->seconds_preview += batch->seconds[GA_PHASE_PREVIEW];
        m->seconds_lookahead += batch->seconds[GA_PHASE_LOOKAHEAD];
        m->seconds_distilled += batch->seconds[GA_PHASE_DISTILLED];
        m->seconds_features += ga_batch_feature_seconds(batch);
    }
}

static void measure_costs(ga_session *session) {
    ga_costs *costs = &session->costs;
    ga_costs_age(costs);
    for (int32_t i = 0; i < session->batch_count; i++) {
        const ga_batch *batch = session->batches[i];
        const int32_t stopped_steps = ga_session_decision_step(session) + 1;
        const int32_t stopped = batch->rows - batch->kept_count;
        const double rows = batch->rows;
        ga_costs_add_denoising(costs, batch->seconds[GA_PHASE_DENOISE],
            (double)batch->kept_count * session->shapes.steps_total + (double)stopped * stopped_steps);
        ga_costs_add(costs, GA_COST_PREVIEW, batch->seconds[GA_PHASE_PREVIEW], rows);
        ga_costs_add(costs, GA_COST_LOOKAHEAD, batch->seconds[GA_PHASE_LOOKAHEAD], rows);
        ga_costs_add(costs, GA_COST_DISTILLED, batch->seconds[GA_PHASE_DISTILLED], rows);
        ga_costs_add(costs, GA_COST_FEATURES, ga_batch_feature_seconds(batch), rows);
        ga_costs_add(costs, GA_COST_REWARD, batch->seconds[GA_PHASE_REWARD], batch->kept_count);
    }
}

static void publish_metrics(update *u, double own_seconds) {
    ga_session *session = u->session;
    ga_metrics *m = &session->metrics;
    m->update = session->next_update;
    m->mode = u->pruned ? "prune" : "shadow";
    m->batches = session->batch_count;
    m->probe_version = session->probe_version;
    read_offsets(session, &m->tau2, &m->residual_variance);
    if (u->matched) {
        measure_rows(u);
        measure_within(u);
    }
    measure_seconds(session);
    measure_costs(session);
    m->seconds_own += own_seconds;
    ga_logbook_count(session);
    ga_metrics_publish(m, &session->costs);
    ga_metrics_reset(m);
}

/* ---- the whole ---- */

static void close_batches(ga_session *session) {
    while (session->batch_count > 0) {
        ga_batch_drop(session->batches[session->batch_count - 1]);
    }
}

void ga_batch_drop(ga_batch *batch) {
    ga_session *session = batch->session;
    for (int32_t i = 0; i < session->batch_count; i++) {
        if (session->batches[i] == batch) {
            session->batch_count--;
            memmove(&session->batches[i], &session->batches[i + 1],
                (size_t)(session->batch_count - i) * sizeof session->batches[0]);
            break;
        }
    }
    ga_batch_free(batch);
}

/* A peer that is late update after update costs more than pruning saves. */
static void count_late(ga_session *session, ga_status exchange_status, const ga_error *why) {
    const bool late = session->late_in_update || exchange_status == GA_ERR_LATE;
    session->late_in_update = false;
    session->late_in_a_row = late ? session->late_in_a_row + 1 : 0;
    if (session->late_in_a_row >= GA_SESSION_LATE_IN_A_ROW_MAX) {
        ga_error several = {0};
        (void)GA_FAIL(&several, GA_ERR_LATE, "other ranks were late in %d updates one after the other%s%s",
            (int)session->late_in_a_row, why->message[0] != '\0' ? ", now: " : "", why->message);
        ga_session_pass_through(session, &several);
    }
}

/* Advantages of the update; the collective is issued whatever failed before, so that ranks stay in step. */
static ga_status settle_update(update *u, double *advantages_out, ga_error *error) {
    ga_session *session = u->session;
    const bool together = session->mode != GA_MODE_PASS_THROUGH;
    ga_status status = take_memory(u, error);
    if (status != GA_OK) {
        if (together) {
            ga_world_skip(session->world);
        }
        return status;
    }
    status = collect_own(u, error);
    host_advantages_with_own_zeros(u, advantages_out);
    if (!together) {
        return status;
    }
    ga_error why = {0};
    const ga_status exchange_status = exchange(u, status == GA_OK, &why);
    u->matched = exchange_status == GA_OK;
    count_late(session, exchange_status, &why);
    if (exchange_status != GA_OK) {
        return status != GA_OK ? status : GA_FAIL(error, exchange_status, "%s", why.message);
    }
    if (u->pruned) {
        status = whole_group_advantages(u, advantages_out, error);
        if (status != GA_OK) {
            host_advantages_with_own_zeros(u, advantages_out);
        }
    }
    (void)ga_offsets_add(&session->offsets, u->all, (int32_t)u->options->count, u->arena, NULL);
    return status;
}

/* From now on batches may be pruned, or never: the host must train by advantages and leave zeros out. */
static void learn_of_host(ga_session *session, const ga_update_options *options) {
    session->host_std = options->host_std == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
    session->host_ready = options->prunable != 0;
    if (!session->host_ready && session->mode == GA_MODE_PRUNE && session->rank == 0) {
        ga_log_once(&session->warned[GA_WARNING_HOST], GA_LOG_WARNING,
            "the host's advantages are of a kind that can't be computed from kept rows: nothing is pruned");
    }
}

static void end_update(update *u, const double *advantages) {
    ga_session *session = u->session;
    if (u->placed) {
        ga_logbook_write(session, advantages + u->own_start);
    }
    ga_retrain_step(session, u->exchanged, u->ready_version);
}

ga_status ga_update_finish(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error) {
    const double started_seconds = ga_clock_now(session->clock);
    update u = {.session = session, .options = options, .arena = session->update_arena};
    memcpy(advantages_out, options->host_advantages, ga_size(options->count) * sizeof *advantages_out);
    const ga_status status = settle_update(&u, advantages_out, error);
    learn_of_host(session, options);
    if (session->mode != GA_MODE_PASS_THROUGH) {
        const double settled_seconds = ga_clock_now(session->clock);
        publish_metrics(&u, settled_seconds - started_seconds);
        end_update(&u, advantages_out);
        session->metrics.seconds_own += ga_clock_now(session->clock) - settled_seconds;
    }
    session->next_update++;
    close_batches(session);
    ga_arena_reset(session->update_arena);
    return status;
}
