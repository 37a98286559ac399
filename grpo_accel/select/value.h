/*
 * What a row is worth: its expected squared advantage in the units in which the host will see it.
 *
 *     v_i = ((m_i − m̄_g)² + s_i²) / (σ + 1e-4)²
 *
 * m_i calibrated prediction, s_i² its residual variance, m̄_g mean of the group's scored rows. σ is what the
 * host will divide by, predicted: the population standard deviation of all rows (GA_STD_GLOBAL: mean of m² +
 * s² less the squared mean of m) or of the group's rows (GA_STD_GROUP); 1e-4 is flow-grpo's own addition.
 * With one σ for all, groups with more spread keep more rows; with the group's, v is ρ²z² + 1 − ρ².
 */
#ifndef GA_SELECT_VALUE_H
#define GA_SELECT_VALUE_H

#include "grpo_accel/select/grid.h"

/* By slot. */
typedef struct ga_values {
    const double *value;    /* [count] ≥ 0; infinite where not scored: such a row has to be kept */
    const double *centred;  /* [count] m − m̄_g; 0 where not scored */
    const double *sigma;    /* [count] σ + 1e-4 of the row's advantage, > 0 */
    int32_t unscored_count; /* rows without a usable prediction */
} ga_values;

/* Arrays belong to the arena. GA_ERR_MEMORY. */
ga_status ga_values_compute(
    const ga_grid *grid, ga_std_kind std_kind, ga_arena *arena, ga_values *values_out, ga_error *error);

#endif
