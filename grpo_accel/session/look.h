/* The looks of a batch: the steps at which it stops, what is seen there, and what rows have run by then. */
#ifndef GA_SESSION_LOOK_H
#define GA_SESSION_LOOK_H

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* A step at which a batch stops to look. Arrays belong to the batch's arena. */
typedef struct ga_look {
    int32_t candidate;      /* which of session->shapes.candidate_steps */
    double sigma;           /* noise level there */
    int32_t *row;           /* [block.rows] rows that still run, ascending */
    ga_feature_block block; /* of these rows; NaN until observed; no rows before the look's turn */
    uint32_t observed;      /* GA_INPUT_BIT of complete inputs */
    int32_t taps_observed;
    float *prediction; /* [rows of the batch], NaN where there is none */
    float *variance;   /* the same */
} ga_look;

/*
 * Makes the looks that the session's strategy has for this batch, and begins the first. Memory for all of
 * them is taken here, so that no look fails for want of it later. GA_ERR_MEMORY.
 */
ga_status ga_batch_make_looks(ga_batch *batch, ga_error *error);

/* Ends the look whose turn it is; the rows that are kept now are those of the next one. */
void ga_batch_turn(ga_batch *batch);

/*
 * What the batch knows of a row for the end of the update: inclusion, predictions, kept, audit, observed and
 * steps_run. Reward is NaN, group 0, index the row's in the batch.
 */
ga_outcome ga_batch_outcome(const ga_batch *batch, int32_t row);

/* Denoising steps that a row ran, or will have when the batch is done. A decision's own step is whole. */
int32_t ga_batch_steps_run(const ga_batch *batch, int32_t row);

/* The same of all rows. */
int64_t ga_batch_row_steps(const ga_batch *batch);

/* Rows that signals were taken of, each counted at every look that it met. */
int64_t ga_batch_rows_observed(const ga_batch *batch);

/* The look whose turn it is; GA_ERR_ARGUMENT: the batch rests, or all its looks are decided. */
ga_status ga_batch_current_look(ga_batch *batch, ga_look **look_out, ga_error *error);

#endif
