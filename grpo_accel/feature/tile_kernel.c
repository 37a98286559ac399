/*
 * Built once for each kind of processor. GA_TILE_NAME: its name; GA_TILE_LANES: floats of a register;
 * GA_TILE_QUERIES: queries of a panel, such that queries × 2 accumulators, 2 keys and a query fit into the
 * registers. The compiler may fuse products and sums here: what is compared across ranks comes later.
 */
#include <stdint.h>
#include <string.h>

#include "grpo_accel/feature/tile_kernel.h"

#define LANES GA_TILE_LANES
#define QUERIES GA_TILE_QUERIES
#define KEYS (2 * LANES)
#define JOIN(a, b) a##b
#define NAME_OF(name) JOIN(ga_tile_kernel_, name)
#define TEXT(name) #name
#define TEXT_OF(name) TEXT(name)
#define UNROLL _Pragma("GCC unroll 16")

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

/* Logits of a panel of queries against a panel of keys. */
typedef struct block {
    floats at[QUERIES][2];
} block;

static inline floats load(const float *from) {
    floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float *to, floats value) {
    memcpy(to, &value, sizeof value);
}

static inline floats splat(float value) {
    return value - (floats){0};
}

/* `other` where the mask is set, else `value`. */
static inline floats choose(words mask, floats other, floats value) {
    return (floats)((mask & (words)other) | (~mask & (words)value));
}

/*
 * 2^x: 2^n from the bits of a rounded float, 2^r for |r| ≤ 1/2 by the polynomial of degree 5 with the
 * smallest largest relative error (2e-7 with all rounding) among those that are 1 at 0. Below −127 it is 0,
 * since the bits of 2^-127 come out as 0.
 */
static inline floats power_of(floats x) {
    const floats lowest = splat(-127.0f), highest = splat(127.0f);
    const float rounder = 12582912.0f; /* 1.5 · 2²³: adding it rounds to a whole number */
    x = choose((words)(x < lowest), lowest, x);
    x = choose((words)(x > highest), highest, x);
    const floats shifted = x + rounder;
    const floats r = x - (shifted - rounder);
    floats series = r * 1.32647273e-3f + 9.67151299e-3f;
    series = series * r + 5.55073358e-2f;
    series = series * r + 0.240222424f;
    series = series * r + 0.693147004f;
    series = series * r + 1.0f;
    const words exponent = ((words)shifted << 23) + 0x3f800000u;
    return series * (floats)exponent;
}

static inline block multiply(int32_t head_size, const float *restrict query, const float *restrict key) {
    block sum;
    UNROLL
    for (int q = 0; q < QUERIES; q++) {
        sum.at[q][0] = splat(0.0f);
        sum.at[q][1] = splat(0.0f);
    }
    for (int32_t i = 0; i < head_size; i++) {
        const floats low = load(key), high = load(key + LANES);
        UNROLL
        for (int q = 0; q < QUERIES; q++) {
            sum.at[q][0] += query[q] * low;
            sum.at[q][1] += query[q] * high;
        }
        query += QUERIES;
        key += KEYS;
    }
    return sum;
}

static void sum_powers(int32_t head_size, int32_t panels, const float *query_panels, const float *key_panel,
    const float *shifts, float *sums) {
    for (int32_t p = 0; p < panels; p++) {
        const block logits = multiply(head_size, query_panels, key_panel);
        UNROLL
        for (int q = 0; q < QUERIES; q++) {
            const floats low = power_of(logits.at[q][0] - shifts[q]);
            const floats high = power_of(logits.at[q][1] - shifts[q]);
            store(sums + q * LANES, load(sums + q * LANES) + (low + high));
        }
        query_panels += head_size * QUERIES;
        shifts += QUERIES;
        sums += QUERIES * LANES;
    }
}

static void raise_highest(
    int32_t head_size, int32_t panels, const float *query_panels, const float *key_panel, float *highest) {
    for (int32_t p = 0; p < panels; p++) {
        const block logits = multiply(head_size, query_panels, key_panel);
        UNROLL
        for (int q = 0; q < QUERIES; q++) {
            floats most = load(highest + q * LANES);
            most = choose((words)(logits.at[q][0] > most), logits.at[q][0], most);
            most = choose((words)(logits.at[q][1] > most), logits.at[q][1], most);
            store(highest + q * LANES, most);
        }
        query_panels += head_size * QUERIES;
        highest += QUERIES * LANES;
    }
}

static void write_powers(int32_t head_size, int32_t panels, const float *query_panel, const float *key_panels,
    const float *shifts, float *powers) {
    const int32_t stride = panels * KEYS;
    for (int32_t p = 0; p < panels; p++) {
        const block logits = multiply(head_size, query_panel, key_panels);
        UNROLL
        for (int q = 0; q < QUERIES; q++) {
            float *to = powers + q * stride + p * KEYS;
            store(to, power_of(logits.at[q][0] - shifts[q]));
            store(to + LANES, power_of(logits.at[q][1] - shifts[q]));
        }
        key_panels += head_size * KEYS;
    }
}

const ga_tile_kernel NAME_OF(GA_TILE_NAME) = {.name = TEXT_OF(GA_TILE_NAME),
    .queries = QUERIES,
    .keys = KEYS,
    .lanes = LANES,
    .sum_powers = sum_powers,
    .raise_highest = raise_highest,
    .write_powers = write_powers};
