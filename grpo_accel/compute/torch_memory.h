/*
 * Arrays of the provider `torch`: fp32 in PyTorch's own allocations, a pointer to their first value for the
 * caller. As ga_compute describes them. Any thread.
 */
#ifndef GA_COMPUTE_TORCH_MEMORY_H
#define GA_COMPUTE_TORCH_MEMORY_H

#include "grpo_accel/compute/torch_call.h"

ga_status ga_torch_allocate(size_t floats, float **memory_out, ga_error *error);
void ga_torch_release(float *memory);
ga_status ga_torch_upload(size_t floats, const float *host, float *memory, ga_error *error);
ga_status ga_torch_download(size_t floats, const float *memory, float *host, ga_error *error);
ga_status ga_torch_zero(size_t floats, float *memory, ga_error *error);

/* Not zeroed: for scratch. */
ga_status ga_torch_allocate_scratch(size_t floats, float **memory_out, ga_error *error);

#endif
