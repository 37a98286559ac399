/*
 * From a row of features to what a model takes: pooled statistics for the ridge, maps and scalars for the
 * network, both standardised with the moments of the training rows.
 *
 * Arrays belong to the caller. Not collective. Thread-safe: no state.
 */
#ifndef GA_PROBE_INPUTS_H
#define GA_PROBE_INPUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* Mean, standard deviation, maximum, and centre of mass in x and y. */
#define GA_INPUTS_MAP_STATISTICS 5

/* A scalar input that is wider (a hidden state, a prompt embedding) is folded to so many values by a count
 * sketch with fixed signs (Charikar, Chen, Farach-Colton, ICALP 2002): inner products survive, the ridge
 * stays small. */
#define GA_INPUTS_SKETCH 256

/* Longest text of a layout, see ga_schema_to_text. */
#define GA_SCHEMA_TEXT_BYTES 256

/* What a schema gives. Plain data with its own copy of the schema. */
typedef struct ga_inputs {
    ga_feature_schema schema;
    int32_t pooled_count; /* statistics of all maps, all scalars, log σ last */
    int32_t map_channels; /* of all maps together; 0 when there is none */
    int32_t height, width;
    int32_t scalar_count; /* after folding */
    int32_t prompt_count; /* those of them that belong to the prompt, after folding; 0: no such input */
} ga_inputs;

/* GA_ERR_ARGUMENT when the schema is not one: no inputs, offsets that overlap, maps of different size. */
ga_status ga_inputs_plan(const ga_feature_schema *schema, ga_inputs *inputs_out, ga_error *error);

/* row [values_per_row] → pooled [pooled_count]. False, and pooled is void, if a value or σ is not usable. */
bool ga_inputs_pool(const ga_inputs *inputs, const float *row, double sigma, float *pooled);

/* The same where a feature that is NaN is unknown: what is made of it becomes NaN, which ga_moments_apply
 * turns into the mean, 0. sigma must be usable. */
void ga_inputs_pool_known(const ga_inputs *inputs, const float *row, double sigma, float *pooled);

/* row [values_per_row] → maps [map_channels, height, width]; nothing without maps. */
void ga_inputs_maps(const ga_inputs *inputs, const float *row, float *maps);

/* The scalar inputs out of a pooled row, [scalar_count] or, without those of the prompt,
 * [scalar_count - prompt_count]. */
void ga_inputs_scalars(const ga_inputs *inputs, const float *pooled, bool with_prompt, float *scalars);

/* Those of the prompt [prompt_count]. */
void ga_inputs_prompt(const ga_inputs *inputs, const float *pooled, float *prompt);

/* Place in a pooled row of the first value of `input`; -1 where the schema lacks it. *count_out: its values.
 */
int32_t ga_inputs_place(const ga_inputs *inputs, ga_input input, int32_t *count_out);

/* ln σ, the last pooled value and what the network's embedding takes. */
float ga_inputs_log_sigma(double sigma);

/* "attention:20x8x8@0;preview:1x1x1@1280": the layout in words. Cut off at GA_SCHEMA_TEXT_BYTES - 1. */
void ga_schema_to_text(const ga_feature_schema *schema, char text[GA_SCHEMA_TEXT_BYTES]);

/* The reverse; `id` is not in the text and becomes `id`. GA_ERR_ARGUMENT for any other text. */
ga_status ga_schema_from_text(const char *text, uint64_t id, ga_feature_schema *schema_out, ga_error *error);

/* The same id and the same layout. */
bool ga_schema_equal(const ga_feature_schema *a, const ga_feature_schema *b);

/* Standardisation of `count` values: (value − center) / scale, clipped to ±limit; NaN, unknown, becomes 0,
 * the mean. Owns its arrays. */
typedef struct ga_moments {
    int32_t count;
    float *center, *scale, *limit; /* one block of memory, at center */
} ga_moments;

/* Centers 0, scales 1, limits infinite. GA_ERR_MEMORY. */
ga_status ga_moments_create(int32_t count, ga_moments *moments_out, ga_error *error);

/* Leaves *moments empty; empty is allowed. */
void ga_moments_destroy(ga_moments *moments);

/* values [count] in place. */
void ga_moments_apply(const ga_moments *moments, float *values);

/* One moment per channel for values [count, positions] in place. */
void ga_moments_apply_maps(const ga_moments *moments, int32_t positions, float *values);

#endif
