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
#include "grpo_accel/base/status.h"
#include "probe/weights.h"

#define GA_REFERENCE_STEPS_MAX 8
#define GA_REFERENCE_EDGES 9
#define GA_REFERENCE_BINS (GA_REFERENCE_EDGES + 1)
#define GA_REFERENCE_COLUMNS                                                                                 \
    (1 + GA_INPUT_COUNT) /* the prediction, then the inputs in the order of ga_input */

/* A figure at one step. Only floats, as in the file. */
typedef struct ga_reference_column {
    float rows;                      /* that it is from, as an effective number: rows of a prompt are alike;
                                        0: not known */
    float edges[GA_REFERENCE_EDGES]; /* ascending deciles */
    float shares[GA_REFERENCE_BINS]; /* of the rows in each bin, edge b−1 < value ≤ edge b: a tenth, but for
                                        ties */
} ga_reference_column;

/* step_count 0: not known, as in files of programs before this one. */
typedef struct ga_reference {
    int32_t step_count;
    int32_t steps[GA_REFERENCE_STEPS_MAX];
    ga_reference_column columns[GA_REFERENCE_STEPS_MAX][GA_REFERENCE_COLUMNS];
} ga_reference;

/* One row's figures: [GA_INPUT_COUNT], NaN where the schema has no such input or a value is not finite. */
void ga_reference_pool(const ga_feature_schema *schema, const ga_half *row, float *figures_out);

/* The column of values[count], which are sorted in place, NaN left out. */
ga_reference_column ga_reference_read(float *values, int64_t count);

/* The bin of a value among ascending edges [GA_REFERENCE_EDGES]. */
int32_t ga_reference_bin(const float *edges, float value);

/* The place of a decision step; −1: the reference has none. */
int32_t ga_reference_place(const ga_reference *reference, int32_t step);

/* The array "reference" [steps, columns, floats of a column] of a probe's file; nothing where not known. */
ga_status ga_reference_put(const ga_reference *reference, ga_weights *weights, ga_error *error);

/* Reads it; the steps are the probe's. A file without one leaves *reference_out empty. GA_ERR_FILE where it
 * is damaged. */
ga_status ga_reference_get(const ga_weights *weights, const char *path, const int32_t *steps,
    int32_t step_count, ga_reference *reference_out, ga_error *error);

#endif
