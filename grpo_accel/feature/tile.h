/*
 * The innermost loops of attention: products of a few queries with a few keys and 2 to their power, held in
 * registers, so that logits never go through memory.
 *
 * A panel of queries is stored [head size, queries], a panel of keys [head size, keys], both contiguous fp32.
 * Logits are in units of log 2: whoever packs queries multiplies them by log2(e) / sqrt(head size). Powers
 * have a relative error below 2e-7, are 0 below 2^-126, stop at 2^127, and NaN stays NaN. Nothing allocates
 * or keeps state; any thread. A query's results don't depend on the others of its panel, nor on the panel.
 */
#ifndef GA_FEATURE_TILE_H
#define GA_FEATURE_TILE_H

#include <stdint.h>

/* One set of loops, made for one kind of processor. */
typedef struct ga_tile_kernel {
    const char *name; /* "portable", "avx2", "avx512" */
    int32_t queries;  /* of a panel */
    int32_t keys;     /* of a panel */
    int32_t lanes;    /* partial sums of a query */

    /* sums[panels][queries][lanes] += 2^(q·k − shifts[panels][queries]) over one panel of keys. */
    void (*sum_powers)(int32_t head_size, int32_t panels, const float *query_panels, const float *key_panel,
        const float *shifts, float *sums);
    /* highest[panels][queries][lanes] = max of itself and q·k over one panel of keys; NaN is passed over. */
    void (*raise_highest)(
        int32_t head_size, int32_t panels, const float *query_panels, const float *key_panel, float *highest);
    /* powers[queries][panels · keys] = 2^(q·k − shifts[queries]) of one panel of queries. */
    void (*write_powers)(int32_t head_size, int32_t panels, const float *query_panel, const float *key_panels,
        const float *shifts, float *powers);
} ga_tile_kernel;

/* Those that this processor can run, the fastest first; at least the portable one. Static storage. */
const ga_tile_kernel *const *ga_tile_kernels(int32_t *count_out);

#endif
