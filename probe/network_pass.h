/*
 * The room of a pass: for network_pass.c, which makes it, and for the two directions that use it.
 */
#ifndef GA_PROBE_NETWORK_PASS_H
#define GA_PROBE_NETWORK_PASS_H

#include "probe/network.h"

#define GA_NETWORK_WAVES 6
#define GA_NETWORK_WAVE_VALUES (2 * GA_NETWORK_WAVES)
#define GA_NETWORK_NORM_EPSILON 1e-5f

/* Activations of a ga_network_norm; input and output as wide as its map. */
typedef struct ga_norm_room {
    float *normal;      /* of GroupNorm */
    float *modulated;   /* after scale and shift; `normal` itself where there is no modulation */
    float *active;      /* after SiLU */
    float *mean, *rstd; /* [rows, groups] */
    float *scale;       /* [rows, channels] of the modulation */
    float *shift;       /* [rows, channels] */
} ga_norm_room;

typedef struct ga_block_room {
    ga_norm_room first, second;
    float *sigma;  /* [rows, out_channels] what σ adds */
    float *middle; /* what the first convolution gives */
    float *output;
} ga_block_room;

/* All arrays on the device, pieces of `memory`. */
struct ga_network_pass {
    const ga_network *network;
    const ga_compute *compute;
    int32_t rows_max, pictures_max;
    int32_t rows, pictures; /* of the last forward */
    bool selects;           /* rows of the last forward chose among its pictures */
    float *memory;
    float *waves_host;  /* [rows_max, wave values] */
    float *select_host; /* [rows_max, pictures_max] 1 where the row shows the picture; NULL: none is shared */
    float *select;      /* the same on the device */
    float *ones;        /* [pictures_max] */
    float *trunk_linear; /* [pictures, hidden] */
    ga_norm_room trunk;  /* [rows, hidden] `normal` is trunk_linear of the row's picture */
    float *maps, *scalars, *prompt, *waves;
    float *embed_linear, *embed, *prompt_linear, *prompt_embed, *condition, *film;
    float *stem, *pooled;
    ga_block_room blocks[GA_NETWORK_BLOCKS_MAX];
    ga_norm_room norm;
    float *joined, *hidden_linear, *hidden, *output;
    float *skipped; /* as large as the largest activation */
    float *workspace;
    /* backward */
    float *grad_output, *grad_hidden, *grad_joined, *grad_condition, *grad_embed, *grad_part, *grad_film;
    float *grad_pooled, *grad_channels; /* [rows, widest channels] */
    float *grad_trunk;                  /* [rows, hidden] */
    float *grad_trunk_linear;           /* [pictures, hidden] */
    float *grad_a, *grad_b, *grad_c;    /* as large as the largest activation */
};

/* Views of parts of the network as the compute table takes them. */
ga_conv ga_network_stem_conv(const ga_network *network, int32_t rows);
ga_conv ga_network_first_conv(const ga_network_block *block, int32_t rows);
ga_conv ga_network_second_conv(const ga_network_block *block, int32_t rows);
ga_conv ga_network_skip_conv(const ga_network_block *block, int32_t rows);
ga_group_norm ga_network_group_norm(const ga_network_norm *norm, int32_t rows);

/* Values of a norm's map for so many rows. */
static inline int64_t ga_network_norm_values(const ga_network_norm *norm, int32_t rows) {
    return (int64_t)rows * norm->channels * norm->height * norm->width;
}

/* Where parameter (or gradient) `tensor` begins. */
static inline const float *ga_network_at(const ga_network *network, const float *parameters, int32_t tensor) {
    return parameters + network->tensors[tensor].offset;
}
static inline float *ga_network_grad_at(const ga_network *network, float *gradients, int32_t tensor) {
    return gradients + network->tensors[tensor].offset;
}

#endif
