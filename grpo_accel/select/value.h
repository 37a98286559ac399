/*
 * What a row is worth: its expected squared advantage in the units in which the host will see it.
 *
 *     v_i = E[(r_i − r̄_g)²] / (σ + 1e-4)²
 *
 *     E[(r_i − r̄_g)²] = (m_i − m̄_g)² + s_i²·(1 − 2/G) + s̄_g²/G
 *
 * m_i calibrated prediction, s_i² its residual variance (residuals independent), m̄_g and s̄_g² their means
 * over the group's scored rows, G all its rows. So a group of one is worth 0, as its advantage is 0 whatever
 * its reward, and both rows of a pair are worth the same. σ is what the host will divide by, predicted: the
 * population standard deviation of all rows (GA_STD_GLOBAL: variance of m, plus mean s² · (1 − 1/N)) or of
 * the group's rows (GA_STD_GROUP: mean of the numerators above); 1e-4 is flow-grpo's own addition. With one
 * σ for all, groups with more spread keep more rows; with the group's, v is ρ²z² + 1 − ρ² but for terms of
 * 1/G.
 *
 * Rows that were stopped by an earlier decision count in G, N and all means: the host computes its advantages
 * over whole groups.
 */
#ifndef GA_SELECT_VALUE_H
#define GA_SELECT_VALUE_H

#include <stdbool.h>

#include "grpo_accel/select/grid.h"

typedef struct ga_value_options {
    ga_std_kind std_kind;
    const ga_candidate *stopped; /* [stopped_count] in any order; rank and index are not read */
    int32_t stopped_count;
    /* The rows and the stopped ones are all that there are; false: an unknown number is missing, and terms
     * of 1/G and 1/N are left out. */
    bool whole;
} ga_value_options;

/* By slot. */
typedef struct ga_values {
    const double *value;    /* [count] ≥ 0; infinite where not scored: such a row has to be kept */
    const double *centred;  /* [count] m − m̄_g; 0 where not scored */
    const double *sigma;    /* [count] σ + 1e-4 of the row's advantage, > 0 */
    int32_t unscored_count; /* rows without a usable prediction */
} ga_values;

/* Arrays belong to the arena. GA_ERR_MEMORY. */
ga_status ga_values_compute(const ga_grid *grid, const ga_value_options *options, ga_arena *arena,
    ga_values *values_out, ga_error *error);

#endif
