"""Previews: images guessed at the decision step, decoded and scored by the host's own scorer."""

from __future__ import annotations

import concurrent.futures
import math
import os
import random
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

START_SECONDS_MAX = 0.05  # of a job in the host's executor; a busy one is not waited for


@contextmanager
def generators_untouched():
    """Whatever a scorer or decoder draws, the host's random streams continue as if it had not run."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.random.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


class HostScorer:
    """A scorer that the host made: `function`, its weight by scorer name, and how to make another of fewer names."""

    def __init__(self, function, weights: dict, build):
        self.function = function
        self.weights = weights
        self._build = build
        self._chosen = {}  # scorers by their names
        self._failures = {}  # why there is none

    def only(self, names: tuple):
        """The same scorer of these names alone; the host's own where these are all of them.

        Made once, and tried once: it may load a model, which must not be repeated in each batch.
        """
        if set(names) == set(self.weights):
            return self.function
        if names not in self._chosen and names not in self._failures:
            try:
                self._chosen[names] = self._build({name: self.weights[name] for name in names})
            except Exception as error:
                self._failures[names] = f"{type(error).__name__}: {error}"
        if names in self._failures:
            raise RuntimeError(f"the host makes no scorer of {', '.join(names)} alone: {self._failures[names]}")
        return self._chosen[names]


class Pending:
    """Scores that are being computed: in the host's executor where it has a free thread, else here when asked for."""

    def __init__(self, job, executor):
        self._job = job
        self._future = None
        if executor is not None:
            try:
                self._future = executor.submit(job)
            except RuntimeError:  # it was shut down
                pass

    def result(self):
        if self._future is None:
            return self._job()
        concurrent.futures.wait([self._future], timeout=START_SECONDS_MAX)
        return self._job() if self._future.cancel() else self._future.result()


class Previewer:
    """Decodes and scores guessed images: by the host's parts, or by those that the user names instead.

    scorers: names of the host's reward dictionary to call, none: its combined scorer; decoder: folder of an
    AutoencoderTiny, none: the host's VAE.
    """

    def __init__(self, runtime, scorers=(), decoder=None):
        self._runtime = runtime
        self._names = tuple(scorers)
        self._folder = decoder
        self.decoders = {}  # loaded ones, by folder, device and dtype; another previewer's where it is given them

    def names(self) -> tuple:
        """Scorers that are called, of those that the host has; empty: its combined one."""
        weights = self._runtime.scorer().weights if self._names else {}
        unknown = [name for name in self._names if name not in weights]
        if unknown:
            self._runtime.warn_once(
                "scorers", f"the host has no scorer {', '.join(unknown)} (it has {', '.join(weights)}); "
                "probe.preview.scorers goes without")
        return tuple(name for name in self._names if name in weights)

    def columns(self) -> int:
        """Scores of a preview: the weighted sum, and each scorer's own where several are listed."""
        count = len(self.names())
        return 1 + count if count > 1 else 1

    def decode(self, taps, pipeline, state, geometry):
        """States [rows, …] of guessed ends → images [rows, 3, H, W] in 0…1."""
        vae = self._tiny(pipeline.vae) if self._folder else pipeline.vae
        with torch.no_grad():
            return taps.decode(pipeline, vae, state, geometry)

    def _tiny(self, vae):
        key = self._folder, vae.device, vae.dtype
        if key not in self.decoders:
            from diffusers import AutoencoderTiny

            tiny = AutoencoderTiny.from_pretrained(self._folder, local_files_only=True)
            self.decoders[key] = tiny.to(device=vae.device, dtype=vae.dtype).eval().requires_grad_(False)
        return self.decoders[key]

    def start(self, images, prompts, metadata) -> Pending:
        """Scores of images, float64 [rows, columns], NaN where the scorer gives none."""
        names = self.names()
        if self._names and not names:
            raise ValueError("none of the scorers in probe.preview.scorers is the host's")
        scorer = self._runtime.scorer().only(names) if names else self._runtime.scorer().function
        device = images.device.type

        def job():
            # Reward threads know nothing of the rollout's autocast, and neither must this one.
            with torch.autocast(device, enabled=False):
                rewards, _ = scorer(images, prompts, metadata, only_strict=True)
            shown = ("avg", *names) if len(names) > 1 else ("avg",)
            columns = [[float(value) for value in rewards[name]] for name in shown]
            return np.array([[value if math.isfinite(value) else math.nan for value in row] for row in zip(*columns)])

        return Pending(job, self._runtime.executor())


def executor_of_this_thread():
    """The executor whose worker runs the caller, None outside of one. Read only."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_worker" and frame.f_globals.get("__name__") == "concurrent.futures.thread":
            variables = frame.f_locals
            reference = variables.get("executor_reference")
            if type(variables) is dict:  # before Python 3.13 the look would keep the worker's variables alive
                variables.clear()
            return reference() if reference is not None else None
        frame = frame.f_back
    return None


def save(folder: Path, update: int, batch: int, images, prompts, prediction, kept, scores) -> None:
    """Keeps a batch's previews for the report: one .npz, written beside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"update-{update:06d}-batch-{batch:03d}.npz"
    partial = name.with_suffix(f".{os.getpid()}.tmp")
    stopped = np.ones(len(prompts), dtype=bool)
    stopped[kept] = False
    with open(partial, "wb") as file:
        np.savez_compressed(
            file,
            images=(images.detach().float().clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8),
            prompts=np.array(prompts), prediction=np.asarray(prediction, dtype=np.float32), kept=~stopped,
            preview_score=np.asarray(scores, dtype=np.float32), update=update, written=time.time(),
        )
    os.replace(partial, name)
