/* How kept rows ended, and the states they came from: held until the update's rows go into the record. */
#ifndef GA_SESSION_FINALS_H
#define GA_SESSION_FINALS_H

#include "grpo_accel/session/session.h"

/*
 * Ends, or states, of a batch's rows, as the record holds them: latents f16 [channels, height, width], images
 * u8 [height, width, 3]. Plain data; values are owned, NULL until the first row comes.
 */
typedef struct ga_ends {
    uint8_t *values;  /* [rows][bytes] */
    uint8_t *present; /* [rows] 1: the row's values are there; in the same memory as values */
    size_t bytes;     /* of a row */
} ga_ends;

/* See ga_batch_final and ga_batch_state in grpo_accel.h. */
ga_status ga_batch_take_final(
    ga_batch *batch, const int32_t *rows, int32_t count, const ga_tensor *finals, ga_error *error);
ga_status ga_batch_take_state(ga_batch *batch, const ga_tensor *latent, ga_error *error);

/* One row's values; NULL where they did not come, or not in the shape [3] that the record has. */
const void *ga_ends_row(const ga_ends *ends, int32_t row, size_t record_bytes);

void ga_ends_free(ga_ends *ends);

#endif
