/*
 * Features of a batch's rows in one block of fp16 values: the schema, and one function an input.
 *
 * Values beyond ±65504 are saturated, never infinite; NaN stays NaN, so that what is not known is not scored.
 */
#ifndef GA_FEATURE_FEATURE_H
#define GA_FEATURE_FEATURE_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/feature/attention.h"

/* What the inputs of a run look like. Fields of inputs that are not wanted are ignored. */
typedef struct ga_feature_options {
    uint32_t inputs;               /* GA_INPUT_BIT(…) of those wanted, at least one */
    int32_t map_size;              /* height and width of maps at most, ≥ 1 */
    int32_t attention_blocks;      /* tapped blocks */
    uint32_t attention_statistics; /* GA_ATTENTION_BIT(…); 0: GA_ATTENTION_DEFAULT */
    int32_t token_height;          /* image tokens of the attention maps */
    int32_t token_width;
    int32_t latent_channels;
    int32_t latent_height;
    int32_t latent_width;
    int32_t hidden_values;    /* of the pooled hidden state */
    int32_t prompt_values;    /* of the pooled text embedding */
    int32_t preview_scores;   /* scalars a row */
    int32_t lookahead_scores; /* scalars a row */
    int32_t distilled_scores; /* scalars a row */
} ga_feature_options;

/*
 * Layout of a row: inputs in the order of ga_input. All maps share one size, map_size or the smallest map if
 * that is smaller. Attention has a channel for each (block, statistic), statistics fastest; x0 one for each
 * latent channel; cfg one. The id is a digest of all that, and of the statistics. Not collective. Any thread.
 * Errors: GA_ERR_ARGUMENT, with the field named.
 */
ga_status ga_feature_schema_make(
    const ga_feature_options *options, ga_feature_schema *schema_out, ga_error *error);

/* Every value becomes NaN: nothing is known yet. */
void ga_feature_clear(ga_feature_block *block);

/*
 * Attention of tapped block number `tap` of the block's rows (views->rows must be as many), image tokens on a
 * grid of token_height × token_width. views->statistics must be what the schema was made with. Tensors on the
 * CPU are reduced there by this room's own kernel, whatever `compute` is; those on another device by
 * compute->attention, so that q and k never leave it. Scratch comes from the arena and, for the call, from
 * the system. Errors: GA_ERR_ARGUMENT (shapes, grid, tap out of range), GA_ERR_MISSING (a device where
 * `compute` has no attention), GA_ERR_MEMORY, those of compute->attention.
 */
ga_status ga_feature_put_attention(ga_feature_block *block, int32_t tap, const ga_attention_views *views,
    int32_t token_height, int32_t token_width, const ga_compute *compute, ga_arena *arena, ga_error *error);

/*
 * x0 = latent − sigma·velocity, both [block->rows, channels, height, width]. Latents, velocities and vectors
 * are small, so here and below they are CPU tensors: the caller copies. Errors: GA_ERR_ARGUMENT,
 * GA_ERR_MEMORY.
 */
ga_status ga_feature_put_x0(ga_feature_block *block, const ga_tensor *latent, const ga_tensor *velocity,
    double sigma, ga_arena *arena, ga_error *error);

/* |conditional − unconditional| of two velocities [block->rows, channels, height, width]. Errors: as above.
 */
ga_status ga_feature_put_guidance(ga_feature_block *block, const ga_tensor *conditional,
    const ga_tensor *unconditional, ga_arena *arena, ga_error *error);

/* `count` scalars a row (preview, lookahead, distilled): values[block->rows][count]. Errors: GA_ERR_ARGUMENT.
 */
ga_status ga_feature_put_scalars(
    ga_feature_block *block, ga_input input, const double *values, int32_t count, ga_error *error);

/* A vector a row (hidden, prompt): f32, f16 or bf16 on the CPU, [block->rows, values]. Errors: as above. */
ga_status ga_feature_put_vectors(
    ga_feature_block *block, ga_input input, const ga_tensor *vectors, ga_arena *arena, ga_error *error);

/* Did rows of a group start from, and are they still in, the same state? Then nothing tells them apart. */
typedef struct ga_shared_state {
    int32_t groups;        /* of at least two rows, all of them with features */
    int32_t shared_groups; /* whose rows have the same maps */
    int32_t shared_rows;   /* rows in those */
} ga_shared_state;

/*
 * Compares maps (attention, x0, cfg) and hidden states of rows with the same key; scores and prompts say
 * nothing of the state. Two values are the same if they differ by less than 1/256 of the input's root mean
 * square over all rows: fp16 and the order of sums in batches are finer than that, other noise is far
 * coarser. Without such inputs groups is 0. Not collective. Any thread. Errors: GA_ERR_MEMORY.
 */
ga_status ga_feature_shared_state(
    const ga_feature_block *block, const uint64_t *group_keys, ga_shared_state *shared_out, ga_error *error);

#endif
