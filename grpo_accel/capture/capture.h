/*
 * What the host hands over at a candidate step, checked once, so that everything behind may trust it.
 *
 * Nothing is copied: the views are valid as long as the host's tensors are. Not collective. Any thread.
 */
#ifndef GA_CAPTURE_CAPTURE_H
#define GA_CAPTURE_CAPTURE_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Attention of one block, conditional rows only, after normalisation and rotary embedding. */
typedef struct ga_capture_attention {
    int32_t rows, heads, image_tokens, text_tokens, head_size;
    const ga_tensor *query;     /* [rows, heads, image tokens, head size] */
    const ga_tensor *key_image; /* the same; NULL for true cross-attention */
    const ga_tensor *key_text;  /* [rows, heads, text tokens, head size] */
    const uint8_t *content;     /* [rows, text tokens] 1: a token of the prompt's own words; NULL: all are */
} ga_capture_attention;

/*
 * Checks that the views are CPU tensors of a known floating dtype and fit each other and `rows`. key_image
 * may be NULL or have NULL data. GA_ERR_DATA names the tensor, what it is and what it should be;
 * GA_ERR_MISSING for tensors on another device.
 */
ga_status ga_capture_attention_take(const ga_tensor *query, const ga_tensor *key_image,
    const ga_tensor *key_text, const uint8_t *content, int32_t rows, ga_capture_attention *captured_out,
    ga_error *error);

/* The same for a state and its velocity, both [rows, channels, height, width]. */
ga_status ga_capture_latent_check(
    const ga_tensor *latent, const ga_tensor *velocity, int32_t rows, ga_error *error);

#endif
