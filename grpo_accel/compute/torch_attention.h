/*
 * Statistics of attention on the device: see ga_compute.attention and grpo_accel/feature/attention.h.
 */
#ifndef GA_COMPUTE_TORCH_ATTENTION_H
#define GA_COMPUTE_TORCH_ATTENTION_H

#include "grpo_accel/compute/torch_call.h"

/* Called inside ga_torch_run. Scratch on the device: 128 MiB of logits and probabilities at most, one row's
 * keys, and five tables [image tokens, text tokens]. */
ga_status ga_torch_attention(const ga_attention_op *op, float *maps_out, ga_error *error);

#endif
