/* The preview of the end: x0 = x_t − σ·v, rectified flow (Liu, Gong, Liu, "Flow straight and fast", ICLR
 * 2023). */
#ifndef GA_FEATURE_LATENT_H
#define GA_FEATURE_LATENT_H

#include "grpo_accel/base/status.h"

/* GA_ERR_ARGUMENT unless both are [rows, channels, height, width] of the same shape, and sigma is finite, >
 * 0. */
ga_status ga_latent_check(const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error);

/*
 * One channel of one row, [height, width], of checked views of f32, f16 or bf16 on the CPU. plane_out and
 * workspace hold height · width floats each. Not collective. Any thread.
 */
void ga_latent_preview(const ga_tensor *latent, const ga_tensor *velocity, double sigma, int32_t row,
    int32_t channel, float *workspace, float *plane_out);

/* One plane as it is: what the above reads. */
void ga_latent_plane(const ga_tensor *latent, int32_t row, int32_t channel, float *plane_out);

#endif
