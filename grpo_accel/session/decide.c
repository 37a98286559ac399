#include "grpo_accel/session/decide.h"

#include <math.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/select/compact.h"
#include "grpo_accel/select/plan.h"
#include "grpo_accel/session/provider.h"

/* Bits of an exchange's header. */
enum {
    FLAG_KEEP_ALL = 1u /* this rank could not score its rows, so nobody prunes in this batch */
};

static ga_policy_kind policy_of(const ga_session *session) {
    static const ga_policy_kind kinds[] = {GA_POLICY_EXTREMES, GA_POLICY_NEYMAN, GA_POLICY_TOPK,
        GA_POLICY_RANDOM, GA_POLICY_THRESHOLD, GA_POLICY_BUDGET};
    return kinds[session->config->decision.policy];
}

const char *ga_session_policy_name(const ga_session *session) {
    const ga_policy *policy = NULL;
    return ga_policy_find(policy_of(session), &policy, NULL) == GA_OK ? policy->name : "unknown";
}

static void keep_all(ga_batch *batch, const char *reason) {
    for (int32_t row = 0; row < batch->rows; row++) {
        batch->kept[row] = 1;
        batch->inclusion[row] = 1.0;
        batch->kept_rows[row] = row;
    }
    batch->kept_count = batch->rows;
    batch->pruned = false;
    batch->audited = true; /* nothing was selected, so every row is as good as drawn by chance */
    batch->reason = reason;
}

/* ---- scores ---- */

/* Rows of a group that are all in the same state can't be told apart by anything seen so far. */
static ga_status check_state(const ga_batch *batch, ga_error *error) {
    uint64_t *groups = ga_arena_take(batch->arena, (size_t)batch->rows, sizeof *groups);
    if (groups == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the groups of batch %llu",
            (unsigned long long)batch->number);
    }
    for (int32_t row = 0; row < batch->rows; row++) {
        groups[row] = batch->row[row].group;
    }
    ga_shared_state shared;
    GA_TRY(ga_feature_shared_state(&batch->block, groups, &shared, error));
    if (shared.shared_groups > 0 && shared.shared_groups == shared.groups) {
        return GA_FAIL(error, GA_ERR_DATA,
            "all rows of a group are in the same state after step %d (same initial noise, or noise only "
            "later): "
            "set decision.step behind the first noisy step",
            (int)ga_session_decision_step(batch->session));
    }
    return GA_OK;
}

static ga_status score(ga_batch *batch, ga_error *error) {
    ga_session *session = batch->session;
    const uint32_t wanted = session->config->probe.inputs;
    if ((batch->observed & wanted) != wanted) {
        return GA_FAIL(error, GA_ERR_DATA,
            "not every signal of batch %llu was observed (see the warning before)",
            (unsigned long long)batch->number);
    }
    ga_session_meet_device(session, (int32_t)GA_DEVICE_CPU, 0); /* where no tensor came from another one */
    if (session->probe == NULL) {
        return GA_OK;
    }
    batch->probe_version = session->probe_version;
    GA_TRY(ga_probe_score(
        session->probe, &batch->block, session->shapes.sigma, batch->prediction, batch->variance, error));
    return check_state(batch, error);
}

/* ---- agreement ---- */

static void fill_candidates(const ga_batch *batch, ga_candidate *candidates) {
    for (int32_t row = 0; row < batch->rows; row++) {
        candidates[row] = (ga_candidate){.group = batch->row[row].group,
            .mean = batch->prediction[row],
            .variance = batch->variance[row],
            .rank = batch->session->rank,
            .index = row};
    }
}

/* A late batch is counted against its update: between the batches of an update nothing else brings ranks in
 * step. */
static void warn_of_exchange(ga_session *session, ga_status status, const ga_error *why) {
    ga_log_once(&session->warned[status == GA_ERR_LATE ? GA_WARNING_LATE : GA_WARNING_EXCHANGE],
        GA_LOG_WARNING, "a batch is not pruned (further ones will not be reported): %s", why->message);
    session->metrics.late_batches += status == GA_ERR_LATE;
    session->late_in_update |= status == GA_ERR_LATE;
    if (status == GA_ERR_WORLD) {
        ga_session_pass_through(session, why);
    }
}

