#include "grpo_accel/session/update.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/session/logbook.h"
#include "grpo_accel/session/look.h"
#include "grpo_accel/session/mode.h"
#include "grpo_accel/session/taught.h"

/* One update on its way; its rows are session->taught. */
typedef struct update {
    ga_session *session;
    const ga_update_options *options;
    uint32_t ready_version; /* of a probe that rank 0 has published */
    bool exchanged;         /* the collective came about */
    ga_exchange_report report;
    ga_taught_figures figures;
} update;

/* The end of an update waits for the slowest rank's rewards: so many times the deadline of a batch. */
enum { UPDATE_DEADLINES = 6 };

/* Bits of the exchange's header. */
enum {
    FLAG_HOST_DIFFERS = 1u, /* this rank can't match its rows with the host's: nobody computes advantages */
    FLAG_NO_CREDIT = 2u     /* pruned rows of this rank can't teach by their predictions */
};

/* ---- all ranks' outcomes ---- */

static ga_update_header header_of(const update *u, bool matched) {
    ga_session *session = u->session;
    const uint32_t credit = ga_taught_may_credit(session) ? 0u : FLAG_NO_CREDIT;
    return (ga_update_header){.update = session->next_update,
        .fingerprint = session->fingerprint,
        .batches = (uint32_t)session->batch_count,
        .rows = (uint32_t)session->taught.own_rows,
        .probe_version_ready = session->rank == 0 ? session->retrain.ready_version : UINT32_MAX,
        .flags = credit | (matched ? 0u : FLAG_HOST_DIFFERS)};
}

static ga_status exchange(update *u, bool matched, ga_error *error) {
    ga_session *session = u->session;
    ga_taught *taught = &session->taught;
    ga_update_header header = header_of(u, matched);
    ga_mode_fill_header(session, &header);
    const double deadline_seconds = UPDATE_DEADLINES * session->config->decision.timeout_seconds;
    const ga_status status = ga_exchange_update(
        session->world, &header, taught->own, deadline_seconds, taught->all, &u->report, error);
    session->metrics.wait_seconds += u->report.seconds;
    GA_TRY(status);
    u->exchanged = true;
    u->ready_version = u->report.probe_version_ready;
    if ((u->report.flags_any & FLAG_HOST_DIFFERS) != 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "a rank can't match its rows with the host's, so all ranks use the host's own advantages");
    }
    taught->credits = (u->report.flags_any & FLAG_NO_CREDIT) == 0;
    for (int64_t i = 0; i < taught->count; i++) {
        taught->all[i].group = (uint64_t)u->options->groups[i];
        taught->pruned |= taught->all[i].kept == 0;
    }
    taught->matched = true;
    return GA_OK;
}

/* ---- numbers ---- */

static void measure_within(update *u) {
    ga_session *session = u->session;
    ga_metrics *m = &session->metrics;
    ga_arena *arena = session->update_arena;
    const size_t count = ga_size((int32_t)session->taught.count);
    double *prediction = ga_arena_take(arena, count, sizeof *prediction);
    double *reward = ga_arena_take(arena, count, sizeof *reward);
    uint64_t *group = ga_arena_take(arena, count, sizeof *group);
    if (prediction == NULL || reward == NULL || group == NULL) {
        return;
    }
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const ga_outcome *outcome = &session->taught.all[i];
        if (outcome->kept && outcome->audit && isfinite(outcome->mean)) {
            prediction[used] = (double)outcome->mean;
            reward[used] = outcome->reward;
            group[used++] = outcome->group;
        }
    }
    ga_within within;
    if (used > 0 && ga_within_estimate(GA_WITHIN_SPEARMAN, prediction, reward, group, used,
                        (uint64_t)session->config->seed, 500, &within, NULL) == GA_OK) {
        m->within = within;
        m->within_known = true;
    }
}

static void measure_rows(update *u) {
    ga_session *session = u->session;
    ga_metrics *m = &session->metrics;
    double reward_sum = 0.0;
    for (int64_t i = 0; i < session->taught.count; i++) {
        const ga_outcome *outcome = &session->taught.all[i];
        m->rows++;
        m->kept_rows += outcome->kept;
        m->audited_rows += outcome->audit && outcome->kept;
        m->row_steps_full += session->shapes.steps_total;
        m->row_steps_run += outcome->steps_run;
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

static void publish_metrics(update *u, double own_seconds) {
    ga_session *session = u->session;
    ga_metrics *m = &session->metrics;
    m->update = session->next_update;
    m->mode = session->taught.pruned ? "prune" : "shadow";
    m->batches = session->batch_count;
    m->probe_version = session->probe_version;
    m->taught = u->figures;
    ga_taught_offsets(session, &m->tau2, &m->residual_variance);
    if (session->taught.matched) {
        measure_rows(u);
        measure_within(u);
    }
    measure_seconds(session);
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
    ga_taught *taught = &session->taught;
    const bool together = session->mode != GA_MODE_PASS_THROUGH;
    ga_status status = ga_taught_collect(session, u->options, error);
    if (status == GA_ERR_MEMORY) {
        if (together) {
            ga_world_skip(session->world);
        }
        return status;
    }
    ga_taught_host_advantages(taught, u->options, advantages_out);
    if (!together) {
        return status;
    }
    ga_error why = {0};
    const ga_status exchange_status = exchange(u, status == GA_OK, &why);
    count_late(session, exchange_status, &why);
    if (exchange_status != GA_OK) {
        return status != GA_OK ? status : GA_FAIL(error, exchange_status, "%s", why.message);
    }
    status = ga_taught_advantages(session, u->options, advantages_out, &u->figures, error);
    (void)ga_offsets_add(&session->offsets, taught->all, (int32_t)taught->count, session->update_arena, NULL);
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
    if (session->taught.placed) {
        ga_logbook_write(session, advantages + session->taught.own_start);
    }
    ga_mode_update_logged(session);
    ga_retrain_step(session, u->exchanged, u->ready_version);
}

ga_status ga_update_finish(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error) {
    const double started_seconds = ga_clock_now(session->clock);
    update u = {.session = session, .options = options};
    memcpy(advantages_out, options->host_advantages, ga_size(options->count) * sizeof *advantages_out);
    const ga_status status = settle_update(&u, advantages_out, error);
    learn_of_host(session, options);
    if (session->mode != GA_MODE_PASS_THROUGH) {
        const ga_taught *taught = &session->taught;
        ga_mode_step(session, u.exchanged ? &u.report : NULL, taught->all,
            taught->matched ? (int32_t)taught->count : 0, options->prunable != 0);
        const double settled_seconds = ga_clock_now(session->clock);
        publish_metrics(&u, settled_seconds - started_seconds);
        end_update(&u, advantages_out);
        session->metrics.seconds_own += ga_clock_now(session->clock) - settled_seconds;
    }
    session->next_update++;
    close_batches(session);
    ga_arena_reset(session->update_arena);
    ga_mode_update_ended(session);
    return status;
}
