/*
 * What can be asked of a ga_tensor, the view of memory that somebody else owns.
 *
 * Strides are in elements and may be zero (broadcast) or negative. Nothing here owns or keeps memory.
 * Not collective. Thread-safe: no state.
 */
#ifndef GA_COMPUTE_TENSOR_H
#define GA_COMPUTE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Bytes of one element; 0 for an unknown dtype. */
size_t ga_dtype_bytes(int32_t dtype);

/* "f32", "f16", "bf16", "f64", "i64" or "unknown". Static storage. */
const char *ga_dtype_name(int32_t dtype);

/* A contiguous CPU view of `data`; dims must be 0 … GA_TENSOR_DIMS_MAX, else the view has dims -1, which
 * every check refuses. */
ga_tensor ga_tensor_make(void *data, ga_dtype dtype, int32_t dims, const int64_t *shape);

/* Product of the shape (1 for no dimension); -1 where dims or a size is impossible or the product overflows.
 */
int64_t ga_tensor_count(const ga_tensor *tensor);

/* Row-major without gaps. Strides of dimensions of size 1 don't matter; empty views are contiguous. */
bool ga_tensor_is_contiguous(const ga_tensor *tensor);

/*
 * Refuses views that can't be read: impossible dims, sizes, dtype or device, an overflow in sizes or strides,
 * no data although there are elements. `name` stands in the message. GA_ERR_ARGUMENT.
 */
ga_status ga_tensor_check(const ga_tensor *tensor, const char *name, ga_error *error);

/*
 * The lowest and the highest element offset that the view touches, relative to `data`; both 0 and -1 for an
 * empty view. GA_ERR_ARGUMENT as ga_tensor_check.
 */
ga_status ga_tensor_reach(
    const ga_tensor *tensor, int64_t *lowest_out, int64_t *highest_out, ga_error *error);

/* Refuses a view that leaves the `held_bytes` bytes that begin at its data pointer. GA_ERR_ARGUMENT. */
ga_status ga_tensor_check_bounds(
    const ga_tensor *tensor, size_t held_bytes, const char *name, ga_error *error);

/*
 * The view without dimension `dim`, at `index` of it. *view_out may be *tensor. GA_ERR_ARGUMENT if out of
 * range.
 */
ga_status ga_tensor_select(
    const ga_tensor *tensor, int32_t dim, int64_t index, ga_tensor *view_out, ga_error *error);

/*
 * Gathers a strided f32, f16, bf16 or f64 view on the CPU into ga_tensor_count contiguous floats, row-major.
 * values_out belongs to the caller and must not overlap the view; it is untouched on failure. f64 is rounded
 * to nearest. GA_ERR_ARGUMENT for i64, other devices and what ga_tensor_check refuses.
 */
ga_status ga_tensor_to_float(const ga_tensor *tensor, float *values_out, ga_error *error);

#endif
