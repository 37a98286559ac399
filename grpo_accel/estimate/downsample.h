/*
 * A second stage, after the rewards: of the rows that would train only those with the largest squared
 * advantage do.
 *
 * The squared signal-to-noise ratio of a policy gradient of weight-one rows is Σ A² of those that train, so
 * the largest A² keep the most of it; with advantages of one group this is the subset of rewards with the
 * largest variance (maximum-variance down-sampling: Xu et al. 2025, "PODS", arXiv 2504.13818). Advantages
 * stay those of the whole group: they are not computed anew from the rows that are left.
 */
#ifndef GA_ESTIMATE_DOWNSAMPLE_H
#define GA_ESTIMATE_DOWNSAMPLE_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

typedef struct ga_downsample_options {
    double share;     /* of the rows that have an advantage, (0, 1] */
    int32_t multiple; /* each rank trains a multiple of so many rows, ≥ 1: the host's batches of an update */
} ga_downsample_options;

/*
 * Sets advantage[i] to exactly 0 for the rows that don't train; outcomes[count] say of which rank a row is.
 * Every rank keeps as many rows as any other, so that none waits: share · (the smallest number of rows with
 * an advantage that a rank has), rounded to a multiple, at least one multiple where there are so many, and
 * never more multiples than that rank has whole. Where it has fewer rows than one multiple, all of them. Rows
 * with advantage 0 don't count. Ranks are those of the outcomes: where one of them has no row with an
 * advantage, equal counts could only be 0 and would cost the update, so nothing is changed, the host trains
 * what it would without a second stage, and trained_out is 0. Ties go to the earlier row of the rank, so the
 * result doesn't depend on the order of the outcomes. trained_out, of each rank, may be NULL.
 *
 * Not collective; any thread with its own arena. On failure nothing is changed. GA_ERR_ARGUMENT,
 * GA_ERR_MEMORY.
 */
ga_status ga_downsample_advantages(const ga_downsample_options *options, const ga_outcome *outcomes,
    int32_t count, ga_arena *arena, double *advantage, int32_t *trained_out, ga_error *error);

#endif
