"""The window sampler of the shapes models: Flow-GRPO's stochastic steps inside a window, plain Euler elsewhere.

``SETTINGS`` are the settings under which the shipped model was measured; a trainer reads them from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """How images are sampled. ``window`` is the half-open range of stochastic steps."""

    steps: int = 10
    guidance_scale: float = 1.0
    noise_level: float = 0.7
    window: tuple[int, int] = (1, 3)
    max_sequence_length: int = 16


SETTINGS = Settings()


def sigmas(steps: int) -> torch.Tensor:
    """Noise levels [steps + 1], linear from 1 to 0."""
    return torch.linspace(1.0, 0.0, steps + 1)


def velocity(transformer, latents, sigma: float, text, pooled, empty=None, guidance_scale: float = 1.0):
    """Model output [N, C, 8, 8]; with a guidance scale other than 1, ``empty`` holds the empty prompt's vectors."""
    count = len(latents)
    if guidance_scale != 1.0:
        empty_text, empty_pooled = (part.expand(count, *part.shape[1:]) for part in empty)
        text, pooled = torch.cat([empty_text, text]), torch.cat([empty_pooled, pooled])
        latents = torch.cat([latents, latents])
    output = transformer(
        hidden_states=latents,
        timestep=torch.full((len(latents),), 1000.0 * sigma),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    if guidance_scale != 1.0:
        unguided, prompted = output.split(count)
        output = unguided + guidance_scale * (prompted - unguided)
    return output


def step(latents, output, sigma: float, next_sigma: float, noise_level: float, noise, largest_sigma: float):
    """One step from ``sigma`` to ``next_sigma``; ``noise_level`` 0 is the Euler step of the ODE.

    The stochastic step follows the SDE that has the same marginals: with g = noise_level sqrt(s / (1 - s)) the
    drift gains g^2 / 2s times the score direction, and g sqrt(-dt) of fresh noise is added. At s = 1, where g
    is infinite, the schedule's second sigma stands in for s in g.
    """
    dt = next_sigma - sigma
    if noise_level == 0.0:
        return latents + dt * output
    bounded = largest_sigma if sigma >= 1.0 else sigma
    g = noise_level * (bounded / (1.0 - bounded)) ** 0.5
    pull = g**2 / (2.0 * sigma)
    mean = latents * (1.0 + pull * dt) + output * (1.0 + pull * (1.0 - sigma)) * dt
    return mean + g * (-dt) ** 0.5 * noise


@torch.no_grad()
def sample(transformer, text, pooled, empty=None, settings: Settings = SETTINGS, seed: int = 0) -> torch.Tensor:
    """Latents [N, C, 8, 8] for N prompts' vectors (``text`` [N, L, D], ``pooled`` [N, P])."""
    generator = torch.Generator().manual_seed(seed)
    config = transformer.config
    shape = (len(text), config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=generator)
    schedule = sigmas(settings.steps).tolist()
    for index, (sigma, next_sigma) in enumerate(zip(schedule, schedule[1:])):
        output = velocity(transformer, latents, sigma, text, pooled, empty, settings.guidance_scale)
        inside = settings.window[0] <= index < settings.window[1]
        noise = torch.randn(shape, generator=generator) if inside else None
        level = settings.noise_level if inside else 0.0
        latents = step(latents, output, sigma, next_sigma, level, noise, schedule[1])
    return latents


@torch.no_grad()
def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """Images [N, 3, 32, 32] in 0..1."""
    raw = latents / vae.config.scaling_factor + vae.config.shift_factor
    images = torch.cat([vae.decode(part).sample for part in raw.split(128)])
    return (images * 0.5 + 0.5).clamp(0.0, 1.0)
