"""How a state, the denoiser's prediction and the noise level belong together, for the schedulers that hosts use.

The *level* of a state is the share of noise in it, from 1 (noise alone) to 0 (the image). Two families are enough:
flow matching, x = (1 − σ)·x0 + σ·ε, whose level is σ; and variance preserving diffusion, x = √ᾱ·x0 + √(1 − ᾱ)·ε, whose
level is √(1 − ᾱ). Schedulers of the second kind that keep x0 + σ·ε instead (Euler, LMS) scale it before they ask the
denoiser: what the denoiser gets is the variance preserving state.
"""

from __future__ import annotations

import bisect
import math
from typing import Any

import torch


class Flow:
    """Flow matching: the prediction is the velocity ε − x0."""

    def __init__(self, scheduler: Any):
        self._scheduler = scheduler
        kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
        if kind != "flow_prediction":
            raise ValueError(f"the scheduler's prediction_type {kind!r} is not flow_prediction")

    def levels(self) -> list[float]:
        """Before each of the scheduler's steps, and at the end."""
        return [float(sigma) for sigma in self._scheduler.sigmas]

    def x0(self, state: torch.Tensor, prediction: torch.Tensor, level: float) -> torch.Tensor:
        return state - level * prediction

    def velocity(self, state: torch.Tensor, prediction: torch.Tensor, level: float) -> torch.Tensor:
        """(state − x0) / level."""
        return prediction

    def move(self, state: torch.Tensor, prediction: torch.Tensor, level: float, target: float) -> torch.Tensor:
        """One Euler step of the ODE from a level to another."""
        return state + (target - level) * prediction

    def time(self, level: float) -> float:
        """What the scheduler calls a level."""
        return level * self._scheduler.config.num_train_timesteps


class VariancePreserving:
    """Noise, velocity or x0 prediction (the scheduler's `prediction_type`) on the ᾱ of its training steps."""

    def __init__(self, scheduler: Any):
        self._scheduler = scheduler
        self._kind = scheduler.config.prediction_type
        if self._kind not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"the scheduler's prediction_type {self._kind!r} is none of epsilon, v_prediction, sample")
        self._table = [float(value) for value in scheduler.alphas_cumprod]

    def levels(self) -> list[float]:
        times = [float(time) for time in self._scheduler.timesteps]
        sigmas = getattr(self._scheduler, "sigmas", None)
        if sigmas is not None and len(sigmas) == len(times) + 1:  # of x0 + σ·ε: they say it exactly
            return [float(sigma) / math.hypot(1.0, float(sigma)) for sigma in sigmas]
        final = float(getattr(self._scheduler, "final_alpha_cumprod", 1.0))
        return [math.sqrt(max(0.0, 1.0 - kept)) for kept in (*map(self._between, times), final)]

    def x0(self, state: torch.Tensor, prediction: torch.Tensor, level: float) -> torch.Tensor:
        return self._parts(state, prediction, level)[0]

    def velocity(self, state: torch.Tensor, prediction: torch.Tensor, level: float) -> torch.Tensor:
        """(state − x0) / level."""
        return (state - self.x0(state, prediction, level)) / level

    def move(self, state: torch.Tensor, prediction: torch.Tensor, level: float, target: float) -> torch.Tensor:
        """One DDIM step without noise from a level to another."""
        x0, noise = self._parts(state, prediction, level)
        return math.sqrt(1.0 - target * target) * x0 + target * noise

    def time(self, level: float) -> float:
        """The training step at which ᾱ is 1 − level², between two of them where need be."""
        wanted = 1.0 - level * level
        place = bisect.bisect_left(self._table, -wanted, key=lambda value: -value)
        if place == 0 or place == len(self._table):
            return float(min(place, len(self._table) - 1))
        before, after = self._table[place - 1], self._table[place]
        return place - 1 + (before - wanted) / (before - after)

    def _parts(self, state: torch.Tensor, prediction: torch.Tensor, level: float) -> tuple:
        """(x0, noise) of a state."""
        kept = math.sqrt(1.0 - level * level)
        if self._kind == "v_prediction":
            return kept * state - level * prediction, level * state + kept * prediction
        if self._kind == "sample":
            return prediction, (state - kept * prediction) / max(level, 1e-6)
        return (state - level * prediction) / max(kept, 1e-6), prediction

    def _between(self, time: float) -> float:
        """ᾱ at a training step that may lie between two."""
        last = len(self._table) - 1
        lower = min(max(math.floor(time), 0), last)
        upper = min(lower + 1, last)
        return self._table[lower] + (time - lower) * (self._table[upper] - self._table[lower])
