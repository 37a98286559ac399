/* Reading runs of values from a view of four dimensions: f32, f16 and bf16 on the CPU, any strides. */
#ifndef GA_FEATURE_READ_H
#define GA_FEATURE_READ_H

#include "grpo_accel/base/status.h"

/* GA_OK for f32, f16 or bf16 of `dims` dimensions on any device; else GA_ERR_ARGUMENT, with its name. */
ga_status ga_read_check(const ga_tensor *view, const char *name, int32_t dims, ga_error *error);

/* The same, and it must be on the CPU, where the functions below can read it. */
ga_status ga_read_check_host(const ga_tensor *view, const char *name, int32_t dims, ga_error *error);

/* values_out[i] = scale · element `i` of the run that begins at element `offset` with elements `stride`
 * apart. */
void ga_read_run(
    const ga_tensor *view, int64_t offset, int64_t stride, int32_t count, float scale, float *values_out);

#endif
