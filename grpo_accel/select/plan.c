#include "grpo_accel/select/plan.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/select/budget.h"
#include "grpo_accel/select/extremes.h"
#include "grpo_accel/select/inclusion.h"
#include "grpo_accel/select/rounding.h"

enum { STAGE_LAST = 2 };

/* A plan on its way, by slot. */
typedef struct draft {
    const ga_plan_options *options;
    const ga_policy *policy;
    ga_arena *arena;
    ga_grid grid;
    ga_values values;
    double *weight;
    double *inclusion;
    uint8_t *kept;
    ga_bounds asked;  /* as the options have them */
    ga_bounds bounds; /* the policy's, and from choose_best() on those that hold */
    int32_t keep_per_rank;
    int32_t lowered_floor_count;
    int32_t raised_cap_count;
    bool audited;
} draft;

static ga_status check_threshold(const ga_plan_options *options, ga_error *error) {
    const ga_threshold *threshold = &options->threshold;
    const bool quantile = threshold->kind == GA_THRESHOLD_QUANTILE;
    const bool value_ok =
        quantile ? threshold->value >= 0 && threshold->value <= 1 : !isnan(threshold->value);
    if (options->policy == GA_POLICY_THRESHOLD &&
        ((int)threshold->kind < 0 || threshold->kind > GA_THRESHOLD_ADVANTAGE || !value_ok)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "threshold %g of kind %d: a quantile lies in [0, 1]",
            threshold->value, (int)threshold->kind);
    }
    return GA_OK;
}

static ga_status check_options(const ga_plan_options *options, ga_error *error) {
    if (options->min_group < 0 || !(options->audit_share >= 0 && options->audit_share <= 1)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "min_group %d must be ≥ 0 and audit share %g in [0, 1]",
            (int)options->min_group, options->audit_share);
    }
    if (options->max_group < 0 || options->stage < 0 || options->stage > STAGE_LAST ||
        !(options->min_inclusion >= 0 && options->min_inclusion <= 1)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "max_group %d must be ≥ 0, decision %d in 0 … %d, least inclusion %g in [0, 1]",
            (int)options->max_group, (int)options->stage, (int)STAGE_LAST, options->min_inclusion);
    }
    if (options->stopped_count < 0 || (options->stopped_count > 0 && options->stopped == NULL)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%d stopped rows at no place", (int)options->stopped_count);
    }
    if (options->std_kind != GA_STD_GLOBAL && options->std_kind != GA_STD_GROUP) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "unknown kind of standard deviation %d", (int)options->std_kind);
    }
    return check_threshold(options, error);
}

/* Rows a rank keeps: the quota, or the policy's wish for the batch spread over the ranks, rounded up. */
static int32_t quota(const draft *d) {
    int64_t keep = d->options->keep_per_rank;
    if (d->policy->want != NULL) {
        const int64_t wanted = d->policy->want(&d->grid, &d->values, &d->options->threshold);
        keep = (wanted + d->grid.ranks - 1) / d->grid.ranks;
    }
    const int64_t rows = d->grid.rows_per_rank;
    return (int32_t)(keep < 1 ? 1 : (keep > rows ? rows : keep));
}

static ga_status take_draft(draft *d, ga_error *error) {
    const size_t count = ga_size(d->grid.count);
    d->weight = ga_arena_take(d->arena, count, sizeof *d->weight);
    d->inclusion = ga_arena_take(d->arena, count, sizeof *d->inclusion);
    d->kept = ga_arena_take(d->arena, count, sizeof *d->kept);
    if (d->weight == NULL || d->inclusion == NULL || d->kept == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a plan of %d rows", (int)d->grid.count);
    }
    const ga_plan_options *o = d->options;
    GA_TRY(ga_bounds_make(&d->grid, o->min_group, o->max_group, d->arena, &d->asked, error));
    return ga_bounds_make(&d->grid, o->min_group, o->max_group, d->arena, &d->bounds, error);
}

/* Each decision of a batch draws from its own streams: those of the first, 16 further on for each later one.
 */
