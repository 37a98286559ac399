"""Real calls of `grpo_accel.select_seeds` and of the plain pipeline: seconds by part, row-steps, and the same images.

Seconds are the process's own (one thread), so that what else runs on the machine counts little.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

import grpo_accel
from experiments.shapes import scorer
from grpo_accel.models import taps_of

from .strategies import Strategy
from .table import MODELS, seeds_of


@dataclass
class Spent:
    """Of one call: its prompts, row-steps, and seconds: all, and those in the denoiser."""

    prompts: int
    row_steps: float
    seconds: float
    denoiser_seconds: float

    def overhead(self, step_seconds: float) -> float:
        """Everything but the denoiser, in row-steps."""
        return (self.seconds - self.denoiser_seconds) / step_seconds


class Meter:
    """Processor seconds of a block and of the denoiser in it."""

    def __init__(self, denoiser: torch.nn.Module):
        self._denoiser = denoiser

    def __enter__(self) -> Meter:
        self.denoiser_seconds, self._began = 0.0, 0.0
        self._handles = [
            self._denoiser.register_forward_pre_hook(lambda *_: setattr(self, "_began", time.process_time())),
            self._denoiser.register_forward_hook(lambda *_: self._end()),
        ]
        self._started = time.process_time()
        return self

    def _end(self) -> None:
        self.denoiser_seconds += time.process_time() - self._began

    def __exit__(self, *_) -> None:
        self.seconds = time.process_time() - self._started
        for handle in self._handles:
            handle.remove()


def score(images, prompts):
    return scorer.score(images, prompts)


class Bench:
    """One model under test: the configuration's own, or one of its `others`."""

    def __init__(self, config: dict, seed: int, other: str | None = None):
        from diffusers import DiffusionPipeline

        self.config, self.seed = config, seed
        self.pipeline = DiffusionPipeline.from_pretrained(MODELS / (other or config["model"]))
        self.pipeline.set_progress_bar_config(disable=True)
        self.decoder = None if other else MODELS / config["tiny_decoder"]
        self.call = {"num_inference_steps": config["steps_total"], "height": 32, "width": 32, "output_type": "pt",
                     **(config["others"][other] if other else config["call"])}

    @property
    def denoiser(self) -> torch.nn.Module:
        return getattr(self.pipeline, "transformer", None) or self.pipeline.unet

    def seeds(self, prompts: list[str]) -> list[list[int]]:
        return [seeds_of(prompt, self.config["seeds"], self.seed) for prompt in prompts]

    def selected(self, prompts: list[str], strategy: Strategy, probe: str | None = None):
        """(Selection, Spent) of one call for all of the prompts."""
        kwargs: dict = {}
        if probe is None:
            forwards = strategy.looks[0].forwards
            kwargs = {"direct": "lookahead" if forwards else "preview", "lookahead_steps": forwards or None,
                      "decoder": self.decoder}
        with Meter(self.denoiser) as meter:
            found = grpo_accel.select_seeds(
                self.pipeline, prompts, keep=list(strategy.keep), steps=[look.step for look in strategy.looks],
                seeds=self.seeds(prompts), scorer=score, probe=probe, progress=False,
                max_rows=self.config["seeds"] * self.config["prompts_a_batch"], **kwargs, **self.call)
        return found, Spent(len(prompts), found.row_steps_run, meter.seconds, meter.denoiser_seconds)

    def full(self, prompts: list[str]):
        """(images of every seed, scores [prompts, seeds], Spent): the plain pipeline, every image decoded and scored."""
        count = self.config["seeds"]
        rows = [prompt for prompt in prompts for _ in range(count)]
        once = taps_of(self.pipeline).PROMPTS_ONCE
        given = {"prompt": prompts, "num_images_per_prompt": count} if once else {"prompt": rows}
        if "negative_prompt" in self.call:
            given["negative_prompt"] = [self.call["negative_prompt"]] * len(given["prompt"])
        with Meter(self.denoiser) as meter:
            generators = [torch.Generator().manual_seed(seed) for some in self.seeds(prompts) for seed in some]
            images = self.pipeline(generator=generators, **{**self.call, **given}).images
            scores = score(images, rows)
        steps = len(prompts) * count * self.config["steps_total"]
        return images, np.array(scores).reshape(len(prompts), count), Spent(
            len(prompts), steps, meter.seconds, meter.denoiser_seconds)


def compare(bench: Bench, prompts: list[str], strategy: Strategy) -> dict:
    """Both ways on the same prompts, turn about: seconds of each, and how alike the survivors' images are."""
    size, ours, full, differences = bench.config["prompts_a_batch"], [], [], []
    for start in range(0, len(prompts), size):
        part = prompts[start: start + size]
        images, _, spent = bench.full(part)
        full.append(spent)
        selection, spent = bench.selected(part, strategy)
        ours.append(spent)
        places = [(prompt, seed) for prompt, some in zip(part, bench.seeds(part)) for seed in some]
        for image, prompt, seed in zip(selection.images, selection.prompts, selection.seeds):
            differences.append(float((image - images[places.index((prompt, seed))]).abs().max()))
    return {"ours": [asdict(one) for one in ours], "full": [asdict(one) for one in full], "survivors": len(differences),
            "bit_identical": sum(value == 0.0 for value in differences), "largest_difference": max(differences)}


def row_step_seconds(full: list[Spent]) -> float:
    """Median of the plain pipeline's own denoiser, a row and step."""
    return float(np.median([one.denoiser_seconds / one.row_steps for one in full]))
