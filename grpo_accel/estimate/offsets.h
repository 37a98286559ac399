/*
 * How far predictions are off, from the log of past updates: τ², by which a whole group shares an offset, and
 * σ_r², the residual variance inside groups. The advantage estimator shrinks with them (advantage.h).
 *
 * Method of moments for a one-way random-effects model r − m = o_g + e (Searle, Casella, McCulloch, "Variance
 * Components", 1992), with offsets about 0 rather than about their mean, so that a probe that is off
 * everywhere counts as one with large offsets. Older updates fade exponentially. Choosing rows by their
 * prediction does not bias this: given m, whether a row is kept says nothing about r.
 */
#ifndef GA_ESTIMATE_OFFSETS_H
#define GA_ESTIMATE_OFFSETS_H

#include <stdbool.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* Plain data: copy it, keep it in a file. All sums fade by `fade` an update. */
typedef struct ga_offsets {
    double fade;           /* in (0, 1] */
    double within_square;  /* Σ over groups and rows (d − d̄_g)², d = r − m */
    double within_freedom; /* Σ over groups (n_g − 1) */
    double offset_square;  /* Σ over groups n_g d̄_g² */
    double group_count;
    double row_count;
} ga_offsets;

/* Nothing known yet. An update counts half after half_life_updates more; ≤ 0: never fades. */
ga_offsets ga_offsets_make(double half_life_updates);

/*
 * Adds an update: rows with a reward and a prediction, any order (the result depends on it not at all).
 * Not collective. On failure `offsets` is untouched. GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_offsets_add(
    ga_offsets *offsets, const ga_outcome *outcomes, int32_t count, ga_arena *arena, ga_error *error);

/*
 * τ² ≥ 0 and σ_r² ≥ 0 in reward²; false, and the outputs untouched, while fewer than 8 groups and 8 degrees
 * of freedom inside groups have been seen.
 */
bool ga_offsets_estimate(const ga_offsets *offsets, double *tau2_out, double *sigma_r2_out);

#endif
