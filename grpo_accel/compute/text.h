/*
 * Which text tokens an image token can see: ga_text of grpo_accel.h, row by row.
 *
 * Hidden keys are left out before anything is computed, so that a softmax and its statistics know nothing of
 * them, whatever their pattern. Nothing here owns or keeps memory. Not collective. Any thread.
 */
#ifndef GA_COMPUTE_TEXT_H
#define GA_COMPUTE_TEXT_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

/* GA_ERR_ARGUMENT, with row and token named, unless content [rows, text_tokens] holds ga_text values only.
 * NULL is fine: all are content. */
ga_status ga_text_check(const uint8_t *content, int64_t rows, int32_t text_tokens, ga_error *error);

/* Hidden tokens among `count`; 0 for NULL. */
int64_t ga_text_hidden(const uint8_t *content, int64_t count);

/*
 * The tokens of a row that are not hidden: their indices, ascending, and their content, both with room for
 * text_tokens. content [text_tokens] or NULL. Returns how many.
 */
int32_t ga_text_visible(
    const uint8_t *content, int32_t text_tokens, int32_t *tokens_out, uint8_t *content_out);

#endif