static ga_random stream(const draft *d, ga_random_stream which) {
    const unsigned number = (unsigned)which + 16u * (unsigned)d->options->stage;
    return ga_random_make(d->options->seed, d->options->batch, (ga_random_stream)number);
}

/* The best set by d->weight under quotas and bounds; ties by chance. */
static ga_status choose_best(draft *d, ga_error *error) {
    return ga_extremes_choose(&d->grid, d->weight, d->keep_per_rank, stream(d, GA_STREAM_POLICY), d->arena,
        &d->bounds, d->kept, error);
}

/* A budget's shares are caps that add up to all rows: each group gets its own, as far as quotas allow. */
static ga_status decide_by_order(draft *d, ga_error *error) {
    if (d->policy->spreads_budget) {
        GA_TRY(ga_budget_spread(&d->grid, &d->values, &d->asked, d->keep_per_rank * d->grid.ranks,
            stream(d, GA_STREAM_ROUNDING), d->arena, d->bounds.cap, error));
    }
    GA_TRY(choose_best(d, error));
    for (int32_t slot = 0; slot < d->grid.count; slot++) {
        d->inclusion[slot] = d->kept[slot];
    }
    return GA_OK;
}

static bool is_bounded(const draft *d) {
    return d->options->min_group > 0 || d->options->max_group > 0;
}

static bool bounds_hold(const draft *d) {
    for (int32_t group = 0; group < d->grid.groups; group++) {
        int32_t held = 0;
        for (int32_t i = d->grid.member_start[group]; i < d->grid.member_start[group + 1]; i++) {
            held += d->kept[d->grid.member[i]];
        }
        if (held < d->bounds.floor[group] || held > d->bounds.cap[group]) {
            return false;
        }
    }
    return true;
}

/*
 * Bounds that quotas allow, probabilities that meet them, a draw. A group whose probabilities add up to its
 * bound but for rounding can be drawn past it, once in 1e9 draws or less: then the set next to the drawn one
 * is taken.
 */
static ga_status decide_by_chance(draft *d, ga_error *error) {
    ga_inclusion_limits limits = {.keep_per_rank = d->keep_per_rank, .least = d->options->min_inclusion};
    if (is_bounded(d)) {
        GA_TRY(choose_best(d, error));
        limits.bounds = &d->bounds;
    }
    GA_TRY(ga_inclusion_fit(&d->grid, d->weight, &limits, d->arena, d->inclusion, error));
    GA_TRY(ga_rounding_draw(&d->grid, d->inclusion, stream(d, GA_STREAM_ROUNDING), d->arena, d->kept, error));
    if (!is_bounded(d) || bounds_hold(d)) {
        return GA_OK;
    }
    for (int32_t slot = 0; slot < d->grid.count; slot++) {
        d->weight[slot] = d->kept[slot];
    }
    return choose_best(d, error);
}

/* Replaces the policy's set, not its probabilities, by one of chance alone. */
static ga_status draw_audit(draft *d, ga_error *error) {
    for (int32_t slot = 0; slot < d->grid.count; slot++) {
        d->weight[slot] = (double)d->keep_per_rank / (double)d->grid.rows_per_rank;
    }
    return ga_rounding_draw(&d->grid, d->weight, stream(d, GA_STREAM_ROUNDING), d->arena, d->kept, error);
}

static void count_broken_bounds(draft *d) {
    for (int32_t group = 0; group < d->grid.groups; group++) {
        d->lowered_floor_count += d->bounds.floor[group] < d->asked.floor[group];
        d->raised_cap_count += d->bounds.cap[group] > d->asked.cap[group];
    }
}

/* What an audit began, chance alone goes on with. */
static ga_status continue_audit(draft *d, ga_error *error) {
    for (int32_t slot = 0; slot < d->grid.count; slot++) {
        d->inclusion[slot] = (double)d->keep_per_rank / (double)d->grid.rows_per_rank;
    }
    d->audited = true;
    return draw_audit(d, error);
}

