#include "grpo_accel/session/replan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/estimate/downsample.h"

/* ---- the batch as it was ---- */

/* The host's advantages of whole groups, which those of the estimator are held against: with all rows known
 * they are the host's to the bit, with rows known by chance their best estimate. */
static ga_advantage_options truth_of(const ga_replan_batch *batch, ga_std_kind std_kind) {
    return (ga_advantage_options){.estimator = GA_ESTIMATOR_SHRUNK,
        .weighting = GA_WEIGHT_ONE,
        .clip = 10.0,
        .std_kind = std_kind,
        .epsilon = batch->estimator.epsilon,
        .tau2 = batch->estimator.tau2,
        .sigma_r2 = batch->estimator.sigma_r2};
}

/* What the run would compute after this course. */
static ga_advantage_options estimator_of(
    const ga_replan_batch *batch, const ga_course *course, ga_std_kind std_kind) {
    ga_advantage_options options = batch->estimator;
    const bool noise_is_over = batch->noise_end_step > 0 && batch->noise_end_step <= course->step[0];
    options.std_kind = std_kind;
    options.prefix_credit = options.prefix_credit && noise_is_over;
    return options;
}

static bool is_known(const ga_outcome *row) {
    return row->kept && isfinite(row->reward);
}

static int32_t count_known(const ga_replan_batch *batch) {
    int32_t known = 0;
    for (int32_t i = 0; i < batch->count; i++) {
        known += is_known(&batch->rows[i]);
    }
    return known;
}

static int descending(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a < b) - (a > b);
}

/* Marks the known rows that are truly extreme. */
static void mark_extremes(
    const ga_replan_batch *batch, const double *advantage, double *scratch, uint8_t *extreme) {
    int32_t known = 0;
    for (int32_t i = 0; i < batch->count; i++) {
        extreme[i] = 0;
        if (is_known(&batch->rows[i])) {
            scratch[known++] = fabs(advantage[i]);
        }
    }
    if (known == 0) {
        return;
    }
    qsort(scratch, ga_size(known), sizeof *scratch, descending);
    const int32_t wanted = (int32_t)ceil(GA_REPLAN_EXTREME_SHARE * known);
    const double least = scratch[wanted - 1];
    for (int32_t i = 0; i < batch->count; i++) {
        extreme[i] = is_known(&batch->rows[i]) && least > 0 && fabs(advantage[i]) >= least;
    }
}

