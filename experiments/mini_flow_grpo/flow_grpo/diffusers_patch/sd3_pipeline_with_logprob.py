"""Stable Diffusion 3 sampling in which every step is a step of the SDE."""

import torch

from .sd3_sde_with_logprob import sde_step_with_logprob


def prepare(
    pipeline, prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds,
    negative_pooled_prompt_embeds, num_inference_steps, guidance_scale, height, width, generator,
):
    """Initial noise, text of both guidance branches and the time schedule.

    Returns (latents [B, C, h, w] fp32, text [B or 2B, L, D], pooled [B or 2B, P]); under classifier-free
    guidance the unconditional rows come first. Sets the scheduler's timesteps.
    """
    pipeline._guidance_scale = guidance_scale
    device = pipeline._execution_device
    latents = pipeline.prepare_latents(
        prompt_embeds.shape[0],
        pipeline.transformer.config.in_channels,
        height,
        width,
        torch.float32,
        device,
        generator,
    )
    if guidance_scale > 1:
        prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
        pooled_prompt_embeds = torch.cat([negative_pooled_prompt_embeds, pooled_prompt_embeds])
    pipeline.scheduler.set_timesteps(num_inference_steps, device=device)
    return latents, prompt_embeds, pooled_prompt_embeds


def predict_velocity(pipeline, latents, timestep, prompt_embeds, pooled_prompt_embeds, guidance_scale):
    """The guided velocity at ``latents`` [B, C, h, w] and scalar ``timestep``; fp32 [B, C, h, w]."""
    guided = guidance_scale > 1
    model_input = torch.cat([latents] * 2) if guided else latents
    velocity = pipeline.transformer(
        hidden_states=model_input,
        timestep=timestep.expand(model_input.shape[0]),
        encoder_hidden_states=prompt_embeds,
        pooled_projections=pooled_prompt_embeds,
        joint_attention_kwargs=None,
        return_dict=False,
    )[0].float()
    if guided:
        unconditional, conditional = velocity.chunk(2)
        velocity = unconditional + guidance_scale * (conditional - unconditional)
    return velocity


def decode(pipeline, latents, output_type):
    """Final latents [B, C, h, w] to images; ``output_type="pt"`` gives [B, 3, H, W] in 0..1."""
    latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    images = pipeline.vae.decode(latents.to(pipeline.vae.dtype), return_dict=False)[0]
    return pipeline.image_processor.postprocess(images, output_type=output_type)


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
):
    """Samples images for B rows of text.

    Args:
        prompt_embeds: [B, L, D]; pooled_prompt_embeds: [B, P]; the negative ones have the same shapes.
        noise_level: 0 samples by the ODE, as evaluation does.
        generator: for the initial noise only; steps draw from the device's global generator.

    Returns:
        (images, all_latents: T + 1 tensors [B, C, h, w], all_log_probs: T tensors [B]).
    """
    latents, text, pooled = prepare(
        pipeline, prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds,
        negative_pooled_prompt_embeds, num_inference_steps, guidance_scale, height, width, generator,
    )
    all_latents, all_log_probs = [latents], []
    for t in pipeline.scheduler.timesteps:
        velocity = predict_velocity(pipeline, latents, t, text, pooled, guidance_scale)
        latents, log_prob, _, _ = sde_step_with_logprob(
            pipeline.scheduler, velocity, t[None], latents, noise_level=noise_level
        )
        all_latents.append(latents)
        all_log_probs.append(log_prob)
    return decode(pipeline, latents, output_type), all_latents, all_log_probs
