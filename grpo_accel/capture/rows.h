/* Host layouts → rows of the batch: where in a tensor's first dimension do a batch's rows stand? */
#ifndef GA_CAPTURE_ROWS_H
#define GA_CAPTURE_ROWS_H

#include "grpo_accel/base/status.h"

/* How a host orders conditional and unconditional rows under classifier-free guidance. */
typedef enum ga_guidance_order {
    GA_GUIDANCE_NONE = 0,       /* one row a rollout (no guidance, or two calls: Wan, FLUX) */
    GA_GUIDANCE_COND_LAST = 1,  /* [unconditional, conditional]: SD3, SDXL */
    GA_GUIDANCE_COND_FIRST = 2, /* [conditional, unconditional]: Qwen-Image */
    GA_GUIDANCE_GUESS = 3 /* none where the tensor has as many rows as the batch, else conditional last */
} ga_guidance_order;

/*
 * The part of `tensor` (any dims ≥ 1, rows first) that holds the batch's conditional rows, in their order: a
 * view, nothing is copied. Not collective. Any thread.
 * Errors: GA_ERR_ARGUMENT where the first dimension is neither batch_rows nor, under guidance, twice that.
 */
ga_status ga_rows_conditional(const ga_tensor *tensor, int32_t batch_rows, ga_guidance_order order,
    ga_tensor *view_out, ga_error *error);

/* The other half. GA_ERR_DATA where there is none. */
ga_status ga_rows_unconditional(const ga_tensor *tensor, int32_t batch_rows, ga_guidance_order order,
    ga_tensor *view_out, ga_error *error);

/*
 * rows[i] = host row of the batch's row i → which rows of the batch are these? `host_rows` lists, for each
 * row of a tensor that a host has already cut down, the row of the batch it came from; row_of_out[batch_rows]
 * gets its position in the tensor, −1 where the row is not in it. Errors: GA_ERR_ARGUMENT (out of range,
 * twice).
 */
ga_status ga_rows_invert(
    const int32_t *host_rows, int32_t host_count, int32_t batch_rows, int32_t *row_of_out, ga_error *error);

#endif