static int ascending_keys(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int32_t place_of(const uint64_t *keys, int32_t count, uint64_t key) {
    const uint64_t *found = bsearch(&key, keys, ga_size(count), sizeof key, ascending_keys);
    return found == NULL ? 0 : (int32_t)(found - keys);
}

/* Deals groups to parts, in the order of their keys. */
static int32_t deal_parts(const ga_replan_batch *batch, int32_t parts_max, uint64_t *keys, int32_t *part) {
    for (int32_t i = 0; i < batch->count; i++) {
        keys[i] = batch->rows[i].group;
    }
    qsort(keys, ga_size(batch->count), sizeof *keys, ascending_keys);
    int32_t groups = 0;
    for (int32_t i = 0; i < batch->count; i++) {
        if (i == 0 || keys[i] != keys[groups - 1]) {
            keys[groups++] = keys[i];
        }
    }
    for (int32_t i = 0; i < batch->count; i++) {
        part[i] = place_of(keys, groups, batch->rows[i].group) % parts_max;
    }
    return groups < parts_max ? groups : parts_max;
}

ga_status ga_replan_make(const ga_replan_batch *batch, const ga_plan_options *plan, int32_t parts_max,
    ga_arena *arena, ga_replan *replan_out, ga_error *error) {
    const size_t count = ga_size(batch->count);
    double *advantage = ga_arena_take(arena, count + 1, sizeof *advantage);
    double *scratch = ga_arena_take(arena, count + 1, sizeof *scratch);
    uint8_t *extreme = ga_arena_take(arena, count + 1, sizeof *extreme);
    uint64_t *keys = ga_arena_take(arena, count + 1, sizeof *keys);
    int32_t *part = ga_arena_take(arena, count + 1, sizeof *part);
    if (advantage == NULL || scratch == NULL || extreme == NULL || keys == NULL || part == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to plan %d rows again", (int)batch->count);
    }
    const ga_advantage_options options = truth_of(batch, plan->std_kind);
    GA_TRY(ga_advantage_compute(&options, batch->rows, batch->count, arena, advantage, NULL, error));
    mark_extremes(batch, advantage, scratch, extreme);
    const int32_t known = count_known(batch);
    *replan_out = (ga_replan){.batch = *batch,
        .advantage = advantage,
        .extreme = extreme,
        .weight = known > 0 ? (double)batch->count / known : 0.0,
        .part = part,
        .part_count = deal_parts(batch, parts_max, keys, part)};
    return GA_OK;
}

bool ga_replan_can(const ga_replan *replan, const ga_course *course) {
    const ga_replan_batch *batch = &replan->batch;
    for (int32_t stage = 0; stage < course->stage_count; stage++) {
        int64_t predicted = 0, wanted = 0;
        for (int32_t i = 0; i < batch->count; i++) {
            const bool counts = stage == 0 || is_known(&batch->rows[i]);
            wanted += counts;
            predicted += counts && isfinite(batch->rows[i].candidate_mean[course->candidate[stage]]);
        }
        /* a few rows with a feature that was not finite are kept, as they are in earnest */
        if (wanted == 0 || 10 * predicted < 9 * wanted) {
            return false;
        }
    }
    return batch->count > 0;
}

/* ---- the batch as it would have been ---- */

/* Rows on their way through the decisions of a course. */
typedef struct running {
    const ga_replan_batch *batch;
    uint8_t *kept;         /* [count] */
    double *inclusion;     /* [count] */
    float *mean;           /* [count] newest prediction */
    int32_t *place;        /* [count] of the candidates: their row */
    ga_candidate *now;     /* [count] */
    ga_candidate *stopped; /* [count] */
    int32_t now_count, stopped_count;
} running;

static ga_status start_running(
    const ga_replan_batch *batch, ga_arena *arena, running *rows_out, ga_error *error) {
    const size_t count = ga_size(batch->count);
    running rows = {.batch = batch,
        .kept = ga_arena_take(arena, count, sizeof *rows.kept),
        .inclusion = ga_arena_take(arena, count, sizeof *rows.inclusion),
        .mean = ga_arena_take(arena, count, sizeof *rows.mean),
        .place = ga_arena_take(arena, count, sizeof *rows.place),
        .now = ga_arena_take(arena, count, sizeof *rows.now),
        .stopped = ga_arena_take(arena, count, sizeof *rows.stopped)};
    if (rows.kept == NULL || rows.inclusion == NULL || rows.mean == NULL || rows.place == NULL ||
        rows.now == NULL || rows.stopped == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to plan %d rows again", (int)batch->count);
    }
    for (int32_t i = 0; i < batch->count; i++) {
        rows.kept[i] = 1;
        rows.inclusion[i] = 1.0;
        rows.mean[i] = NAN;
    }
    *rows_out = rows;
    return GA_OK;
}

/* The rows that still run, numbered anew on each rank, and those that don't. */
static void line_up(running *rows, int32_t candidate) {
    const ga_replan_batch *batch = rows->batch;
    int32_t index = 0;
    rows->now_count = rows->stopped_count = 0;
    for (int32_t i = 0; i < batch->count; i++) {
        index = i % batch->rows_per_rank == 0 ? 0 : index;
        const ga_outcome *row = &batch->rows[i];
        ga_candidate made = {
            .group = row->group, .mean = rows->mean[i], .variance = row->variance, .rank = row->rank};
        if (!rows->kept[i]) {
            rows->stopped[rows->stopped_count++] = made;
            continue;
        }
        const float newest = row->candidate_mean[candidate];
        rows->mean[i] = isfinite(newest) || is_known(row) ? newest : rows->mean[i];
        made.mean = rows->mean[i];
        made.variance = isfinite(row->variance) && row->variance >= 0 ? row->variance : 0.0F;
        made.index = index++;
        rows->place[rows->now_count] = i;
        rows->now[rows->now_count++] = made;
    }
}

static ga_status decide(running *rows, const ga_course *course, int32_t stage, const ga_plan_options *model,
    ga_arena *arena, ga_error *error) {
    line_up(rows, course->candidate[stage]);
    ga_plan_options options = *model;
    options.ranks = rows->batch->count / rows->batch->rows_per_rank;
    options.keep_per_rank = (int32_t)lround(course->keep[stage] * rows->batch->rows_per_rank);
    options.audit_share = 0.0;
    options.batch = rows->batch->number;
    options.stage = stage;
    options.chance_before = false;
    options.stopped = rows->stopped_count > 0 ? rows->stopped : NULL;
    options.stopped_count = rows->stopped_count;
    ga_plan plan;
    GA_TRY(ga_plan_make(&options, rows->now, rows->now_count, arena, &plan, error));
    const double chance = model->audit_share * plan.keep_per_rank / plan.rows_per_rank;
    for (int32_t i = 0; i < plan.count; i++) {
        rows->kept[rows->place[i]] = plan.kept[i];
        rows->inclusion[rows->place[i]] *= (1 - model->audit_share) * plan.inclusion[i] + chance;
    }
    return GA_OK;
}

/* Advantages that training would have been given. */
static ga_status reward_again(const ga_replan *replan, const running *rows,
    const ga_advantage_options *options, ga_arena *arena, double *estimate, ga_error *error) {
    const ga_replan_batch *batch = &replan->batch;
    ga_outcome *again = ga_arena_take(arena, ga_size(batch->count), sizeof *again);
    if (again == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to plan %d rows again", (int)batch->count);
    }
    for (int32_t i = 0; i < batch->count; i++) {
        again[i] = batch->rows[i];
        again[i].kept = rows->kept[i] && is_known(&batch->rows[i]);
        again[i].reward = again[i].kept ? again[i].reward : (double)NAN;
        again[i].inclusion = fmin(1.0, fmax(rows->inclusion[i], 1e-6));
        again[i].mean = rows->mean[i];
    }
    GA_TRY(ga_advantage_compute(options, again, batch->count, arena, estimate, NULL, error));
    if (!(batch->train_share > 0 && batch->train_share < 1)) {
        return GA_OK;
    }
    const ga_downsample_options second = {.share = batch->train_share, .multiple = 1};
    return ga_downsample_advantages(&second, again, batch->count, arena, estimate, NULL, error);
}

/* A stopped row keeps no energy, but prefix credit may have it teach. */
static void add_energy(ga_energy_part *part, double advantage, double estimate, bool kept) {
    ga_energy_add(part, advantage, estimate, kept);
    if (!kept) {
        part->product += estimate * advantage;
        part->square += estimate * estimate;
    }
}

ga_status ga_replan_measure(const ga_replan *replan, const ga_course *course, const ga_plan_options *plan,
    ga_arena *arena, int32_t stride, ga_energy_part *parts_out, ga_loss_sums *losses_out, ga_error *error) {
    running rows = {0};
    GA_TRY(start_running(&replan->batch, arena, &rows, error));
    for (int32_t stage = 0; stage < course->stage_count; stage++) {
        GA_TRY(decide(&rows, course, stage, plan, arena, error));
    }
    double *estimate = ga_arena_take(arena, ga_size(replan->batch.count), sizeof *estimate);
    if (estimate == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to plan %d rows again", (int)replan->batch.count);
    }
    const ga_advantage_options estimator = estimator_of(&replan->batch, course, plan->std_kind);
    GA_TRY(reward_again(replan, &rows, &estimator, arena, estimate, error));
    for (int32_t i = 0; i < replan->batch.count; i++) {
        if (is_known(&replan->batch.rows[i])) {
            const int64_t place = (int64_t)replan->part[i] * stride;
            add_energy(&parts_out[place], replan->advantage[i], estimate[i], rows.kept[i] != 0);
            if (replan->extreme[i]) {
                ga_loss_add(&losses_out[place], replan->weight, rows.kept[i] == 0);
            }
        }
    }
    return GA_OK;
}
