/*
 * Memory and jobs of the provider `native`: the device is the CPU, so a copy is memcpy and a job a call.
 * As ga_compute describes them.
 */
#ifndef GA_COMPUTE_NATIVE_MEMORY_H
#define GA_COMPUTE_NATIVE_MEMORY_H

#include "grpo_accel/compute/compute.h"

ga_status ga_native_allocate(size_t floats, float **memory_out, ga_error *error);
void ga_native_release(float *memory);
ga_status ga_native_upload(size_t floats, const float *host, float *memory, ga_error *error);
ga_status ga_native_download(size_t floats, const float *memory, float *host, ga_error *error);
ga_status ga_native_zero(size_t floats, float *memory, ga_error *error);
ga_status ga_native_run(ga_compute_job job, void *user, ga_error *error);

#endif
