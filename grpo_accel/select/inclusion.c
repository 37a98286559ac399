#include "grpo_accel/select/inclusion.h"

#include <math.h>
#include <stdbool.h>

#include "grpo_accel/base/check.h"

enum { PROJECTIONS_MAX = 400 };

static const double SHORT_OF_FLOOR = 1e-10;
/* Stands for an infinite weight: so much more than the largest finite one that the cap at 1 decides. */
static const double RATIO_MAX = 1e12;
/* Stands for 0, so that a rank reaches its quota even where fewer of its rows than that have a weight. */
static const double RATIO_MIN = 1e-12;

/* Multiplies p[slots] by one factor, capped at 1, so that they sum to target (0 ≤ target ≤ n). */
static void scale_to_sum(double *p, const int32_t *slots, int32_t n, double target) {
    double factor = 0, free_sum = 0;
    int32_t capped = -1, capped_before;
    do {
        capped_before = capped;
        capped = 0;
        free_sum = 0;
        for (int32_t i = 0; i < n; i++) {
            if (factor * p[slots[i]] >= 1) {
                capped++;
            } else {
                free_sum += p[slots[i]];
            }
        }
        factor = free_sum > 0 ? fmax(factor, (target - capped) / free_sum) : factor;
    } while (capped != capped_before && free_sum > 0);
    for (int32_t i = 0; i < n; i++) {
        p[slots[i]] = fmin(1, factor * p[slots[i]]);
    }
}

static double sum_of(const double *p, const int32_t *slots, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += p[slots[i]];
    }
    return sum;
}

static ga_status start_from_weights(const ga_grid *grid, const double *weight, double *p, ga_error *error) {
    double largest = 0;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (isnan(weight[slot]) || weight[slot] < 0) {
            return GA_FAIL(error, GA_ERR_DATA, "weight of rank %d row %d is negative or not a number",
                (int)ga_grid_rank(grid, slot), (int)(slot % grid->rows_per_rank));
        }
        largest = isfinite(weight[slot]) ? fmax(largest, weight[slot]) : largest;
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        const double finite_ratio = largest > 0 ? weight[slot] / largest : 1;
        p[slot] = isinf(weight[slot]) ? RATIO_MAX : fmax(RATIO_MIN, finite_ratio);
    }
    return GA_OK;
}

/* slots: 0, 1, 2, …; a rank's part of it are its slots. */
static void project_ranks(const ga_grid *grid, const int32_t *slots, int32_t keep_per_rank, double *p) {
    for (int32_t rank = 0; rank < grid->ranks; rank++) {
        scale_to_sum(
            p, slots + (size_t)rank * ga_size(grid->rows_per_rank), grid->rows_per_rank, keep_per_rank);
    }
}

/* true if a group was short of its floor and has been raised. */
static bool project_groups(const ga_grid *grid, const int32_t *floor, double *p) {
    bool changed = false;
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t *members = grid->member + grid->member_start[group];
        const int32_t size = ga_grid_group_size(grid, group);
        if (sum_of(p, members, size) < (double)floor[group] - SHORT_OF_FLOOR) {
            scale_to_sum(p, members, size, floor[group]);
            changed = true;
        }
    }
    return changed;
}

ga_status ga_inclusion_fit(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    const int32_t *floor, ga_arena *arena, double *inclusion_out, ga_error *error) {
    double *p = ga_arena_take(arena, ga_size(grid->count), sizeof *p);
    int32_t *slots = ga_arena_take(arena, ga_size(grid->count), sizeof *slots);
    if (p == NULL || slots == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for probabilities of %d rows", (int)grid->count);
    }
    GA_TRY(start_from_weights(grid, weight, p, error));
    for (int32_t slot = 0; slot < grid->count; slot++) {
        slots[slot] = slot;
    }
    project_ranks(grid, slots, keep_per_rank, p);
    for (int projection = 0; projection < PROJECTIONS_MAX && project_groups(grid, floor, p); projection++) {
        project_ranks(grid, slots, keep_per_rank, p);
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        inclusion_out[slot] = p[slot];
    }
    return GA_OK;
}

void ga_inclusion_mix_audit(
    double *inclusion, int32_t count, double audit_share, int32_t keep_per_rank, int32_t rows_per_rank) {
    const double by_chance = (double)keep_per_rank / (double)rows_per_rank;
    for (int32_t i = 0; i < count; i++) {
        inclusion[i] = (1 - audit_share) * inclusion[i] + audit_share * by_chance;
    }
}
