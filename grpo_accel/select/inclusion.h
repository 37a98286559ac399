/*
 * Inclusion probabilities under quotas and bounds, and what audits add to them.
 */
#ifndef GA_SELECT_INCLUSION_H
#define GA_SELECT_INCLUSION_H

#include "grpo_accel/select/extremes.h"

typedef struct ga_inclusion_limits {
    int32_t keep_per_rank;   /* c, the sum of each rank's probabilities */
    double least;            /* π_min, in [0, 1] */
    const ga_bounds *bounds; /* that can be met; NULL: none */
} ga_inclusion_limits;

/*
 * The probabilities closest to `weight` in relative entropy under the limits: π = clip(w·a_rank·b_group, l,
 * 1) with factors such that each rank's sum is c and each group's lies within its bounds, b ≠ 1 only where it
 * stands at one (Csiszár 1975). l = min(π_min, c/B, cap/size of the group).
 *
 * The factors of ranks and of groups are solved for in turn, up to 60 times. Bounds that are still missed
 * then, which takes ones that leave hardly any choice, are met by moving the rest
 * along paths of rows (settle.h); there l gives way as far as it must.
 *
 * weight: [count] by slot, ≥ 0; infinite: 1 as far as the rank's quota allows. Weight 0 counts as 1e-12 of
 * the largest, so that quotas are always reached. inclusion_out: [count]. Rank sums and bounds hold to 1e-11.
 * Scratch belongs to the arena. GA_ERR_DATA (a weight is NaN or negative), GA_ERR_MEMORY.
 */
ga_status ga_inclusion_fit(const ga_grid *grid, const double *weight, const ga_inclusion_limits *limits,
    ga_arena *arena, double *inclusion_out, ga_error *error);

/*
 * The factor a with Σ clip(a·weight, low, high) = target over [count] entries, weight ≥ 0, 0 ≤ low ≤ high.
 * Where target is out of reach, the one at which the first entry is about to leave `low`, or all have reached
 * `high`.
 */
double ga_scale_factor(
    const double *weight, const double *low, const double *high, int32_t count, double target);

/* π = (1 − ε)·π⁰ + ε·c/B in place: a share ε of the batches keeps c of B rows a rank by chance alone. */
void ga_inclusion_mix_audit(
    double *inclusion, int32_t count, double audit_share, int32_t keep_per_rank, int32_t rows_per_rank);

#endif
