#include "grpo_accel/feature/latent.h"

#include <math.h>

#include "grpo_accel/feature/read.h"

ga_status ga_latent_check(const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error) {
    GA_TRY(ga_read_check_host(latent, "latent", 4, error));
    GA_TRY(ga_read_check_host(velocity, "velocity", 4, error));
    for (int i = 0; i < 4; i++) {
        if (latent->shape[i] != velocity->shape[i]) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "latent and velocity differ in dimension %d: %lld and %lld", i, (long long)latent->shape[i],
                (long long)velocity->shape[i]);
        }
    }
    if (!isfinite(sigma) || sigma <= 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "latent: sigma is %g; expected a noise level above 0", sigma);
    }
    return GA_OK;
}

void ga_latent_plane(const ga_tensor *latent, int32_t row, int32_t channel, float *plane_out) {
    const int32_t height = (int32_t)latent->shape[2], width = (int32_t)latent->shape[3];
    const int64_t start = row * latent->strides[0] + channel * latent->strides[1];
    for (int32_t y = 0; y < height; y++) {
        ga_read_run(latent, start + y * latent->strides[2], latent->strides[3], width, 1.0f,
            plane_out + (ptrdiff_t)y * width);
    }
}

void ga_latent_preview(const ga_tensor *latent, const ga_tensor *velocity, double sigma, int32_t row,
    int32_t channel, float *workspace, float *plane_out) {
    const int64_t count = latent->shape[2] * latent->shape[3];
    ga_latent_plane(latent, row, channel, plane_out);
    ga_latent_plane(velocity, row, channel, workspace);
    const float factor = (float)sigma;
    for (int64_t i = 0; i < count; i++) {
        plane_out[i] -= factor * workspace[i];
    }
}
