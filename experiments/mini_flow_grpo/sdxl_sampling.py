"""Stable Diffusion XL sampling by Euler steps, ancestral ones inside a window, with log-probabilities (DDPO).

The state is x = x0 + sigma * noise, as the Euler schedulers keep it. An ancestral step goes down to sigma_down by the ODE
and up to the next sigma by fresh noise, with sigma_up^2 + sigma_down^2 = sigma_next^2:

    sigma_up = a * sqrt(sigma_next^2 * (sigma^2 - sigma_next^2)) / sigma
    mean     = x + (x - x0) / sigma * (sigma_down - sigma)
    x_next   ~ Normal(mean, sigma_up^2)

``a`` is the noise level; at a = 0 this is the scheduler's own Euler step.
"""

import math

import torch
from diffusers.utils.torch_utils import randn_tensor

from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob_fast import choose_window
from flow_grpo.diffusers_patch.sd3_sde_with_logprob import step_indices


def clean(scheduler, output, sample, sigma):
    """x0 of a state, of a velocity or noise prediction."""
    if scheduler.config.prediction_type == "v_prediction":
        return (sample / torch.sqrt(sigma**2 + 1) - output * sigma) / torch.sqrt(sigma**2 + 1)
    return sample - sigma * output


def ancestral_step(scheduler, output, timestep, sample, noise_level, prev_sample=None):
    """Takes one step, or scores a step that was taken.

    Args:
        output: the UNet's prediction, [B, C, h, w]; timestep: [1] or [B]; sample: state before the step.
        prev_sample: state after the step; None draws it.

    Returns:
        (prev_sample, log_prob [B]); the latter is a mean over the elements of a row, zero without noise.
    """
    index = step_indices(scheduler, timestep)
    sigma, following = (scheduler.sigmas[index + i].view(-1, 1, 1, 1) for i in (0, 1))
    up = noise_level * torch.sqrt(following**2 * (sigma**2 - following**2)) / sigma
    down = torch.sqrt(following**2 - up**2)
    mean = sample + (sample - clean(scheduler, output, sample, sigma)) / sigma * (down - sigma)
    if noise_level == 0:
        return mean, sample.new_zeros(sample.shape[0])
    if prev_sample is None:
        prev_sample = mean + up * randn_tensor(mean.shape, device=mean.device, dtype=mean.dtype)
    density = -((prev_sample.detach() - mean) ** 2) / (2 * up**2) - torch.log(up) - 0.5 * math.log(2 * math.pi)
    return prev_sample, density.flatten(1).mean(dim=1)


def predict(unet, scheduler, sample, timestep, text, without, guidance_scale, resolution):
    """The guided prediction [B, C, h, w] at a state and a timestep, scalar or [B]; unconditional rows come first.

    Args:
        text, without: prompt_embeds [B, L, D] and pooled_prompt_embeds [B, P] of both branches.
    """
    rows = len(sample)
    sigma = scheduler.sigmas[step_indices(scheduler, timestep.reshape(-1))].view(-1, 1, 1, 1)
    both = {name: torch.cat([without[name], text[name]]) for name in text}
    size = (resolution, resolution)
    sizes = torch.tensor([*size, 0, 0, *size], device=sample.device, dtype=sample.dtype)
    output = unet(
        torch.cat([sample / torch.sqrt(sigma**2 + 1)] * 2),
        timestep if timestep.dim() == 0 else timestep.repeat(2),
        encoder_hidden_states=both["prompt_embeds"],
        added_cond_kwargs={"text_embeds": both["pooled_prompt_embeds"], "time_ids": sizes.expand(2 * rows, -1)},
        return_dict=False,
    )[0]
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.no_grad()
def sample(
    pipeline, text, without, *, num_inference_steps, guidance_scale, resolution, noise_level, generator=None,
    sde_window_size=0, sde_window_range=(0, 5),
):
    """Samples images of B rows of text.

    Returns (images [B, 3, H, W] in 0..1, all_latents: w + 1 tensors [B, C, h, w], all_log_probs: w tensors [B],
    all_timesteps: w scalar tensors) of the w noisy steps.
    """
    device = pipeline._execution_device
    pipeline._guidance_scale = guidance_scale
    pipeline.scheduler.set_timesteps(num_inference_steps, device=device)
    latents = pipeline.prepare_latents(
        len(text["prompt_embeds"]), pipeline.unet.config.in_channels, resolution, resolution, torch.float32, device,
        generator,
    )
    timesteps = pipeline.scheduler.timesteps
    first, end = choose_window(len(timesteps), sde_window_size, sde_window_range)
    all_latents, all_log_probs, all_timesteps = [], [], []
    for i, t in enumerate(timesteps):
        inside = first <= i < end
        if i == first:
            all_latents.append(latents)
        output = predict(
            pipeline.unet, pipeline.scheduler, latents, t, text, without, guidance_scale, resolution).float()
        level = noise_level if inside else 0
        latents, log_prob = ancestral_step(pipeline.scheduler, output, t[None], latents, level)
        if inside:
            all_latents.append(latents)
            all_log_probs.append(log_prob)
            all_timesteps.append(t)
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    return pipeline.image_processor.postprocess(images, output_type="pt"), all_latents, all_log_probs, all_timesteps
