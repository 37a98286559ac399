/*
 * What the host hands over at a candidate step, checked once, so that everything behind may trust it.
 *
 * Nothing is copied: the views are valid as long as the host's tensors are. Not collective. Any thread.
 */
#ifndef GA_CAPTURE_CAPTURE_H
#define GA_CAPTURE_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/capture/rows.h"

/* Attention of one block, conditional rows only, after normalisation and rotary embedding. */
typedef struct ga_capture_attention {
    int32_t rows, heads, image_tokens, text_tokens, head_size;
    ga_tensor query;        /* [rows, heads, image tokens, head size] */
    bool has_image_keys;    /* false: true cross-attention, key_image is void */
    ga_tensor key_image;    /* [rows, heads, image keys, head size] */
    ga_tensor key_text;     /* [rows, heads, text tokens, head size] */
    const uint8_t *content; /* [rows, text tokens] in host memory, of ga_text; NULL: all are content */
} ga_capture_attention;

/*
 * Checks that the views are fp32, fp16 or bf16 tensors that fit each other, on any device: room feature knows
 * who computes there. Tensors of twice batch_rows rows are taken as a guided batch with the conditional rows
 * last. key_image may be NULL or have NULL data, and more tokens than query. content [batch_rows, text
 * tokens] holds ga_text values: plain, content, or hidden where the model masks the key. GA_ERR_ARGUMENT
 * names the tensor, what it is and what it should be.
 */
ga_status ga_capture_attention_take(const ga_tensor *query, const ga_tensor *key_image,
    const ga_tensor *key_text, const uint8_t *content, int32_t batch_rows, ga_capture_attention *captured_out,
    ga_error *error);

/* A state and its velocity. */
typedef struct ga_capture_latent {
    int32_t rows, channels, height, width;
    ga_tensor latent;   /* [rows, channels, height, width] */
    ga_tensor velocity; /* the same */
    double sigma;       /* > 0 */
} ga_capture_latent;

/* The same for [rows, channels, height, width] on the CPU; GA_ERR_MISSING: on another device. */
ga_status ga_capture_latent_take(const ga_tensor *latent, const ga_tensor *velocity, double sigma,
    int32_t batch_rows, ga_capture_latent *captured_out, ga_error *error);

#endif
