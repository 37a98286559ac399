/*
 * Attention statistics as maps over the image tokens, from captured q and k.
 *
 * Per row and image token, averaged over heads, with p = softmax over all keys (image and text) of q·kᵀ/√d:
 *   text mass = Σ_text p
 *   entropy   = −Σ_content p̃ ln p̃, p̃ = p over content text tokens, normalised to 1
 *   maximum   = max over content text tokens of p̃
 * The head average of each statistic, not the statistic of the averaged map.
 */
#ifndef GA_FEATURE_ATTENTION_H
#define GA_FEATURE_ATTENTION_H

#include <stdint.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"

enum { GA_ATTENTION_STATISTICS = 3 };

/* Views of one block's q and k, checked by room capture: any strides, fp32, fp16 or bf16, on the CPU. */
typedef struct ga_attention_views {
    int32_t rows, heads, image_tokens, text_tokens, head_size;
    const ga_tensor *query;     /* [rows, heads, image tokens, head size] */
    const ga_tensor *key_image; /* the same; NULL for true cross-attention */
    const ga_tensor *key_text;  /* [rows, heads, text tokens, head size] */
    const uint8_t *content;     /* [rows, text tokens]; NULL: all are content */
} ga_attention_views;

/*
 * maps_out [rows, GA_ATTENTION_STATISTICS, image tokens] fp32. Never holds more than one tile of logits. A
 * row without content tokens has entropy 0 and maximum 0. GA_ERR_MEMORY.
 */
ga_status ga_attention_statistics(const ga_attention_views *views, const ga_compute *compute, ga_arena *arena,
    float *maps_out, ga_error *error);

#endif
