/*
 * What a block's attention says of each image token, without ever holding the attention matrix.
 *
 * With P[i, j] = mean over heads of softmax over all keys ([image, text], or text alone) of q_i·k_j /
 * sqrt(D): mass     Σ over text j of P[i, j]. Without image keys that is 1 by construction, and then the sum
 * is over content tokens only. entropy  of P[i, ·] renormalised over content tokens, in nats, 0 … ln(content
 * tokens) maximum  max over content tokens of P[i, j] spread   standard deviation over content tokens of P[i,
 * j], divided by their mean Content tokens are text tokens that are neither padding nor special. A row
 * without content has entropy, maximum, spread (and mass without image keys) 0. A NaN in the input gives NaN,
 * never a crash. The channels are those of "Diffusion Probe" (arXiv 2602.23783): text mass and entropy of ten
 * blocks.
 */
#ifndef GA_FEATURE_ATTENTION_H
#define GA_FEATURE_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"

/* Statistics in the order of their channels. */
typedef enum ga_attention_statistic {
    GA_ATTENTION_MASS = 0,
    GA_ATTENTION_ENTROPY = 1,
    GA_ATTENTION_MAXIMUM = 2,
    GA_ATTENTION_SPREAD = 3,
    GA_ATTENTION_STATISTIC_COUNT = 4
} ga_attention_statistic;

#define GA_ATTENTION_BIT(statistic) (1u << (unsigned)(statistic))

/* Those that a block gives unless others are asked for. */
#define GA_ATTENTION_DEFAULT                                                                                 \
    (GA_ATTENTION_BIT(GA_ATTENTION_MASS) | GA_ATTENTION_BIT(GA_ATTENTION_ENTROPY) |                          \
        GA_ATTENTION_BIT(GA_ATTENTION_MAXIMUM))

/* One block's q and k: views of f32, f16 or bf16 on the CPU, any strides, R rows each. */
typedef struct ga_attention_views {
    int32_t rows; /* that are wanted */
    int32_t heads, image_tokens, text_tokens, head_size;
    const ga_tensor *query;     /* [R, heads, image tokens, head size] */
    const ga_tensor *key_image; /* [R, heads, image keys, head size]; NULL: cross-attention, text keys only */
    const ga_tensor *key_text;  /* [R, heads, text tokens, head size] */
    const uint8_t *content;     /* [R, text tokens] or, if shared, [text tokens]; 1: content; NULL: all are */
    bool content_is_shared;
    const int32_t *row_index; /* [rows] which of the R rows are wanted; NULL: 0 … rows − 1 */
    uint32_t statistics;      /* GA_ATTENTION_BIT(…); 0: GA_ATTENTION_DEFAULT */
} ga_attention_views;

/* One row's maps, each [image tokens], or NULL where not wanted. In the order of ga_attention_statistic. */
typedef struct ga_attention_maps {
    float *maps[GA_ATTENTION_STATISTIC_COUNT];
} ga_attention_maps;

/* Number of bits that are set; statistics 0 counts as the default. */
int32_t ga_attention_count(uint32_t statistics);

/* GA_ERR_ARGUMENT, with the tensor named, unless shapes, types and row indices fit each other. */
ga_status ga_attention_check(const ga_attention_views *views, ga_error *error);

/* Floats of workspace that a row needs, for a checked input. Independent of the number of image tokens. */
size_t ga_attention_workspace_floats(const ga_attention_views *views);

/*
 * Maps of row number `row` (0 … rows − 1) of a checked input. compute->sgemm must work on the CPU's memory.
 * Not collective. Any thread with a workspace of its own. Errors: those of sgemm.
 */
ga_status ga_attention_row(const ga_attention_views *views, int32_t row, const ga_compute *compute,
    float *workspace, const ga_attention_maps *maps, ga_error *error);

#endif
