/*
 * A budget for the whole batch, spread over groups before any row is looked at.
 *
 *     n_g ∝ N_g · S_g, S_g = √(mean of v_i over the group's scored rows), Σ n_g = c · ranks
 *
 * Neyman's allocation (1934) of equally costly rows, where S_g is the spread that the group's advantages are
 * expected to have in the host's units (value.h). N_g rows of the group; S_g = 1, as in the average group,
 * where no row is scored.
 */
#ifndef GA_SELECT_BUDGET_H
#define GA_SELECT_BUDGET_H

#include "grpo_accel/select/extremes.h"
#include "grpo_accel/select/value.h"

/*
 * How many rows of each group to keep: [groups], summing to `total` as far as the bounds allow. A group with
 * S_g = 0 gets none before all others are full. n_g lies within the group's bounds and, as far as the cap
 * allows, holds its rows that are not scored. Whole numbers by largest remainders, ties by `random`. Scratch
 * belongs to the arena. GA_ERR_MEMORY.
 */
ga_status ga_budget_spread(const ga_grid *grid, const ga_values *values, const ga_bounds *bounds,
    int32_t total, ga_random random, ga_arena *arena, int32_t *share_out, ga_error *error);

#endif
