"""Plain diffusers pipelines of every family of the shapes world, untrained, and by hand what they compute.

Nothing here asks grpo_accel: rows, guidance, noise levels and decoders are written down a second time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402

mini_flow_grpo.use_its_modules()
STEPS, ROWS, SIZE = 6, 8, 32
PROMPTS = ["a red circle"] * 4 + ["two blue squares"] * 4
NO_PROMPT = [" "] * ROWS


@dataclass(frozen=True)
class Host:
    """One way to call a family's pipeline; `doubled`: both branches of guidance in one call, `calls`: a step."""

    name: str
    family: str
    call: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    doubled: bool = False
    calls: int = 1

    @property
    def guided(self) -> bool:
        return self.doubled or self.calls == 2

    @property
    def denoiser(self) -> str:
        return "unet" if self.family == "sdxl" else "transformer"

    @property
    def state(self) -> str:
        return "sample" if self.family == "sdxl" else "hidden_states"

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Of the pipeline's call, without the prompts."""
        return dict(height=SIZE, width=SIZE, num_inference_steps=STEPS, output_type="pt") | self.call | more


SHORT = dict(max_sequence_length=16)
HOSTS = {host.name: host for host in (
    Host("sd3", "sd3", SHORT | dict(guidance_scale=2.5), 2.5, doubled=True),
    Host("sd3_unguided", "sd3", SHORT | dict(guidance_scale=1.0)),
    Host("flux", "flux", SHORT | dict(guidance_scale=3.5)),
    Host("flux_two_calls", "flux", SHORT | dict(true_cfg_scale=2.0, negative_prompt=NO_PROMPT), 2.0, calls=2),
    Host("qwen", "qwen", dict(true_cfg_scale=3.0, negative_prompt=NO_PROMPT), 3.0, calls=2),
    Host("qwen_unguided", "qwen"),
    Host("sdxl", "sdxl", dict(guidance_scale=4.0), 4.0, doubled=True),
    Host("sdxl_unguided", "sdxl", dict(guidance_scale=1.0)),
)}
ROW_ARGUMENTS = {
    "sd3": ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
    "flux": ("hidden_states", "timestep", "guidance", "encoder_hidden_states", "pooled_projections"),
    "qwen": ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes"),
    "sdxl": ("sample", "encoder_hidden_states"),
}


def make_pipeline(family: str) -> Any:
    """An untrained pipeline whose denoiser says something."""
    from experiments.shapes.families import FAMILIES

    if family == "qwen":
        pytest.importorskip("diffusers.pipelines.qwenimage", reason="this diffusers has no Qwen-Image")
    torch.manual_seed(0)
    kind = FAMILIES[family]
    pipeline = kind.make_pipeline(kind.make_vae(), kind.make_network())
    pipeline.set_progress_bar_config(disable=True)
    denoiser = getattr(pipeline, "unet" if family == "sdxl" else "transformer")
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def sample(pipeline: Any, host: Host, **more: Any) -> torch.Tensor:
    """Images of the plain call, always from the same random stream."""
    torch.manual_seed(7)
    return pipeline(prompt=list(PROMPTS), **host.arguments(**more)).images


