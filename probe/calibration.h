/*
 * From a model's score to a reward: slope inside groups, level over groups, and what remains unexplained.
 *
 *   mean_i = intercept + slope · score_i + level_i
 *
 * The slope comes from group-centred rows alone, so that what a model knows of the prompt can't inflate it;
 * the intercept from group means.
 */
#ifndef GA_PROBE_CALIBRATION_H
#define GA_PROBE_CALIBRATION_H

#include "probe/grouped.h"

typedef struct ga_calibration {
    double slope;     /* ≥ 0: a score that points the wrong way is worth nothing */
    double intercept; /* in units of the reward */
    double sigma_r2;  /* residual variance inside groups, reward² */
    double tau2;      /* variance of the groups' true offsets, reward², ≥ 0 */
    /* A row's residual variance is this times what its network says of it; 0: sigma_r2 for every row. */
    double variance_factor;
} ga_calibration;

/*
 * score, level: [rows] in the order of `grouped`; level is constant inside a group. Rows should not have been
 * fitted on. sigma_r2 is pooled over groups with n - 1 degrees of freedom each; tau2 = variance of the group
 * means of residuals less what sigma_r2 explains of it (method of moments, DerSimonian and Laird 1986), not
 * below 0. Collective when `reduce` has a sum. GA_ERR_DATA with fewer than 2 groups of 2 rows.
 */
ga_status ga_calibrate(const ga_grouped *grouped, const float *score, const float *level,
    const ga_reduce *reduce, ga_calibration *calibration_out, ga_error *error);

/*
 * Whether the network's own variances [rows], reward², are worth more than one variance for all: sets
 * variance_factor to the mean of squared standardised residuals, so that intervals cover, if the likelihood
 * of these rows is higher with it, else to 0. `calibration` comes from ga_calibrate on the same rows.
 * Collective when `reduce` has a sum.
 */
ga_status ga_calibrate_variance(const ga_grouped *grouped, const float *score, const float *level,
    const float *variance, const ga_reduce *reduce, ga_calibration *calibration, ga_error *error);

/* Residual variance inside the group of a row whose network says `variance` (NaN: nothing), reward². */
double ga_calibration_variance(const ga_calibration *calibration, double variance);

/* The interval around a row's calibrated mean that holds its reward with probability `share`, in (0, 1):
 * normal, of the row's residual variance and that of the group's unknown offset, tau2. */
void ga_calibration_interval(const ga_calibration *calibration, double mean, double residual_variance,
    double share, double *low_out, double *high_out);

#endif