static ga_status decide(draft *d, ga_error *error) {
    if (d->options->chance_before) {
        return continue_audit(d, error);
    }
    const double share = d->options->audit_share;
    d->policy->weigh(&d->grid, &d->values, &d->options->threshold, d->weight);
    GA_TRY(d->policy->by_chance ? decide_by_chance(d, error) : decide_by_order(d, error));
    count_broken_bounds(d);
    ga_inclusion_mix_audit(d->inclusion, d->grid.count, share, d->keep_per_rank, d->grid.rows_per_rank);
    ga_random random = stream(d, GA_STREAM_AUDIT);
    d->audited = ga_random_uniform(&random) < share;
    if (d->audited) {
        GA_TRY(draw_audit(d, error));
    } else if (d->options->policy == GA_POLICY_RANDOM && !is_bounded(d)) {
        d->audited = true; /* nothing but chance here either */
    }
    return GA_OK;
}

/* Also proves the quota: the plan is refused rather than given with unequal ranks. */
static ga_status checksum_of(const draft *d, uint64_t *checksum_out, ga_error *error) {
    uint64_t *words = ga_arena_take(d->arena, 2 * ga_size(d->grid.count) + 1, sizeof *words);
    if (words == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a plan of %d rows", (int)d->grid.count);
    }
    size_t filled = 0;
    words[filled++] = d->options->batch;
    for (int32_t rank = 0; rank < d->grid.ranks; rank++) {
        int32_t kept = 0;
        const int32_t first = rank * d->grid.rows_per_rank;
        for (int32_t slot = first; slot < first + d->grid.rows_per_rank; slot++) {
            if (d->kept[slot]) {
                words[filled++] = d->grid.group_key[d->grid.group[slot]];
                words[filled++] = (uint64_t)slot;
                kept++;
            }
        }
        GA_REQUIRE(error, kept == d->keep_per_rank);
    }
    *checksum_out = ga_digest64(words, filled * sizeof *words);
    return GA_OK;
}

/* From slots to the order in which the candidates were given. */
static ga_status publish(const draft *d, ga_plan *plan_out, ga_error *error) {
    const size_t count = ga_size(d->grid.count);
    uint64_t checksum = 0;
    uint8_t *kept = ga_arena_take(d->arena, count, sizeof *kept);
    double *inclusion = ga_arena_take(d->arena, count, sizeof *inclusion);
    if (kept == NULL || inclusion == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a plan of %d rows", (int)d->grid.count);
    }
    GA_TRY(checksum_of(d, &checksum, error));
    for (size_t i = 0; i < count; i++) {
        kept[i] = d->kept[d->grid.slot_of_input[i]];
        inclusion[i] = d->inclusion[d->grid.slot_of_input[i]];
    }
    *plan_out = (ga_plan){
        .count = d->grid.count,
        .kept = kept,
        .inclusion = inclusion,
        .audited = d->audited,
        .keep_per_rank = d->keep_per_rank,
        .rows_per_rank = d->grid.rows_per_rank,
        .lowered_floor_count = d->lowered_floor_count,
        .raised_cap_count = d->raised_cap_count,
        .unscored_count = d->values.unscored_count,
        .checksum = checksum,
    };
    return GA_OK;
}

ga_status ga_plan_make(const ga_plan_options *options, const ga_candidate *candidates, int32_t count,
    ga_arena *arena, ga_plan *plan_out, ga_error *error) {
    if (options == NULL || plan_out == NULL || arena == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "plan without options, arena or a place for the result");
    }
    draft d = {.options = options, .arena = arena};
    GA_TRY(check_options(options, error));
    GA_TRY(ga_policy_find(options->policy, &d.policy, error));
    GA_TRY(ga_grid_make(candidates, count, options->ranks, arena, &d.grid, error));
    const ga_value_options units = {.std_kind = options->std_kind,
        .stopped = options->stopped,
        .stopped_count = options->stopped_count,
        .whole = options->stage == 0 || options->stopped != NULL};
    GA_TRY(ga_values_compute(&d.grid, &units, arena, &d.values, error));
    GA_TRY(take_draft(&d, error));
    d.keep_per_rank = quota(&d);
    GA_TRY(decide(&d, error));
    return publish(&d, plan_out, error);
}
