/* Host layouts → rows of the batch: where in a tensor's first dimension do a batch's rows stand? */
#ifndef GA_CAPTURE_ROWS_H
#define GA_CAPTURE_ROWS_H

#include "grpo_accel/base/status.h"

/*
 * The part of `tensor` (any dims ≥ 1, rows first, any device) that holds the batch's conditional rows, in
 * their order: a view, nothing is copied or read. A tensor of batch_rows rows is taken as it is; of one of
 * twice as many, a guided batch, the second half, as SD3 and SDXL order it. Hosts that put the conditional
 * rows first (Qwen-Image) hand in that half. Not collective. Any thread.
 * Errors: GA_ERR_ARGUMENT for any other number of rows.
 */
ga_status ga_rows_conditional(
    const ga_tensor *tensor, int32_t batch_rows, ga_tensor *view_out, ga_error *error);

#endif
