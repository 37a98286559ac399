/*
 * Do the operators of this PyTorch do what the provider was written for?
 */
#ifndef GA_COMPUTE_TORCH_CHECK_H
#define GA_COMPUTE_TORCH_CHECK_H

#include "grpo_accel/compute/compute.h"

/*
 * Runs convolution, group norm, their gradients, linear and three steps of AdamW on both tables and compares.
 * The values are small multiples of 1/16, so that a device which multiplies with 10 bits of mantissa (TF32)
 * is exact too. GA_ERR_MISSING with the operator's name where something is off by more than 1e-4. Called
 * inside ga_torch_run.
 */
ga_status ga_torch_check(const ga_compute *torch, const ga_compute *native, ga_error *error);

#endif
