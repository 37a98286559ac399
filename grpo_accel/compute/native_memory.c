#include "grpo_accel/compute/native_memory.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* Whole cache lines, so that vector loads of an array's start are aligned. */
#define ALIGNMENT_BYTES ((size_t)64)

ga_status ga_native_allocate(size_t floats, float **memory_out, ga_error *error) {
    size_t bytes;
    if (!ga_multiply_size(floats, sizeof(float), &bytes) || bytes > SIZE_MAX - ALIGNMENT_BYTES) {
        return GA_FAIL(error, GA_ERR_MEMORY, "an array of %zu floats can't be counted in bytes", floats);
    }
    bytes = (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    bytes = bytes == 0 ? ALIGNMENT_BYTES : bytes;
    float *memory = aligned_alloc(ALIGNMENT_BYTES, bytes);
    if (memory == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for an array of %zu floats", floats);
    }
    memset(memory, 0, bytes);
    *memory_out = memory;
    return GA_OK;
}

void ga_native_release(float *memory) {
    free(memory);
}

static ga_status copy(size_t floats, const float *from, float *to, ga_error *error) {
    if (floats > SIZE_MAX / sizeof(float)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a copy of %zu floats is impossible", floats);
    }
    if (floats > 0) {
        memcpy(to, from, floats * sizeof *to);
    }
    return GA_OK;
}

ga_status ga_native_upload(size_t floats, const float *host, float *memory, ga_error *error) {
    return copy(floats, host, memory, error);
}

ga_status ga_native_download(size_t floats, const float *memory, float *host, ga_error *error) {
    return copy(floats, memory, host, error);
}

ga_status ga_native_zero(size_t floats, float *memory, ga_error *error) {
    if (floats > SIZE_MAX / sizeof(float)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%zu floats can't be zeroed", floats);
    }
    if (floats > 0) {
        memset(memory, 0, floats * sizeof *memory);
    }
    return GA_OK;
}

ga_status ga_native_run(ga_compute_job job, void *user, ga_error *error) {
    return job(user, error);
}
