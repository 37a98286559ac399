/*
 * The residual network over maps, scalars and a condition: forward and hand-written backward over the compute
 * table, so that it runs wherever the table's provider runs.
 *
 * `joined`, ours, with the condition in the head:
 *
 *   log σ → waves → linear → SiLU ──┐
 *   prompt [P] → linear → SiLU ─────┴─ condition c ─→ scale(c), shift(c) of the trunk's vector
 *   maps [C, H, W] → conv 3×3 + place → blocks → norm → SiLU → mean over positions → linear
 *                                          → · (1 + scale(c)) + shift(c) → SiLU ─┐
 *   scalars [S] ─────────────────────────────────────────────────────────────────┤
 *   c ───────────────────────────────────────────────────────────────────────────┴ join → linear → SiLU →
 * linear
 *
 * `place` is learned, a value for each channel and position: what is left of what is known to the pooled
 * vector. Up to the pooling nothing depends on the prompt: rows that show the same picture share that part.
 *
 * The same with the condition in the blocks:
 *
 *   log σ, prompt → condition c ─→ scale(c), shift(c) of every normalisation
 *   maps [C, H, W] → conv 3×3 → blocks → norm → SiLU → mean over positions ─┐
 *   scalars [S] ────────────────────────────────────────────────────────────┤
 *   c ────────────────────────────────────────────────────────────────────── join → linear → SiLU → linear
 *
 * A norm is GroupNorm followed by values · (1 + scale(c)) + shift(c) (FiLM: Perez et al., AAAI 2018); both
 * start at zero. So the same preview gets another answer under another prompt.
 *
 * `paper`, the probe of arXiv 2602.23783: maps → conv 3×3 → blocks, into which σ shifts → GroupNorm → SiLU →
 * mean over positions → 1×1 convolution. Scalars and prompt are not seen.
 *
 * Block: x → norm → SiLU → conv 3×3 (stride s) → [+ shift(σ)] → norm → SiLU → conv 3×3, plus x itself, or a
 * 1×1 convolution of x where shape or channels change. The last layer starts at zero: a new network answers
 * 0 for every row, so that what it is added to is the starting point.
 *
 * Not collective. A ga_network is plain data; a pass belongs to one thread at a time.
 */
#ifndef GA_PROBE_NETWORK_H
#define GA_PROBE_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/compute/compute.h"
#include "probe/network_options.h"

#define GA_NETWORK_BLOCKS_MAX 20
#define GA_NETWORK_TENSORS_MAX 280

/* What a network takes. */
typedef struct ga_network_shape {
    int32_t map_channels, height, width; /* map_channels may be 0 */
    int32_t scalars;
    int32_t prompt; /* values of the prompt's vector; 0: none */
} ga_network_shape;

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

/* GroupNorm, modulation, SiLU. `norm` is the number of its scale in `tensors`, its shift is one behind;
 * `film` the first of 2 · channels columns in the modulation (scales, then shifts), -1: not modulated. */
typedef struct ga_network_norm {
    int32_t channels, groups, height, width;
    int32_t norm, film;
} ga_network_norm;

/* Numbers of tensors in `tensors`: the weight, its bias one behind; -1: there is none. */
typedef struct ga_network_block {
    int32_t in_channels, out_channels, stride;
    ga_network_norm first, second; /* on the block's input, and on what the first convolution gives */
    int32_t conv1, conv2, skip, sigma;
} ga_network_block;

typedef struct ga_network {
    ga_network_options options;
    ga_network_shape shape; /* with scalars = prompt = 0 where the architecture does not see them */
    int32_t outputs;        /* of ga_network_options_outputs */
    int32_t condition;      /* width of c */
    int32_t film_columns;   /* of all modulations; 0: none */
    bool shares_pictures;   /* the condition is in the head, behind maps */
    ga_network_norm
        trunk;      /* its vector and modulation there, a norm that does not normalise; norm: its linear */
    int32_t joined; /* width of what the last layers take */
    int32_t block_count;
    ga_network_block blocks[GA_NETWORK_BLOCKS_MAX];
    ga_network_norm norm;                                   /* before the pooling; channels 0 without maps */
    int32_t embed, prompt, film, stem, place, hidden, last; /* numbers of tensors, -1: there is none */
    int32_t tensor_count;
    ga_network_tensor tensors[GA_NETWORK_TENSORS_MAX];
    int64_t parameter_count;
} ga_network;

/* The layout for inputs of that shape, which ga_inputs_plan has checked. GA_ERR_ARGUMENT: options out of
 * range, `none`, `paper` without maps, more than GA_NETWORK_PARAMETERS_MAX parameters. */
ga_status ga_network_plan(const ga_network_options *options, const ga_network_shape *shape,
    ga_network *network_out, ga_error *error);

/* Start values, the same for the same seed. parameters: [parameter_count] in host memory. */
void ga_network_initialise(const ga_network *network, uint64_t seed, float *parameters);

/* Room on the device for the activations of up to rows_max rows, and what backward needs. */
typedef struct ga_network_pass ga_network_pass;

/* `network` and `compute` must outlive the pass. pictures_max ≤ rows_max; equal unless the network shares
 * pictures. GA_ERR_ARGUMENT, GA_ERR_MEMORY. */
ga_status ga_network_pass_create(const ga_network *network, const ga_compute *compute, int32_t rows_max,
    int32_t pictures_max, bool with_backward, ga_network_pass **pass_out, ga_error *error);

/* Sets *pass to NULL; NULL is allowed. */
void ga_network_pass_destroy(ga_network_pass **pass);

/* Standardised inputs of a pass, in host memory; read during the forward call alone. */
typedef struct ga_network_input {
    int32_t rows;
    int32_t pictures;       /* where network.shares_pictures; else, or with picture NULL, it is rows */
    const int32_t *picture; /* [rows] the picture that the row shows; NULL: row i shows picture i */
    const float *maps;      /* [pictures, map_channels, height, width]; NULL without maps */
    const float *scalars;   /* [rows, scalars] */
    const float *prompt;    /* [rows, prompt]; NULL without */
    const float *log_sigma; /* [rows] */
} ga_network_input;

/* parameters: [parameter_count] on the device. output: [rows, outputs] in host memory. GA_ERR_ARGUMENT when
 * rows exceed rows_max. */
ga_status ga_network_forward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    float *output, ga_error *error);

/* Adds the gradient of Σ grad_output · output of the last forward to grad_parameters [parameter_count] on the
 * device. grad_output: [rows, outputs] in host memory. The same `parameters` as there. */
ga_status ga_network_backward(ga_network_pass *pass, const float *parameters, const float *grad_output,
    float *grad_parameters, ga_error *error);

#endif
