/* Conversions between fp32, fp16 and bf16; round to nearest even, NaN stays NaN, overflow becomes infinity.
 */
#ifndef GA_COMPUTE_HALF_H
#define GA_COMPUTE_HALF_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/flow.h"

float ga_half_to_float(ga_half value);
ga_half ga_half_from_float(float value);
float ga_bfloat_to_float(uint16_t value);
uint16_t ga_bfloat_from_float(float value);

/* Arrays of count values; source and target must not overlap. */
void ga_half_to_float_array(const ga_half *source, float *target, size_t count);
void ga_half_from_float_array(const float *source, ga_half *target, size_t count);

#endif
