#include "grpo_accel/session/decide.h"

#include <math.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/select/compact.h"
#include "grpo_accel/select/plan.h"
#include "grpo_accel/session/mode.h"
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

/* All rows that still run go on, at this look and at those that follow. */
static void keep_running(ga_batch *batch, const char *reason) {
    batch->settled = true;
    batch->reason = reason;
    if (batch->look_now == 0) {
        batch->audited = true; /* nothing was selected, so every row is as good as drawn by chance */
    }
}

/* ---- scores ---- */

/* Rows of a group that are all in the same state can't be told apart by anything seen so far. Where no group
 * has two rows here, or nothing was seen that tells of a state, a look says nothing of it; later looks of a
 * race see some rows only and are not counted. */
static ga_status check_state(const ga_batch *batch, const ga_look *look, ga_error *error) {
    uint64_t *groups = ga_arena_take(batch->arena, ga_size(look->block.rows), sizeof *groups);
    if (groups == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the groups of batch %llu",
            (unsigned long long)batch->number);
    }
    for (int32_t i = 0; i < look->block.rows; i++) {
        groups[i] = batch->row[look->row[i]].group;
    }
    ga_shared_state shared;
    GA_TRY(ga_feature_shared_state(&look->block, groups, &shared, error));
    const bool same = shared.shared_groups > 0 && shared.shared_groups == shared.groups;
    if (shared.groups > 0 && look->block.rows == batch->rows) {
        ga_mode_state_seen(batch->session, look->candidate, same);
    }
    if (same) {
        return GA_FAIL(error, GA_ERR_DATA,
            "all rows of a group are in the same state after step %d (same initial noise, or noise only "
            "later): "
            "set decision.step behind the first noisy step",
            (int)batch->steps[batch->look_now]);
    }
    return GA_OK;
}

/* The combined score of a guessed image, where it stands in for a probe. */
static ga_status read_scores(
    const ga_look *look, ga_input input, float *mean, float *variance, ga_error *error) {
    const ga_feature_schema *schema = look->block.schema;
    int32_t place = 0;
    while (place < schema->input_count && schema->inputs[place].input != input) {
        place++;
    }
    if (place == schema->input_count) {
        return GA_FAIL(error, GA_ERR_BUG, "the score that probe.direct names is no feature of this run");
    }
    for (int32_t i = 0; i < look->block.rows; i++) {
        const ga_half *row = look->block.values + (int64_t)i * schema->values_per_row;
        mean[i] = ga_half_to_float(row[schema->inputs[place].offset]);
        variance[i] = 0;
    }
    return GA_OK;
}

static ga_status ask(ga_batch *batch, const ga_look *look, float *mean, float *variance, ga_error *error) {
    const ga_config_direct direct = batch->session->config->probe.direct;
    if (direct == GA_CONFIG_DIRECT_NONE) {
        batch->probe_version = batch->session->probe_version;
        return ga_probe_score(batch->session->probe, &look->block, look->sigma, mean, variance, error);
    }
    const ga_input input = direct == GA_CONFIG_DIRECT_PREVIEW ? GA_INPUT_PREVIEW : GA_INPUT_LOOKAHEAD;
    return read_scores(look, input, mean, variance, error);
}

static bool can_predict(const ga_session *session) {
    return session->probe != NULL || session->config->probe.direct != GA_CONFIG_DIRECT_NONE;
}

static ga_status predict(ga_batch *batch, ga_look *look, ga_error *error) {
    const int32_t rows = look->block.rows;
    float *mean = ga_arena_take(batch->arena, ga_size(rows), sizeof *mean);
    float *variance = ga_arena_take(batch->arena, ga_size(rows), sizeof *variance);
    if (mean == NULL || variance == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the scores of batch %llu",
            (unsigned long long)batch->number);
    }
    GA_TRY(ask(batch, look, mean, variance, error));
    for (int32_t i = 0; i < rows; i++) {
        const int32_t row = look->row[i];
        look->prediction[row] = mean[i];
        look->variance[row] = variance[i];
        if (isfinite(mean[i])) { /* an older one is better than none */
            batch->prediction[row] = mean[i];
            batch->variance[row] = variance[i];
        }
    }
    return GA_OK;
}

static ga_status score(ga_batch *batch, ga_look *look, ga_error *error) {
    ga_session *session = batch->session;
    const uint32_t wanted = session->config->probe.inputs;
    if ((look->observed & wanted) != wanted) {
        return GA_FAIL(error, GA_ERR_DATA,
            "not every signal of batch %llu was observed after step %d (see the warning before)",
            (unsigned long long)batch->number, (int)batch->steps[batch->look_now]);
    }
    ga_session_meet_device(session, (int32_t)GA_DEVICE_CPU, 0); /* where no tensor came from another one */
    if (look->block.rows == batch->rows) {
        ga_mode_look(session, &look->block, look->candidate);
    }
    ga_error why = {0};
    const ga_status state = check_state(batch, look, &why);
    if (!can_predict(session)) {
        return GA_OK;
    }
    GA_TRY(predict(batch, look, error));
    return state == GA_OK ? GA_OK : GA_FAIL(error, state, "%s", why.message);
}

