#include "grpo_accel/feature/guidance.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/feature/latent.h"
#include "grpo_accel/feature/read.h"

ga_status ga_guidance_check(const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error) {
    GA_TRY(ga_read_check_host(conditional, "conditional velocity", 4, error));
    GA_TRY(ga_read_check_host(unconditional, "unconditional velocity", 4, error));
    for (int i = 0; i < 4; i++) {
        if (conditional->shape[i] != unconditional->shape[i]) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "conditional and unconditional velocity differ in dimension %d: %lld and %lld", i,
                (long long)conditional->shape[i], (long long)unconditional->shape[i]);
        }
    }
    return GA_OK;
}

void ga_guidance_difference(const ga_tensor *conditional, const ga_tensor *unconditional, int32_t row,
    float *workspace, float *map_out) {
    const size_t count = (size_t)(conditional->shape[2] * conditional->shape[3]);
    const int32_t channels = (int32_t)conditional->shape[1];
    float *with = workspace, *without = workspace + count;
    memset(map_out, 0, count * sizeof *map_out);
    for (int32_t c = 0; c < channels; c++) {
        ga_latent_plane(conditional, row, c, with);
        ga_latent_plane(unconditional, row, c, without);
        for (size_t i = 0; i < count; i++) {
            map_out[i] += fabsf(with[i] - without[i]);
        }
    }
    for (size_t i = 0; i < count; i++) {
        map_out[i] /= (float)channels;
    }
}