class Caught:
    """Keeps a pipeline's calls: (arguments by name, prediction) of its denoiser, and its decoder's input."""

    def __init__(self, pipeline: Any, host: Host):
        self.calls: list[tuple[dict, torch.Tensor]] = []
        self.decoded: torch.Tensor | None = None
        self._pipeline, self._denoiser = pipeline, getattr(pipeline, host.denoiser)
        self._host = host

    def __enter__(self) -> Caught:
        def keep(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
            named = dict(zip(("sample", "timestep"), args)) | kwargs
            self.calls.append((named, output[0] if isinstance(output, tuple) else output.sample))

        decode = self._pipeline.vae.decode

        def keep_input(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.decoded = latents
            return decode(latents, *args, **kwargs)

        self._handle = self._denoiser.register_forward_hook(keep, with_kwargs=True)
        self._pipeline.vae.decode = keep_input
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()
        del self._pipeline.vae.decode

    def of_step(self, step: int) -> list[tuple[dict, torch.Tensor]]:
        return self.calls[step * self._host.calls: (step + 1) * self._host.calls]


# ---------------------------------------------------------------------- rows


def of_rows(host: Host, kwargs: dict, rows: list[int]) -> dict:
    """A call's arguments for some of the batch's rows, of both branches where it is doubled."""
    copies = 2 if host.doubled else 1
    every = [copy * ROWS + row for copy in range(copies) for row in rows]
    taken = dict(kwargs)
    for name in ROW_ARGUMENTS[host.family]:
        value = kwargs.get(name)
        if isinstance(value, list):
            taken[name] = [value[row] for row in every]
        elif value is not None:
            taken[name] = value[every]
    if host.family == "sdxl":
        taken["added_cond_kwargs"] = {name: value[every] for name, value in kwargs["added_cond_kwargs"].items()}
    return taken


@torch.no_grad()
def subset_is_identical(pipeline: Any, host: Host, caught: Caught, kept: list[int], first_step: int) -> bool:
    """Do this machine's kernels give rows the same bits without the others, from a step on? (without any plugin)"""
    denoiser = getattr(pipeline, host.denoiser)
    copies = 2 if host.doubled else 1
    every = [copy * ROWS + row for copy in range(copies) for row in kept]
    for kwargs, whole in caught.calls[first_step * host.calls:]:
        part = denoiser(**of_rows(host, kwargs, kept))
        if not torch.equal(part[0] if isinstance(part, tuple) else part.sample, whole[every]):
            return False
    whole = pipeline.vae.decode(caught.decoded, return_dict=False)[0]
    return torch.equal(pipeline.vae.decode(caught.decoded[kept], return_dict=False)[0], whole[kept])


# ---------------------------------------------------------------------- noise levels and guidance


def guided(host: Host, predictions: list[torch.Tensor]) -> torch.Tensor:
    """What the pipeline steps with."""
    if not host.guided:
        return predictions[0]
    without, told = predictions[0].chunk(2) if host.doubled else (predictions[1], predictions[0])
    joined = without + host.scale * (told - without)
    if host.family == "qwen":
        joined = joined * (told.norm(dim=-1, keepdim=True) / joined.norm(dim=-1, keepdim=True))
    return joined


def levels(pipeline: Any, host: Host) -> list[float]:
    """The share of noise before each step and at the end."""
    sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
    return [sigma / (1.0 + sigma * sigma) ** 0.5 for sigma in sigmas] if host.family == "sdxl" else sigmas


def parts(host: Host, state: torch.Tensor, prediction: torch.Tensor, level: float) -> tuple:
    """(x0, noise) of a state."""
    if host.family == "sdxl":  # v-prediction
        signal = (1.0 - level * level) ** 0.5
        return signal * state - level * prediction, level * state + signal * prediction
    return state - level * prediction, state + (1.0 - level) * prediction


def moved(host: Host, state: torch.Tensor, prediction: torch.Tensor, level: float, target: float) -> torch.Tensor:
    """One step of the ODE."""
    x0, noise = parts(host, state, prediction, level)
    signal = (1.0 - target * target) ** 0.5 if host.family == "sdxl" else 1.0 - target
    return signal * x0 + target * noise


def time_of(pipeline: Any, host: Host, level: float) -> float:
    """What the denoiser is told of a level."""
    if host.family != "sdxl":
        return level * 1000.0 if host.family == "sd3" else level
    kept = pipeline.scheduler.alphas_cumprod.double().numpy()
    return float(np.interp(level * level - 1.0, -kept, np.arange(len(kept))))


def state_and_prediction(host: Host, caught: Caught, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    calls = caught.of_step(step)
    return calls[0][0][host.state][:ROWS], guided(host, [prediction for _, prediction in calls])


def x0_at(pipeline: Any, host: Host, caught: Caught, step: int) -> torch.Tensor:
    return parts(host, *state_and_prediction(host, caught, step), levels(pipeline, host)[step])[0]


@torch.no_grad()
def looked_ahead(pipeline: Any, host: Host, caught: Caught, step: int) -> torch.Tensor:
    """The end after one further step: from the decision to a place between, then to the end of the schedule."""
    state, prediction = state_and_prediction(host, caught, step)
    ends = levels(pipeline, host)
    place = step + (len(ends) - 1 - step) * 0.5**1.5
    below = int(place)
    middle = ends[below] + (place - below) * (ends[below + 1] - ends[below])
    state = moved(host, state, prediction, ends[step], middle)
    denoiser, predictions = getattr(pipeline, host.denoiser), []
    for kwargs, _ in caught.of_step(step):
        doubled = torch.cat([state] * 2) if host.doubled else state
        time = torch.full_like(kwargs["timestep"], time_of(pipeline, host, middle))
        output = denoiser(**{**kwargs, host.state: doubled, "timestep": time})
        predictions.append(output[0] if isinstance(output, tuple) else output.sample)
    return moved(host, state, guided(host, predictions), middle, ends[-1])


# ---------------------------------------------------------------------- images


def latent_map(pipeline: Any, host: Host, state: torch.Tensor) -> torch.Tensor:
    """[rows, channels, height, width]"""
    if host.family in ("sd3", "sdxl"):
        return state
    unpacked = pipeline._unpack_latents(state, SIZE, SIZE, pipeline.vae_scale_factor)
    return unpacked[:, :, 0] if unpacked.dim() == 5 else unpacked


@torch.no_grad()
def decoded(pipeline: Any, host: Host, state: torch.Tensor) -> torch.Tensor:
    """Images [rows, 3, 32, 32] in 0…1 of states at the end."""
    latents, config = latent_map(pipeline, host, state), pipeline.vae.config
    if host.family == "qwen":
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (config.latents_mean, config.latents_std))
        images = pipeline.vae.decode((latents * deviation + mean)[:, :, None], return_dict=False)[0][:, :, 0]
    else:
        shift = (config.shift_factor or 0.0) if host.family != "sdxl" else 0.0
        images = pipeline.vae.decode(latents / config.scaling_factor + shift, return_dict=False)[0]
    return (images * 0.5 + 0.5).clamp(0.0, 1.0)


# ---------------------------------------------------------------------- what must not stay


def hooks(pipeline: Any) -> int:
    """Hooks on any module of the pipeline."""
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in modules for m in part.modules())


def scheduler_state(scheduler: Any) -> dict:
    """Everything that the scheduler keeps, tensors as lists."""
    return {
        name: value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
        for name, value in vars(scheduler).items() if not name.startswith("_internal")
    }
