/*
 * The residual network over maps and scalars: forward and hand-written backward over the compute table.
 *
 *   maps [rows, C, H, W] → conv 3×3 → DownBlocks → GroupNorm → SiLU → mean over positions ─┐
 *   scalars [rows, S] ───────────────────────────────────────────────────────────────────── join → linear →
 *   log σ → sines and cosines → linear → SiLU ─ shifts inside the blocks ──────────────────┘    SiLU → linear
 *
 * DownBlock: x → GroupNorm → SiLU → conv 3×3 stride 2 → + shift(σ) → GroupNorm → SiLU → conv 3×3, plus a 1×1
 * convolution of stride 2 on x (the shape of the paper's probe, arXiv 2602.23783). As many blocks as the map
 * has halvings above 2×2, at most three; maps of any size, also none. The last layer starts at zero: a new
 * network answers 0 for every row, so that what it is added to is the starting point.
 *
 * Not collective. A ga_network is plain data; a pass belongs to one thread at a time.
 */
#ifndef GA_PROBE_NETWORK_H
#define GA_PROBE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/compute/compute.h"

#define GA_NETWORK_BLOCKS_MAX 3
#define GA_NETWORK_TENSORS_MAX 64

/* One parameter array inside the flat buffer. */
typedef struct ga_network_tensor {
    char name[32];
    int64_t offset; /* in floats */
    int64_t count;
    int32_t dims;
    int32_t shape[4];
    float initial;    /* constant start value, where initial_sd is 0 */
    float initial_sd; /* of a normal start */
} ga_network_tensor;

/* Numbers of tensors in `tensors`: scale and weight first, shift and bias one behind. */
typedef struct ga_network_block {
    int32_t in_channels, out_channels;
    int32_t height, width; /* of the input */
    int32_t norm1, conv1, sigma, norm2, conv2, skip;
} ga_network_block;

typedef struct ga_network {
    int32_t map_channels, height, width, scalars;
    int32_t joined; /* width of the joined vector */
    int32_t block_count;
    ga_network_block blocks[GA_NETWORK_BLOCKS_MAX];
    int32_t embed, stem, norm, hidden, last; /* numbers of tensors */
    int32_t last_channels, last_height, last_width;
    int32_t tensor_count;
    ga_network_tensor tensors[GA_NETWORK_TENSORS_MAX];
    int64_t parameter_count;
} ga_network;

/* The layout for inputs of that shape; map_channels may be 0. Sizes have been checked by ga_inputs_plan. */
void ga_network_plan(
    int32_t map_channels, int32_t height, int32_t width, int32_t scalars, ga_network *network_out);

/* Start values, the same for the same seed. parameters: [parameter_count]. */
void ga_network_initialise(const ga_network *network, uint64_t seed, float *parameters);

/* Room for the activations of up to rows_max rows, and what backward needs. */
typedef struct ga_network_pass ga_network_pass;

/* `network` and `compute` must outlive the pass. GA_ERR_MEMORY. */
ga_status ga_network_pass_create(const ga_network *network, const ga_compute *compute, int32_t rows_max,
    bool with_backward, ga_network_pass **pass_out, ga_error *error);

/* Sets *pass to NULL; NULL is allowed. */
void ga_network_pass_destroy(ga_network_pass **pass);

/* Standardised inputs of a pass; they must stay valid until its backward. */
typedef struct ga_network_input {
    int32_t rows;
    const float *maps;      /* [rows, map_channels, height, width]; NULL without maps */
    const float *scalars;   /* [rows, scalars] */
    const float *log_sigma; /* [rows] */
} ga_network_input;

/* output: [rows]. GA_ERR_ARGUMENT when rows exceed rows_max. */
ga_status ga_network_forward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    float *output, ga_error *error);

/* Adds the gradient of Σ grad_output · output of the last forward to grad_parameters [parameter_count]. The
 * same `input` and `parameters` as there. */
ga_status ga_network_backward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    const float *grad_output, float *grad_parameters, ga_error *error);

#endif
