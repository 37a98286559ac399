/*
 * What a block's attention says of each image token, without ever holding the attention matrix.
 *
 * With P[i, j] = mean over heads of softmax over all keys ([image, text], or text alone) of
 * q_i·k_j / sqrt(D), content tokens those text tokens j that are neither padding nor special, and
 * w[i, j] = P[i, j] / Σ over content j' of P[i, j'], the statistics of image token i are
 *   mass           Σ over text j of P[i, j]; without image keys that would be 1, and the sum is over content
 *   entropy        −Σ over content j of w[i, j] ln w[i, j], in nats, 0 … ln(content tokens)
 *   maximum        max over content j of P[i, j]
 *   spread         standard deviation over content j of P[i, j], divided by their mean
 *   share          max over content j of w[i, j]: how far one token has the place for itself, 0 … 1
 *   concentration  Σ over content j of w[i, j] c[j], where c[j] = 1 − H(q[j]) / ln(image tokens) and
 *                  q[j][i] = P[i, j] / Σ over image tokens i' of P[i', j]: 1 if the tokens that are looked at
 *                  from here are looked at from one place only, 0 if from everywhere alike. c is 1 where the
 *                  image is one token.
 * A row without content has 0 in all of them (in mass only without image keys). A NaN in the input gives NaN
 * in what depends on it, never a crash: in concentration that is the whole row.
 * Hidden tokens (GA_TEXT_HIDDEN: what the model's own attention mask leaves out) are no text here: their keys
 * take no part in the softmax and are not read. A row whose text is all hidden has 0 in all of them. Image
 * keys may be more than image tokens (those of a reference image), or fewer.
 * Mass and entropy of ten blocks are the channels of "Diffusion Probe" (arXiv 2602.23783). That a word whose
 * attention has no place of its own is not painted: Chefer et al., "Attend-and-Excite" (SIGGRAPH 2023).
 */
#ifndef GA_FEATURE_ATTENTION_H
#define GA_FEATURE_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/feature/tile.h"

/* Statistics in the order of their channels; append only. */
typedef enum ga_attention_statistic {
    GA_ATTENTION_MASS = 0,
    GA_ATTENTION_ENTROPY = 1,
    GA_ATTENTION_MAXIMUM = 2,
    GA_ATTENTION_SPREAD = 3,
    GA_ATTENTION_SHARE = 4,
    GA_ATTENTION_CONCENTRATION = 5,
    GA_ATTENTION_STATISTIC_COUNT = 6
} ga_attention_statistic;

#define GA_ATTENTION_BIT(statistic) (1u << (unsigned)(statistic))

/* Those that a block gives unless others are asked for. */
#define GA_ATTENTION_DEFAULT                                                                                 \
    (GA_ATTENTION_BIT(GA_ATTENTION_MASS) | GA_ATTENTION_BIT(GA_ATTENTION_ENTROPY) |                          \
        GA_ATTENTION_BIT(GA_ATTENTION_MAXIMUM))

/* One block's q and k: views of f32, f16 or bf16, any strides, all on one device, R rows each. */
typedef struct ga_attention_views {
    int32_t rows; /* that are wanted */
    int32_t heads, image_tokens, text_tokens, head_size;
    const ga_tensor *query;     /* [R, heads, image tokens, head size] */
    const ga_tensor *key_image; /* [R, heads, image keys, head size]; NULL: cross-attention, text keys only */
    const ga_tensor *key_text;  /* [R, heads, text tokens, head size] */
    const uint8_t *content;     /* [R, text tokens] in host memory, of ga_text; NULL: all are content */
    uint32_t statistics;        /* GA_ATTENTION_BIT(…); 0: GA_ATTENTION_DEFAULT */
    int32_t threads;            /* at most; 0: as many as this process may use, but no more than 4 */
    const ga_tile_kernel *kernel; /* NULL: the fastest that this processor can run */
} ga_attention_views;

/* Number of bits that are set; statistics 0 counts as the default. */
int32_t ga_attention_count(uint32_t statistics);

/* GA_ERR_ARGUMENT, with the tensor named, unless shapes, types and devices fit each other and content holds
 * ga_text values only. */
ga_status ga_attention_check(const ga_attention_views *views, ga_error *error);

/*
 * maps_out [rows, statistics, image tokens] of a checked input on the CPU, statistics in ascending order of
 * their bits. Results don't depend on the number of threads. Holds, while it runs, a few hundred KiB a
 * thread whatever the number of image tokens (for concentration: 16 MiB or one row's [image tokens, text
 * tokens], if that is more). Threads of its own end before it returns and take no signals. Not collective.
 * Any thread. Errors: GA_ERR_MEMORY; then maps_out is void.
 */
ga_status ga_attention_compute(const ga_attention_views *views, float *maps_out, ga_error *error);

#endif
