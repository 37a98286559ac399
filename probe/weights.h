/*
 * safetensors files: named arrays of fp32 and text beside them.
 *
 * Read with suspicion: a file may come from anywhere. The header is capped, parsed strictly and checked
 * against the file: offsets in range, without overlap or hole, dtype × shape = bytes. Nothing is executed,
 * nothing is trusted. f16, bf16 and f64 arrays are widened or rounded to fp32; other dtypes are refused by
 * name.
 *
 * Format: 8 bytes little-endian header length, JSON header, data (huggingface/safetensors, format
 * description). Not collective. An object belongs to one thread at a time.
 */
#ifndef GA_PROBE_WEIGHTS_H
#define GA_PROBE_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

#define GA_WEIGHTS_HEADER_BYTES_MAX ((size_t)1 << 20)
#define GA_WEIGHTS_FILE_BYTES_MAX ((size_t)1 << 28)
#define GA_WEIGHTS_DIMS_MAX 4
#define GA_WEIGHTS_NAME_BYTES 64
#define GA_WEIGHTS_VALUE_BYTES 1024

typedef struct ga_weights ga_weights;

typedef struct ga_weights_array {
    char name[GA_WEIGHTS_NAME_BYTES];
    int32_t dims;
    int64_t shape[GA_WEIGHTS_DIMS_MAX];
    int64_t count;
    float *values; /* owned by the ga_weights */
} ga_weights_array;

/* Empty; GA_ERR_MEMORY. */
ga_status ga_weights_create(ga_weights **weights_out, ga_error *error);

/* Sets *weights to NULL; NULL is allowed. */
void ga_weights_destroy(ga_weights **weights);

/* Adds or replaces a text. GA_ERR_ARGUMENT when it is too long, GA_ERR_MEMORY. */
ga_status ga_weights_set_text(ga_weights *weights, const char *key, const char *value, ga_error *error);

/* NULL when there is none; owned by `weights`. */
const char *ga_weights_text(const ga_weights *weights, const char *key);

/* Copies an array in. GA_ERR_ARGUMENT for a bad name or shape or a name that is there, GA_ERR_MEMORY. */
ga_status ga_weights_add(ga_weights *weights, const char *name, int32_t dims, const int64_t *shape,
    const float *values, ga_error *error);

/* NULL when there is none; owned by `weights`. */
const ga_weights_array *ga_weights_find(const ga_weights *weights, const char *name);

/* *weights_out is the caller's; nothing on failure. GA_ERR_FILE (can't be read, or refused), GA_ERR_MEMORY.
 */
ga_status ga_weights_read(const char *path, ga_weights **weights_out, ga_error *error);

/* Writes path.tmp, syncs it, renames it to path, syncs the folder: `path` is never a half file. On failure
 * the file that was there stays. GA_ERR_IO, GA_ERR_MEMORY. */
ga_status ga_weights_write(const ga_weights *weights, const char *path, ga_error *error);

#endif
