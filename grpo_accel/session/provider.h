/* Who computes for a session: chosen when it is known on which device the host's tensors are. */
#ifndef GA_SESSION_PROVIDER_H
#define GA_SESSION_PROVIDER_H

#include "grpo_accel/session/session.h"

/*
 * A tensor on this device is to be worked on (ga_device, index). probe.provider auto: torch from the first
 * CUDA tensor on. torch: torch on the device of the first tensor. native: never. The probe moves along; where
 * the provider is not to be had the session stays with the native one, and says so once. Not collective.
 */
void ga_session_meet_device(ga_session *session, int32_t device, int32_t device_index);

#endif
