"""FLUX sampling in which every step is a step of the SDE."""

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from .sd3_sde_with_logprob import sde_step_with_logprob


def set_schedule(pipeline, num_inference_steps, image_tokens, device):
    """The pipelines' own time schedule of packed latents: shifted by the number of image tokens where it is dynamic."""
    config = pipeline.scheduler.config
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    bounds = [config.get(name, usual) for name, usual in zip(names, (256, 4096, 0.5, 1.15))]
    sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    pipeline.scheduler.set_timesteps(sigmas=sigmas, device=device, mu=calculate_shift(image_tokens, *bounds))


def prepare(
    pipeline, prompt, prompt_embeds, pooled_prompt_embeds, num_inference_steps, height, width, max_sequence_length,
    generator,
):
    """Initial noise, text and the time schedule, which it sets.

    Returns (latents [B, N, 4C] fp32, image_ids [N, 3], text [B, L, D], pooled [B, P], text_ids [L, 3]).
    """
    device = pipeline._execution_device
    text, pooled, text_ids = pipeline.encode_prompt(
        prompt=prompt, prompt_2=None, prompt_embeds=prompt_embeds, pooled_prompt_embeds=pooled_prompt_embeds,
        device=device, max_sequence_length=max_sequence_length,
    )
    channels = pipeline.transformer.config.in_channels // 4
    latents, image_ids = pipeline.prepare_latents(
        text.shape[0], channels, height, width, torch.float32, device, generator
    )
    set_schedule(pipeline, num_inference_steps, latents.shape[1], device)
    return latents, image_ids, text, pooled, text_ids


def predict_velocity(pipeline, latents, timestep, guidance_scale, image_ids, text, pooled, text_ids):
    """The velocity at ``latents`` [B, N, 4C] and scalar ``timestep``; fp32 [B, N, 4C]."""
    guidance = None
    if pipeline.transformer.config.guidance_embeds:
        guidance = torch.full((latents.shape[0],), float(guidance_scale), device=latents.device)
    return pipeline.transformer(
        hidden_states=latents,
        timestep=timestep.expand(latents.shape[0]) / 1000,
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=text,
        txt_ids=text_ids,
        img_ids=image_ids,
        joint_attention_kwargs=None,
        return_dict=False,
    )[0].float()


def decode(pipeline, latents, height, width, output_type):
    """Final latents [B, N, 4C] to images; ``output_type="pt"`` gives [B, 3, H, W] in 0..1."""
    latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    images = pipeline.vae.decode(latents.to(pipeline.vae.dtype), return_dict=False)[0]
    return pipeline.image_processor.postprocess(images, output_type=output_type)


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
):
    """Samples images for B rows of text, given as prompts or as tensors.

    Args:
        noise_level: 0 samples by the ODE, as evaluation does.
        generator: for the initial noise only; steps draw from the device's global generator.

    Returns:
        (images, all_latents: T + 1 tensors [B, N, 4C], image_ids [N, 3], text_ids [L, 3],
        all_log_probs: T tensors [B]).
    """
    latents, image_ids, text, pooled, text_ids = prepare(
        pipeline, prompt, prompt_embeds, pooled_prompt_embeds, num_inference_steps, height, width,
        max_sequence_length, generator,
    )
    all_latents, all_log_probs = [latents], []
    for t in pipeline.scheduler.timesteps:
        velocity = predict_velocity(pipeline, latents, t, guidance_scale, image_ids, text, pooled, text_ids)
        latents, log_prob, _, _ = sde_step_with_logprob(
            pipeline.scheduler, velocity, t[None], latents, noise_level=noise_level
        )
        all_latents.append(latents)
        all_log_probs.append(log_prob)
    return decode(pipeline, latents, height, width, output_type), all_latents, image_ids, text_ids, all_log_probs
