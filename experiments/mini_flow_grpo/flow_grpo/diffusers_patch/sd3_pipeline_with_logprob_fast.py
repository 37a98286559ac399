"""Stable Diffusion 3 sampling with noise in a window of steps only; all other steps follow the ODE.

Only the steps of the window are stochastic, so only they can be trained on: the policy gradient costs
``sde_window_size`` forward passes a row, however many steps the sampler takes.
"""

import random

import torch

from .sd3_pipeline_with_logprob import decode, predict_velocity, prepare
from .sd3_sde_with_logprob import sde_step_with_logprob


def choose_window(num_steps, sde_window_size, sde_window_range):
    """(first, end) of the noisy steps: a window at a random place in the range, or all but the last step."""
    if sde_window_size == 0:
        return 0, num_steps - 1
    first = random.randint(sde_window_range[0], sde_window_range[1] - sde_window_size)
    return first, first + sde_window_size


@torch.no_grad()
def pipeline_with_logprob(
    pipeline,
    prompt_embeds=None,
    pooled_prompt_embeds=None,
    negative_prompt_embeds=None,
    negative_pooled_prompt_embeds=None,
    num_inference_steps=28,
    guidance_scale=7.0,
    output_type="pt",
    height=None,
    width=None,
    noise_level=0.7,
    generator=None,
    sde_window_size=0,
    sde_window_range=(0, 5),
):
    """As in ``sd3_pipeline_with_logprob``, with noise in a window of w steps.

    Returns:
        (images, all_latents: w + 1 tensors [B, C, h, w], all_log_probs: w tensors [B],
        all_timesteps: w scalar tensors), of the window only.
    """
    latents, text, pooled = prepare(
        pipeline, prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds,
        negative_pooled_prompt_embeds, num_inference_steps, guidance_scale, height, width, generator,
    )
    timesteps = pipeline.scheduler.timesteps
    first, end = choose_window(len(timesteps), sde_window_size, sde_window_range)
    all_latents, all_log_probs, all_timesteps = [], [], []
    for i, t in enumerate(timesteps):
        inside = first <= i < end
        if i == first:
            all_latents.append(latents)
        velocity = predict_velocity(pipeline, latents, t, text, pooled, guidance_scale)
        latents, log_prob, _, _ = sde_step_with_logprob(
            pipeline.scheduler, velocity, t[None], latents, noise_level=noise_level if inside else 0
        )
        if inside:
            all_latents.append(latents)
            all_log_probs.append(log_prob)
            all_timesteps.append(t)
    return decode(pipeline, latents, output_type), all_latents, all_log_probs, all_timesteps