static ga_status exchange(
    ga_batch *batch, bool scored, ga_candidate *all, ga_exchange_report *report, ga_error *error) {
    ga_session *session = batch->session;
    ga_candidate *own = ga_arena_take(batch->arena, (size_t)batch->rows, sizeof *own);
    if (own == NULL) {
        ga_world_skip(session->world);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the candidates of batch %llu",
            (unsigned long long)batch->number);
    }
    fill_candidates(batch, own);
    const ga_exchange_header header = {.batch = batch->number,
        .fingerprint = session->fingerprint,
        .probe_version = session->probe_version,
        .rows = (uint32_t)batch->rows,
        .flags = scored ? 0u : FLAG_KEEP_ALL};
    /* Who was late once in this update is not waited for again. */
    const double deadline_seconds = session->late_in_update ? 0.0 : session->config->decision.timeout_seconds;
    const ga_status status =
        ga_exchange_batch(session->world, &header, own, deadline_seconds, all, report, error);
    session->metrics.wait_seconds += report->seconds;
    return status;
}

/* ---- plan ---- */

static ga_status plan(ga_batch *batch, const ga_candidate *all, ga_error *error) {
    const ga_session *session = batch->session;
    const ga_config *config = session->config;
    const ga_std_kind std_kind = ga_session_std(session);
    const int32_t floor_auto = std_kind == GA_STD_GLOBAL ? 0 : 2;
    const ga_plan_options options = {.policy = policy_of(session),
        .ranks = session->world_size,
        .keep_per_rank = ga_session_keep_count(session, batch->rows),
        .min_group =
            config->decision.min_group == GA_CONFIG_AUTO ? floor_auto : (int32_t)config->decision.min_group,
        .audit_share = config->decision.audit,
        .seed = (uint64_t)config->seed,
        .batch = batch->number,
        .std_kind = std_kind,
        .threshold = {(ga_threshold_kind)config->decision.threshold.kind, config->decision.threshold.value}};
    ga_plan made;
    ga_compact compact;
    const int32_t count = session->world_size * batch->rows;
    GA_TRY(ga_plan_make(&options, all, count, batch->arena, &made, error));
    GA_TRY(ga_compact_make(all, &made, session->rank, batch->arena, &compact, error));
    for (int32_t i = 0; i < count; i++) {
        if (all[i].rank == session->rank) {
            batch->kept[all[i].index] = made.kept[i];
            batch->inclusion[all[i].index] = made.inclusion[i];
        }
    }
    for (int32_t i = 0; i < compact.kept; i++) {
        batch->kept_rows[i] = compact.gather[i];
    }
    batch->kept_count = compact.kept;
    batch->audited = made.audited;
    batch->pruned = compact.kept < batch->rows;
    batch->reason = made.audited ? "audit" : "pruned";
    return GA_OK;
}

/* Agree, plan, or keep everything with the reason; `reason`: why this rank can't plan, or NULL. */
static void agree_and_plan(ga_batch *batch, const char *reason, ga_error *why) {
    ga_session *session = batch->session;
    ga_exchange_report report = {0};
    const size_t count = (size_t)session->world_size * (size_t)batch->rows;
    ga_candidate *all = ga_arena_take(batch->arena, count, sizeof *all);
    if (all == NULL) {
        ga_world_skip(session->world);
        keep_all(batch, "memory");
        return;
    }
    const ga_status status = exchange(batch, reason == NULL, all, &report, why);
    if (status != GA_OK) {
        keep_all(batch, ga_status_name(status));
        warn_of_exchange(session, status, why);
        return;
    }
    if ((report.flags_any & FLAG_KEEP_ALL) != 0) {
        keep_all(batch, reason != NULL ? reason : "a rank has no scores");
    } else if (plan(batch, all, why) != GA_OK) {
        keep_all(batch, "no plan");
        ga_log_once(
            &session->warned[GA_WARNING_PLAN], GA_LOG_WARNING, "a batch is not pruned: %s", why->message);
    } else {
        session->metrics.pruned_batches += batch->pruned;
    }
}

bool ga_decide_collective(const ga_session *session) {
    return session->mode == GA_MODE_PRUNE && session->host_ready;
}

/* Why this rank has no scores to plan with; NULL: it has them. */
static const char *obstacle(ga_batch *batch) {
    ga_session *session = batch->session;
    ga_error why = {0};
    if (score(batch, &why) != GA_OK) {
        ga_log_once(&session->warned[GA_WARNING_SCORES], GA_LOG_WARNING,
            "a batch has no scores and is not pruned: %s", why.message);
        return "no scores";
    }
    return session->probe == NULL && policy_of(session) != GA_POLICY_RANDOM ? "no probe yet" : NULL;
}

void ga_decide(ga_batch *batch) {
    const ga_session *session = batch->session;
    const char *reason = obstacle(batch);
    if (ga_decide_collective(session)) {
        ga_error why = {0};
        agree_and_plan(batch, reason, &why);
    } else {
        keep_all(batch, session->mode == GA_MODE_PRUNE ? "first update" : "shadow");
    }
    batch->decided = true;
}
