/*
 * Jobs of the provider `torch` on a thread of their own: a new thread has no autocast, no inference mode and
 * no dispatch mode, and its grad mode is ours.
 */
#ifndef GA_COMPUTE_TORCH_RUN_H
#define GA_COMPUTE_TORCH_RUN_H

#include "grpo_accel/compute/torch_call.h"

/* As ga_compute.run. One job at a time; others wait their turn. Starts the thread at the first call of a
 * process, a forked one too. Where no thread can be started the job runs on the caller's, grad mode off. */
ga_status ga_torch_run(ga_compute_job job, void *user, ga_error *error);

#endif
