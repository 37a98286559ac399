/* How much the prompt matters where: |conditional − unconditional|, mean over channels. */
#ifndef GA_FEATURE_GUIDANCE_H
#define GA_FEATURE_GUIDANCE_H

#include "grpo_accel/base/status.h"

/* GA_ERR_ARGUMENT unless both are [rows, channels, height, width] of the same shape. */
ga_status ga_guidance_check(const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error);

/*
 * One row's map [height, width] of checked views (velocities) on the CPU. workspace holds 2 · height · width
 * floats. Not collective. Any thread.
 */
void ga_guidance_difference(const ga_tensor *conditional, const ga_tensor *unconditional, int32_t row,
    float *workspace, float *map_out);

#endif
