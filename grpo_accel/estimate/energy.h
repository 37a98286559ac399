/*
 * What a kept set is worth: the squared advantage that it keeps, and the squared signal-to-noise ratio of the
 * policy gradient that is computed from it, both as shares of the whole.
 *
 * With advantages A of all rows, and Â those that training gives to the kept ones (0 to the others),
 *
 *     energy = Σ_kept A² / Σ A²,      snr2 = (Σ Â·A)² / (Σ Â² · Σ A²),
 *
 * both in [0, 1]; snr2 is the energy where Â = A. For scores of unit score functions that don't depend on one
 * another, a gradient Σ Â s has mean ∝ Σ Â·A and variance ∝ Σ Â², so snr2 is how much a set's gradient is
 * worth beside that of all rows. Both are ratios of sums, so they are measured over groups and averaged as
 * sums (ratio estimator; Cochran, "Sampling Techniques", 1977, ch. 6), with the interval of a bootstrap over
 * groups.
 *
 * Not collective; any thread, no state.
 */
#ifndef GA_ESTIMATE_ENERGY_H
#define GA_ESTIMATE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/*
 * Closed forms for normal rewards whose group's own σ is the host's: the share `keep` (0, 1] of the rows with
 * the largest predicted |z|, prediction and reward correlated by `rho` within the group.
 *     E(ρ) = κ + ρ²(κ₂ − κ),   c = Φ⁻¹(1 − κ/2),   κ₂ = 2[c·φ(c) + 1 − Φ(c)]
 * 1 for keep ≥ 1; NaN for keep ≤ 0.
 */
double ga_energy_of_extremes(double rho, double keep);

/* κ₂: the energy of a prediction that is always right. */
double ga_energy_ceiling(double keep);

/* Φ⁻¹(p) for p in (0, 1), to 1e-12; ±infinity at the ends, NaN outside. */
double ga_normal_quantile(double p);

/* The sums of one group (or any other part that stands for itself). */
typedef struct ga_energy_part {
    double product; /* Σ_kept Â·A */
    double square;  /* Σ_kept Â² */
    double kept;    /* Σ_kept A² */
    double all;     /* Σ A² */
} ga_energy_part;

/* Adds a row to its part. advantage: A; estimate: Â, of no account where the row is not kept. */
void ga_energy_add(ga_energy_part *part, double advantage, double estimate, bool kept);

/* A share with its interval. Plain data. */
typedef struct ga_energy {
    double value, low, high; /* of the energy */
    double snr2, snr2_low, snr2_high;
    int64_t parts; /* that counted: with an `all` above 0 */
} ga_energy;

/*
 * Both figures of `option_count` kept sets measured on the same parts. parts: [part_count, option_count]; a
 * part with `all` 0 or not finite for an option is left out of that option. low and high: one-sided bounds,
 * so that each holds with probability `confidence` (0.5, 1); `resamples` draws, the same for all options,
 * keyed by `seed`. energies_out: [option_count]; NaN figures where an option has no part. GA_ERR_ARGUMENT,
 * GA_ERR_MEMORY.
 */
ga_status ga_energy_estimate(const ga_energy_part *parts, int32_t part_count, int32_t option_count,
    double confidence, uint64_t seed, int32_t resamples, ga_energy *energies_out, ga_error *error);

#endif
