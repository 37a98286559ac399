"""One step of the window sampler: Flow-GRPO's stochastic steps inside a window, plain Euler elsewhere."""

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


def sigmas(steps: int) -> torch.Tensor:
    """Noise levels [steps + 1], linear from 1 to 0."""
    return torch.linspace(1.0, 0.0, steps + 1)


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
