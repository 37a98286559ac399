/*
 * The baseline to beat: ridge regression of group-centred rewards on group-centred, standardised features.
 *
 * Features that never vary inside a group (the prompt, σ) can't order rows; they get weights of their own,
 * fitted on group means, for the level. So each feature counts in exactly one of the two.
 */
#ifndef GA_PROBE_RIDGE_H
#define GA_PROBE_RIDGE_H

#include "grpo_accel/compute/compute.h"
#include "probe/grouped.h"
#include "probe/inputs.h"

typedef struct ga_ridge {
    int32_t count;
    float *within; /* [count] weights of the order inside a group; one block of memory, at within */
    float *level;  /* [count] weights of the group's level */
    double lambda_within, lambda_level; /* chosen penalty per row; infinite where nothing was learned */
} ga_ridge;

/* Zero weights. GA_ERR_MEMORY. */
ga_status ga_ridge_create(int32_t count, ga_ridge *ridge_out, ga_error *error);
/* Leaves *ridge empty; empty is allowed. */
void ga_ridge_destroy(ga_ridge *ridge);

/* features [count], standardised → score (order inside the group) and level, in units of the reward, without
 * intercept. */
void ga_ridge_predict(const ga_ridge *ridge, const float *features, float *score, float *level);

/*
 * Moments of features [rows, count] in the order of `grouped`: center is the mean, scale the standard
 * deviation inside groups (of all rows where that is 0), limit six standard deviations of all rows; a feature
 * without any spread gets limit 0 and so always becomes 0. within_out[count]: 1 where it varies inside
 * groups. moments_out has `count` moments already. Collective when `reduce` has a sum. GA_ERR_MEMORY.
 */
ga_status ga_ridge_moments(const ga_grouped *grouped, const float *features, const ga_reduce *reduce,
    ga_moments *moments_out, uint8_t *within_out, ga_error *error);

/*
 * Fits both parts to standardised features [rows, count]; `varies` as from ga_ridge_moments. The penalties
 * are chosen by cross-validation over the folds of `grouped`; "no weights" is among the choices, so that
 * noise gives a ridge of zeros. Collective when `reduce` has a sum. GA_ERR_MEMORY, GA_ERR_DATA.
 */
ga_status ga_ridge_fit(const ga_grouped *grouped, const float *features, const uint8_t *varies,
    const float *penalty, const ga_compute *compute, const ga_reduce *reduce, ga_ridge *ridge,
    ga_error *error);

#endif