/* ---- agreement ---- */

/* How many rows this rank speaks for. One that has given up on the batch speaks for as many as its peers have
 * by now, so that they hear its flag and not a difference in rows. */
static int32_t count_own(const ga_batch *batch) {
    const int32_t running = batch->kept_count;
    if (!batch->settled || batch->look_now == 0) {
        return running;
    }
    const int32_t planned = ga_strategy_keep_count(&batch->strategy, batch->look_now - 1, batch->rows);
    return planned < running ? planned : running;
}

/* Rows that run are numbered densely: a plan knows nothing of the others. */
static void fill_candidates(const ga_batch *batch, const ga_look *look, int32_t count, ga_candidate *own) {
    for (int32_t i = 0; i < count; i++) {
        const int32_t row = look->row[i];
        own[i] = (ga_candidate){.group = batch->row[row].group,
            .mean = look->prediction[row],
            .variance = look->variance[row],
            .rank = batch->session->rank,
            .index = i};
    }
}

/* A late batch is counted against its update: between the batches of an update nothing else brings ranks in
 * step. */
static void warn_of_exchange(ga_session *session, bool settled, ga_status status, const ga_error *why) {
    ga_log_once(&session->warned[status == GA_ERR_LATE ? GA_WARNING_LATE : GA_WARNING_EXCHANGE],
        GA_LOG_WARNING, "a batch is not pruned (further ones will not be reported): %s", why->message);
    session->metrics.late_batches += status == GA_ERR_LATE && !settled;
    session->late_in_update |= status == GA_ERR_LATE;
    if (status == GA_ERR_WORLD) {
        ga_session_pass_through(session, why);
    }
}

static ga_status exchange(
    ga_batch *batch, bool scored, ga_candidate *all, ga_exchange_report *report, ga_error *error) {
    ga_session *session = batch->session;
    const int32_t rows = count_own(batch);
    ga_candidate *own = ga_arena_take(batch->arena, ga_size(rows), sizeof *own);
    if (own == NULL) {
        ga_world_skip(session->world);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the candidates of batch %llu",
            (unsigned long long)batch->number);
    }
    fill_candidates(batch, &batch->look[batch->look_now], rows, own);
    const ga_exchange_header header = {.batch = batch->number,
        .fingerprint = session->fingerprint,
        .probe_version = session->probe_version,
        .rows = (uint32_t)rows,
        .flags = scored ? 0u : FLAG_KEEP_ALL,
        .stage = (uint32_t)batch->look_now};
    /* Who was late once in this update is not waited for again. */
    const double deadline_seconds = session->late_in_update ? 0.0 : session->config->decision.timeout_seconds;
    const ga_status status =
        ga_exchange_batch(session->world, &header, own, deadline_seconds, all, report, error);
    session->metrics.wait_seconds += report->seconds;
    return status;
}

/* ---- plan ---- */

ga_plan_options ga_decide_options(const ga_session *session) {
    const ga_config *config = session->config;
    const ga_std_kind std_kind = ga_session_std(session);
    const int32_t floor_auto = std_kind == GA_STD_GLOBAL ? 0 : 2;
    return (ga_plan_options){.policy = policy_of(session),
        .ranks = session->world_size,
        .min_group =
            config->decision.min_group == GA_CONFIG_AUTO ? floor_auto : (int32_t)config->decision.min_group,
        .max_group = (int32_t)config->decision.max_group,
        .min_inclusion = config->decision.min_inclusion,
        .audit_share = config->decision.audit,
        .seed = (uint64_t)config->seed,
        .std_kind = std_kind,
        .threshold = {(ga_threshold_kind)config->decision.threshold.kind, config->decision.threshold.value}};
}

static ga_plan_options plan_options(const ga_batch *batch) {
    ga_plan_options options = ga_decide_options(batch->session);
    options.keep_per_rank = ga_strategy_keep_count(&batch->strategy, batch->look_now, batch->rows);
    options.batch = batch->number;
    options.stage = batch->look_now;
    options.chance_before = batch->by_chance;
    options.stopped = batch->stopped;
    options.stopped_count = batch->stopped_count;
    return options;
}

static int32_t count_groups(const ga_candidate *all, int32_t count) {
    int32_t groups = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t first = 0;
        while (all[first].group != all[i].group) {
            first++;
        }
        groups += first == i;
    }
    return groups;
}

/* The same number of rows of each group; where they don't come out even, one more of some. */
static void even_out(ga_plan_options *options, const ga_candidate *all, int32_t count) {
    const int32_t groups = count_groups(all, count);
    const int64_t kept = (int64_t)options->ranks * options->keep_per_rank;
    if (groups > 0) {
        options->min_group = (int32_t)(kept / groups);
        options->max_group = (int32_t)((kept + groups - 1) / groups);
    }
}

