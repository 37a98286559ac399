/*
 * From inclusion probabilities to a set: dependent rounding on the bipartite graph of ranks and groups.
 *
 * Gandhi, Khuller, Parthasarathy, Srinivasan, "Dependent rounding and its applications to approximation
 * algorithms", J. ACM 53(3), 2006. Rows are the edges. As long as rows are undecided, a cycle or a maximal
 * path of them is shifted alternately up and down, in one of two directions, with the odds that leave every
 * expectation as it is, until at least one row is decided. Done in integers of 2^-40, so that quotas hold
 * without a tolerance.
 */
#ifndef GA_SELECT_ROUNDING_H
#define GA_SELECT_ROUNDING_H

#include "grpo_accel/base/random.h"
#include "grpo_accel/select/grid.h"

/*
 * Draws a set with P(kept) = inclusion (to 1e-12), where each rank with an integer sum of probabilities (to
 * 1e-9) keeps exactly that many rows, and each other rank and each group keeps the floor or the ceiling of
 * its sum. inclusion: [count] by slot, in [0, 1]. kept_out: [count], written only on success. Scratch belongs
 * to the arena. GA_ERR_DATA (a probability outside of [0, 1]), GA_ERR_MEMORY.
 */
ga_status ga_rounding_draw(const ga_grid *grid, const double *inclusion, ga_random random, ga_arena *arena,
    uint8_t *kept_out, ga_error *error);

#endif
