/*
 * The best set under quotas: exactly c rows on each rank, at least and at most so many of each group, largest
 * sum of weights.
 *
 * A maximum-weight b-matching on ranks × groups, solved exactly: each rank's best c rows are optimal without
 * bounds; then caps are lowered and floors are raised one row at a time along shortest augmenting paths in
 * the residual graph (Dijkstra with potentials; Ahuja, Magnanti, Orlin, "Network Flows", 1993, ch. 9), which
 * keeps the set optimal at every step. Searches stay local: a path seldom leaves the ranks that hold the
 * group's own rows.
 *
 * Floors and caps never compete: the counts that quotas allow to the groups are the integer points of a base
 * polyhedron, and where one such point meets the floors and one the caps (floor ≤ cap), one meets both
 * (Frank, "Connections in Combinatorial Optimization", 2011, ch. 14: the linking property). So each kind
 * gives way to quotas alone.
 */
#ifndef GA_SELECT_EXTREMES_H
#define GA_SELECT_EXTREMES_H

#include "grpo_accel/base/random.h"
#include "grpo_accel/select/grid.h"

/* By group: kept rows at least and at most, 0 ≤ floor ≤ cap. */
typedef struct ga_bounds {
    int32_t *floor; /* [groups] */
    int32_t *cap;   /* [groups] */
} ga_bounds;

/*
 * cap = min(max_group, size), or the size where max_group is 0; floor = min(min_group, cap). Arrays belong to
 * the arena. GA_ERR_MEMORY.
 */
ga_status ga_bounds_make(const ga_grid *grid, int32_t min_group, int32_t max_group, ga_arena *arena,
    ga_bounds *bounds_out, ga_error *error);

/*
 * weight: [count] by slot; finite, or +infinite for rows that come before all others. keep_per_rank in
 * 1 … rows_per_rank. bounds: on return those that hold. Where quotas make them impossible they give way
 * evenly: floors are lowered in the max-min sense (no group gives up a row while another could that has
 * more), caps are raised in the min-max sense (no group is further above its cap while another could be that
 * is less). Ties are broken by `random`, never by position. kept_out: [count] 0 or 1 by slot. bounds and
 * kept_out are written only on success. Scratch belongs to the arena. GA_ERR_ARGUMENT, GA_ERR_DATA (a weight
 * is NaN or −infinite), GA_ERR_MEMORY.
 */
ga_status ga_extremes_choose(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    ga_random random, ga_arena *arena, ga_bounds *bounds, uint8_t *kept_out, ga_error *error);

#endif
