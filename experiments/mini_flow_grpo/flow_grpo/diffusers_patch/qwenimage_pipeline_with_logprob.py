"""Qwen-Image sampling with noise in a window of steps only, under classifier-free guidance in one call."""

import inspect

import torch

from .flux_pipeline_with_logprob import set_schedule
from .sd3_pipeline_with_logprob_fast import choose_window
from .sd3_sde_with_logprob import sde_step_with_logprob


def encode(pipeline, prompt, negative_prompt, device, max_sequence_length):
    """The text of both branches, padded to one length: prompt_embeds [B, L, D] and prompt_embeds_mask [B, L] of each."""
    embeds, mask = pipeline.encode_prompt(
        prompt=prompt + negative_prompt, device=device, max_sequence_length=max_sequence_length
    )
    if mask is None:  # newer versions give none where no row is padded
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=device)
    (told, without), (told_mask, mask_without) = embeds.chunk(2), mask.chunk(2)
    return {
        "prompt_embeds": told, "prompt_embeds_mask": told_mask,
        "negative_prompt_embeds": without, "negative_prompt_embeds_mask": mask_without,
    }


def predict_velocity(pipeline, latents, timestep, text, true_cfg_scale, resolution, transformer=None):
    """The guided velocity at ``latents`` [B, N, 4C] and ``timestep`` [B] or scalar; fp32 [B, N, 4C].

    The conditional rows come first. Guidance keeps each token's conditional length.
    """
    side = resolution // pipeline.vae_scale_factor // 2
    mask = torch.cat([text["prompt_embeds_mask"], text["negative_prompt_embeds_mask"]])
    arguments = {
        "hidden_states": torch.cat([latents, latents]),
        "timestep": timestep.expand(len(latents)).repeat(2) / 1000,
        "guidance": None,
        "encoder_hidden_states_mask": mask,
        "encoder_hidden_states": torch.cat([text["prompt_embeds"], text["negative_prompt_embeds"]]),
        "img_shapes": [[(1, side, side)]] * (2 * len(latents)),
    }
    if "txt_seq_lens" in inspect.signature(pipeline.transformer.forward).parameters:  # until diffusers 0.38
        arguments["txt_seq_lens"] = [mask.shape[1]] * len(mask)
    output = (pipeline.transformer if transformer is None else transformer)(**arguments, return_dict=False)[0]
    conditional, unconditional = output.float().chunk(2)
    joined = unconditional + true_cfg_scale * (conditional - unconditional)
    return joined * (conditional.norm(dim=-1, keepdim=True) / joined.norm(dim=-1, keepdim=True))


def decode(pipeline, latents, height, width, output_type):
    """Final latents [B, N, 4C] to images; ``output_type="pt"`` gives [B, 3, H, W] in 0..1."""
    config = pipeline.vae.config
    latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor).to(pipeline.vae.dtype)
    mean, deviation = (
        torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    images = pipeline.vae.decode(latents * deviation + mean, return_dict=False)[0][:, :, 0]
    return pipeline.image_processor.postprocess(images, output_type=output_type)


@torch.no_grad()
def pipeline_with_logprob(
    pipeline,
    prompt=None,
    negative_prompt=None,
    true_cfg_scale=4.0,
    height=None,
    width=None,
    num_inference_steps=50,
    generator=None,
    output_type="pil",
    max_sequence_length=512,
    noise_level=0.7,
    sde_window_size=0,
    sde_window_range=(0, 5),
):
    """Samples images of B prompts, with noise in a window of w steps (0: in all but the last).

    Args:
        prompt, negative_prompt: lists of B strings.
        noise_level: 0 samples by the ODE, as evaluation does.
        generator: for the initial noise only; steps draw from the device's global generator.

    Returns:
        a dict: images, all_latents (w + 1 tensors [B, N, 4C]), all_log_probs (w tensors [B]), all_timesteps (w scalar
        tensors), and the entries of ``encode``.
    """
    device = pipeline._execution_device
    text = encode(pipeline, list(prompt), list(negative_prompt), device, max_sequence_length)
    channels = pipeline.transformer.config.in_channels // 4
    latents = pipeline.prepare_latents(len(prompt), channels, height, width, torch.float32, device, generator)
    set_schedule(pipeline, num_inference_steps, latents.shape[1], device)
    timesteps = pipeline.scheduler.timesteps
    first, end = choose_window(len(timesteps), sde_window_size, sde_window_range)
    all_latents, all_log_probs, all_timesteps = [], [], []
    for i, t in enumerate(timesteps):
        inside = first <= i < end
        if i == first:
            all_latents.append(latents)
        velocity = predict_velocity(pipeline, latents, t, text, true_cfg_scale, height)
        latents, log_prob, _, _ = sde_step_with_logprob(
            pipeline.scheduler, velocity, t[None], latents, noise_level=noise_level if inside else 0
        )
        if inside:
            all_latents.append(latents)
            all_log_probs.append(log_prob)
            all_timesteps.append(t)
    return {
        "images": decode(pipeline, latents, height, width, output_type), "all_latents": all_latents,
        "all_log_probs": all_log_probs, "all_timesteps": all_timesteps, **text,
    }
