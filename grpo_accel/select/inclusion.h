/*
 * Inclusion probabilities under quotas and floors, and what audits add to them.
 */
#ifndef GA_SELECT_INCLUSION_H
#define GA_SELECT_INCLUSION_H

#include "grpo_accel/select/grid.h"

/*
 * Probabilities in [0, 1] in proportion to weight, changed as little as quotas and floors demand: alternating
 * projections in relative entropy (Csiszár 1975) onto "each rank's sum is c" and "each group's sum is at
 * least its floor", each a common factor with a cap at 1.
 *
 * weight: [count] by slot, ≥ 0; infinite: 1 as far as the rank's quota allows. Weight 0 counts
 * as 1e-12 of the largest, so that quotas are always reached. floor: [groups], fulfillable (from
 * ga_extremes_choose). inclusion_out: [count]. Rank sums are exact to rounding. Group sums reach their floors
 * to 1e-9, except where quotas leave no freedom at all (one row a rank, say): there they stay short by up to
 * a few hundredths, and the plan repairs the drawn set. GA_ERR_DATA (a weight is NaN or negative),
 * GA_ERR_MEMORY.
 */
ga_status ga_inclusion_fit(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    const int32_t *floor, ga_arena *arena, double *inclusion_out, ga_error *error);

/* π = (1 − ε)·π⁰ + ε·c/B in place: a share ε of the batches keeps c of B rows a rank by chance alone. */
void ga_inclusion_mix_audit(
    double *inclusion, int32_t count, double audit_share, int32_t keep_per_rank, int32_t rows_per_rank);

#endif
