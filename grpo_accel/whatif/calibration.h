/*
 * From scores to predictions, for each batch from the others: m = a + b·score.
 *
 *     b = Σ (s − s̄_g)(r − r̄_g) / Σ (s − s̄_g)²           over rows, s̄_g and r̄_g means of the row's group
 *     a = r̄ − b·s̄                                        means over all rows
 *     σ_r² = Σ (d − d̄_g)² / Σ (n_g − 1),                  d = r − m
 *     τ² = max(0, (Σ n_g d̄_g² − groups·σ_r²) / rows)      as estimate/offsets.h has it
 *
 * all of them over the other batches; with one batch over that one itself. b = 0 where scores have no spread.
 * Rows without a score are left out.
 */
#ifndef GA_WHATIF_CALIBRATION_H
#define GA_WHATIF_CALIBRATION_H

#include "grpo_accel/whatif/frame.h"

typedef struct ga_line {
    double a, b;
    double tau2;     /* τ², reward² */
    double sigma_r2; /* σ_r², reward²; NaN where no group has two rows */
} ga_line;

/* lines_out: [batch_count] for scores of one decision. GA_ERR_ARGUMENT, GA_ERR_MEMORY. */
ga_status ga_line_fit(const ga_frame *frame, int32_t stage, ga_line *lines_out, ga_error *error);

#endif
