/*
 * What features and scores looked like when a probe was trained, as deciles: to be compared with what comes
 * later. One figure a row for each input of the schema (the root mean square of a map or a vector, the mean
 * of scores), and the probe's calibrated prediction.
 *
 * Plain data, no state.
 */
#ifndef GA_PROBE_REFERENCE_H
#define GA_PROBE_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/flow.h"

#define GA_REFERENCE_STEPS_MAX 8
#define GA_REFERENCE_EDGES 9
#define GA_REFERENCE_BINS (GA_REFERENCE_EDGES + 1)
#define GA_REFERENCE_COLUMNS                                                                                 \
    (1 + GA_INPUT_COUNT) /* the prediction, then the inputs in the order of ga_input */

/* rows 0: not known, as in files of programs before this one. */
typedef struct ga_reference {
    int32_t step_count;
    int32_t steps[GA_REFERENCE_STEPS_MAX];
    float rows[GA_REFERENCE_STEPS_MAX][GA_REFERENCE_COLUMNS]; /* that the deciles are from */
    float edges[GA_REFERENCE_STEPS_MAX][GA_REFERENCE_COLUMNS][GA_REFERENCE_EDGES]; /* ascending deciles */
    /* of the rows in each bin, edge b−1 < value ≤ edge b: a tenth, but for ties */
    float shares[GA_REFERENCE_STEPS_MAX][GA_REFERENCE_COLUMNS][GA_REFERENCE_BINS];
} ga_reference;

/* One row's figures: [GA_INPUT_COUNT], NaN where the schema has no such input or a value is not finite. */
void ga_reference_pool(const ga_feature_schema *schema, const ga_half *row, float *figures_out);

/* Deciles of values[count], sorted in place, NaN left out, and the shares between them; returns how many
 * values there were. edges_out [GA_REFERENCE_EDGES], shares_out [GA_REFERENCE_BINS]: written where there was
 * one. */
int64_t ga_reference_deciles(float *values, int64_t count, float *edges_out, float *shares_out);

/* The bin of a value among ascending edges [GA_REFERENCE_EDGES]. */
int32_t ga_reference_bin(const float *edges, float value);

/* The place of a decision step; −1: the reference has none. */
int32_t ga_reference_place(const ga_reference *reference, int32_t step);

#endif
