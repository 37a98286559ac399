/*
 * A batch's features: which inputs, in which layout, and how each is put into the block.
 *
 * All maps of a schema have one size: map_size, or the smallest map if that is smaller (maps are never
 * enlarged). Values are fp16; what is larger than fp16 can hold is cut to ±65504, what is not finite stays so
 * and makes the row unusable. Not collective. Any thread, one per block.
 */
#ifndef GA_FEATURE_FEATURE_H
#define GA_FEATURE_FEATURE_H

#include <stdint.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/feature/attention.h"

typedef struct ga_feature_options {
    uint32_t inputs;          /* GA_INPUT_BIT of attention, x0, preview */
    int32_t map_size;         /* cells a side at most, ≥ 1 */
    int32_t attention_blocks; /* tapped blocks: each gives GA_ATTENTION_STATISTICS channels */
    int32_t token_height, token_width;
    int32_t latent_channels, latent_height, latent_width;
    int32_t preview_scores; /* scalars of input preview, ≥ 1 when it is wanted */
} ga_feature_options;

/*
 * Layout of a row: inputs in the order of ga_input. attention: channels block-major, then text mass, entropy,
 * maximum. id is a digest of the layout, never 0. GA_ERR_ARGUMENT: an input that is not offered, or a size
 * that makes no sense.
 */
ga_status ga_feature_schema_make(
    const ga_feature_options *options, ga_feature_schema *schema_out, ga_error *error);

/* Statistics of tapped block number `tap` into the block's attention maps. Scratch memory comes from `arena`.
 */
ga_status ga_feature_put_attention(ga_feature_block *block, int32_t tap, const ga_attention_views *views,
    int32_t token_height, int32_t token_width, const ga_compute *compute, ga_arena *arena, ga_error *error);

/*
 * x0 = latent − sigma·velocity (rectified flow: x_t = (1−σ)·x0 + σ·noise, velocity = noise − x0), pooled,
 * into the block's x0 maps; both views [rows, channels, height, width].
 */
ga_status ga_feature_put_x0(ga_feature_block *block, const ga_tensor *latent, const ga_tensor *velocity,
    double sigma, ga_arena *arena, ga_error *error);

/* values [rows, channels] of a scalar input (preview) into the block. */
ga_status ga_feature_put_scalars(
    ga_feature_block *block, ga_input input, const double *values, int32_t channels, ga_error *error);

/* How many groups of at least two rows have members that can't be told apart. */
typedef struct ga_shared_state {
    int32_t groups;        /* with at least two rows */
    int32_t shared_groups; /* whose rows have equal features, bit for bit, in every map and vector input */
} ga_shared_state;

/* group [rows]: keys of (batch, prompt). GA_ERR_MEMORY. */
ga_status ga_feature_shared_state(
    const ga_feature_block *block, const uint64_t *group, ga_shared_state *shared_out, ga_error *error);

#endif