/* This rank's part of a plan; `all` [count] as it was made from. */
static void take_plan(
    ga_batch *batch, const ga_plan *made, const ga_compact *compact, const ga_candidate *all) {
    const ga_look *look = &batch->look[batch->look_now];
    for (int32_t i = 0; i < made->count; i++) {
        if (all[i].rank == batch->session->rank) {
            const int32_t row = look->row[all[i].index];
            batch->kept[row] = made->kept[i];
            batch->inclusion[row] *= made->inclusion[i];
        }
        if (made->kept[i] == 0) {
            batch->stopped[batch->stopped_count++] = all[i];
        }
    }
    for (int32_t i = 0; i < compact->kept; i++) {
        batch->kept_rows[i] = look->row[compact->gather[i]];
    }
    const bool stopped_some = compact->kept < batch->kept_count;
    batch->session->metrics.pruned_batches += stopped_some && !batch->pruned;
    batch->kept_count = compact->kept;
    batch->pruned |= stopped_some;
    batch->by_chance |= made->audited;
    batch->plan_checksum = ga_digest_join(batch->plan_checksum, made->checksum);
    batch->audited = batch->look_now == 0 ? made->audited : batch->audited;
    batch->reason = made->audited ? "audit" : "pruned";
}

static ga_status plan(ga_batch *batch, const ga_candidate *all, ga_error *error) {
    const ga_session *session = batch->session;
    ga_plan_options options = plan_options(batch);
    const size_t rows_of_all = ga_size(session->world_size) * ga_size(batch->rows);
    ga_plan made;
    ga_compact compact;
    if (batch->stopped == NULL) {
        batch->stopped = ga_arena_take(batch->arena, rows_of_all, sizeof *batch->stopped);
    }
    if (batch->stopped == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a plan of %zu rows", rows_of_all);
    }
    const int32_t count = session->world_size * batch->kept_count;
    if (session->config->decision.even_groups) {
        even_out(&options, all, count);
    }
    GA_TRY(ga_plan_make(&options, all, count, batch->arena, &made, error));
    GA_TRY(ga_compact_make(all, &made, session->rank, batch->arena, &compact, error));
    take_plan(batch, &made, &compact, all);
    return GA_OK;
}

/* Agree, plan, or keep everything with the reason; `reason`: why this rank can't plan, or NULL. */
static void agree_and_plan(ga_batch *batch, const char *reason, ga_error *why) {
    ga_session *session = batch->session;
    ga_exchange_report report = {0};
    const size_t count = ga_size(session->world_size) * ga_size(batch->kept_count);
    ga_candidate *all = ga_arena_take(batch->arena, count, sizeof *all);
    if (all == NULL) {
        ga_world_skip(session->world);
        keep_running(batch, "memory");
        return;
    }
    const ga_status status = exchange(batch, reason == NULL, all, &report, why);
    if (status != GA_OK) {
        warn_of_exchange(session, batch->settled, status, why);
        keep_running(batch, ga_status_name(status));
    } else if ((report.flags_any & FLAG_KEEP_ALL) != 0) {
        keep_running(batch, reason != NULL ? reason : "a rank has no scores");
    } else if (plan(batch, all, why) != GA_OK) {
        keep_running(batch, "no plan");
        ga_log_once(
            &session->warned[GA_WARNING_PLAN], GA_LOG_WARNING, "a batch is not pruned: %s", why->message);
    }
}

bool ga_decide_collective(const ga_session *session) {
    const bool works = session->mode != GA_MODE_OFF && session->mode != GA_MODE_PASS_THROUGH;
    return works && session->strategy.prune && session->host_ready;
}

/* Why this rank has no scores to plan with; NULL: it has them. */
static const char *obstacle(ga_batch *batch) {
    ga_session *session = batch->session;
    ga_error why = {0};
    if (score(batch, &batch->look[batch->look_now], &why) != GA_OK) {
        ga_log_once(&session->warned[GA_WARNING_SCORES], GA_LOG_WARNING,
            "a batch has no scores and is not pruned: %s", why.message);
        return "no scores";
    }
    if (batch->settled) {
        return batch->reason;
    }
    return !can_predict(session) && policy_of(session) != GA_POLICY_RANDOM ? "no probe yet" : NULL;
}

void ga_decide(ga_batch *batch) {
    const char *reason = obstacle(batch);
    const bool meets = batch->look_now < batch->decisions;
    if (meets && ga_decide_collective(batch->session)) {
        ga_error why = {0};
        agree_and_plan(batch, reason, &why);
    } else {
        keep_running(batch, batch->strategy.prune ? "first update" : "shadow");
    }
    ga_batch_turn(batch);
}
