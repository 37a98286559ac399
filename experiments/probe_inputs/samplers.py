"""The samplers that the signals are compared under."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """``window``: half-open range of noisy steps. ``looks``: further forwards of a look-ahead at each decision step.

    The probe that joins the signals is trained with the look-ahead ``joined[step]``; 0 joins the preview instead.
    """

    name: str
    key: str  # in results.json
    steps: int
    shift: float
    window: tuple[int, int]
    looks: dict[int, tuple[int, ...]]
    joined: dict[int, int]
    train_rollouts: int
    noise_level: float = 0.7

    def sigmas(self) -> list[float]:
        """Noise levels before each step and at the end, [steps + 1], shifted as Stable Diffusion 3 does."""
        plain = [1.0 - index / self.steps for index in range(self.steps + 1)]
        return [self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma) for sigma in plain]

    def noise_of(self, index: int) -> float:
        return self.noise_level if self.window[0] <= index < self.window[1] else 0.0


def load(config: dict) -> list[Sampler]:
    """The samplers of config.yaml."""
    samplers = []
    for entry in config["samplers"]:
        entry.pop("trained_on", None)  # of the probes only
        looks = {int(step): tuple(values) for step, values in entry.pop("looks").items()}
        joined = {int(step): int(value) for step, value in entry.pop("joined").items()}
        samplers.append(Sampler(**{**entry, "window": tuple(entry["window"])}, looks=looks, joined=joined))
    return samplers
