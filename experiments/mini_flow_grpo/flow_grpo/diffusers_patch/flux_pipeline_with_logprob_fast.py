"""FLUX sampling with noise in a window of steps only; all other steps follow the ODE."""

import torch

from .flux_pipeline_with_logprob import decode, predict_velocity, prepare
from .sd3_pipeline_with_logprob_fast import choose_window
from .sd3_sde_with_logprob import sde_step_with_logprob


@torch.no_grad()
def pipeline_with_logprob(
    pipeline,
    prompt=None,
    height=None,
    width=None,
    num_inference_steps=28,
    guidance_scale=3.5,
    generator=None,
    prompt_embeds=None,
    pooled_prompt_embeds=None,
    output_type="pil",
    max_sequence_length=512,
    noise_level=0.7,
    sde_window_size=0,
    sde_window_range=(0, 5),
):
    """As in ``flux_pipeline_with_logprob``, with noise in a window of w steps.

    Returns:
        (images, all_latents: w + 1 tensors [B, N, 4C], image_ids [N, 3], text_ids [L, 3],
        all_log_probs: w tensors [B], all_timesteps: w scalar tensors), of the window only.
    """
    latents, image_ids, text, pooled, text_ids = prepare(
        pipeline, prompt, prompt_embeds, pooled_prompt_embeds, num_inference_steps, height, width,
        max_sequence_length, generator,
    )
    timesteps = pipeline.scheduler.timesteps
    first, end = choose_window(len(timesteps), sde_window_size, sde_window_range)
    all_latents, all_log_probs, all_timesteps = [], [], []
    for i, t in enumerate(timesteps):
        inside = first <= i < end
        if i == first:
            all_latents.append(latents)
        velocity = predict_velocity(pipeline, latents, t, guidance_scale, image_ids, text, pooled, text_ids)
        latents, log_prob, _, _ = sde_step_with_logprob(
            pipeline.scheduler, velocity, t[None], latents, noise_level=noise_level if inside else 0
        )
        if inside:
            all_latents.append(latents)
            all_log_probs.append(log_prob)
            all_timesteps.append(t)
    images = decode(pipeline, latents, height, width, output_type)
    return images, all_latents, image_ids, text_ids, all_log_probs, all_timesteps
