"""Previews: the image guessed at the decision step, decoded by the host's VAE and scored by the host's own scorer."""

from __future__ import annotations

import math
import os
import random
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


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


def decode(pipeline, latents):
    """Latents [rows, C, h, w] → images [rows, 3, H, W] in 0…1, as the host's own pipeline decodes them."""
    vae = pipeline.vae
    scaled = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
    images = vae.decode(scaled.to(dtype=vae.dtype), return_dict=False)[0]
    return pipeline.image_processor.postprocess(images, output_type="pt")


def score(scorer, images, prompts, metadata) -> list:
    """The scorer's combined value of each image; NaN where it gives none."""
    rewards, _ = scorer(images, prompts, metadata, only_strict=True)
    return [float(value) if math.isfinite(float(value)) else math.nan for value in rewards["avg"]]


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
