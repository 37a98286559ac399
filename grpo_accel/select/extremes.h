/*
 * The best set under quotas: exactly c rows on each rank, at least so many of each group, largest sum of
 * weights.
 *
 * A maximum-weight b-matching on ranks × groups, solved exactly: each rank's best c rows are optimal without
 * floors; then floors are raised one row at a time along shortest augmenting paths in the residual graph
 * (Dijkstra with potentials; Ahuja, Magnanti, Orlin, "Network Flows", 1993, ch. 9), which keeps the set
 * optimal at every step. Searches stay local: a path seldom leaves the ranks that hold the group's own rows.
 */
#ifndef GA_SELECT_EXTREMES_H
#define GA_SELECT_EXTREMES_H

#include "grpo_accel/base/random.h"
#include "grpo_accel/select/grid.h"

/*
 * weight: [count] by slot; finite, or +infinite for rows that come before all others. keep_per_rank in
 * 1 … rows_per_rank. A group's floor is min(min_group, its size); where quotas make that impossible floors
 * are lowered evenly, in the max-min sense: no group gives up a row while another could that has more. Ties
 * are broken by `random`, never by position. kept_out: [count] 0 or 1 by slot. floor_out: [groups] the floors
 * that hold. Written only on success. Scratch belongs to the arena. GA_ERR_ARGUMENT, GA_ERR_DATA (a weight is
 * NaN or −infinite), GA_ERR_MEMORY.
 */
ga_status ga_extremes_choose(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    int32_t min_group, ga_random random, ga_arena *arena, uint8_t *kept_out, int32_t *floor_out,
    ga_error *error);

#endif
