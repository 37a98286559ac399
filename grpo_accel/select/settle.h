/*
 * The last step to exact sums: what groups still miss of their bounds is moved along paths of rows.
 *
 * Augmenting paths in the residual network of ranks × groups with real capacities, shortest first (Edmonds,
 * Karp 1972). A path raises one row and lowers the next in turn, so that all sums but those of its two ends
 * stay as they are. Where bounds can be met, every group that is off has such a path.
 */
#ifndef GA_SELECT_SETTLE_H
#define GA_SELECT_SETTLE_H

#include "grpo_accel/select/extremes.h"

/*
 * inclusion: [count] by slot, in [0, 1], each rank's sum as it shall be; changed in place until each group's
 * sum lies within its bounds, which must be possible, to 1e-12 a row. least: [count] below which no row is
 * lowered as long as another way is open. Scratch belongs to the arena. GA_ERR_MEMORY.
 */
ga_status ga_settle_bounds(const ga_grid *grid, const double *least, const ga_bounds *bounds, ga_arena *arena,
    double *inclusion, ga_error *error);

#endif
