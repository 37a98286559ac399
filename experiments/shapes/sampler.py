"""Samples the shapes models: any of them by its pipeline, the SD3-like one also by its text and pooled vectors.

``SETTINGS`` are the settings under which the SD3-like model was measured; a trainer reads them from here. Those of
another model are its family's: ``families.FAMILIES["flux"].settings``.
"""

from __future__ import annotations

import torch

from .families import FAMILIES, family_of
from .steps import Settings, sigmas, step

SD3 = FAMILIES["sd3"]
SETTINGS = SD3.settings


def draw(pipeline, prompts: list[str], settings: Settings | None = None, seed: int = 0, **lengths: int) -> torch.Tensor:
    """Images [N, 3, 32, 32] in 0..1 of ``prompts`` by a pipeline of any family, under its settings unless given.

    ``lengths`` go to the family's ``conditions``: how many tokens the prompts are padded to.
    """
    return family_of(pipeline).draw(pipeline, prompts, settings, seed, **lengths)


def velocity(transformer, latents, sigma: float, text, pooled, empty=None, guidance_scale: float = 1.0):
    """SD3: output [N, C, 8, 8]; a guidance scale other than 1 needs the empty prompt's (text, pooled) as ``empty``."""
    return SD3.velocity(transformer, latents, sigma, _conditions(text, pooled), _empty(empty), guidance_scale)


def sample(transformer, text, pooled, empty=None, settings: Settings = SETTINGS, seed: int = 0) -> torch.Tensor:
    """SD3: latents [N, C, 8, 8] for N prompts' vectors (``text`` [N, L, D], ``pooled`` [N, P])."""
    return SD3.sample(transformer, _conditions(text, pooled), _empty(empty), settings, seed)


@torch.no_grad()
def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """SD3, FLUX and SDXL: images [N, 3, 32, 32] in 0..1."""
    return SD3.decode(vae, latents)


def _conditions(text, pooled) -> dict[str, torch.Tensor]:
    return {"text": text, "pooled": pooled}


def _empty(empty) -> dict[str, torch.Tensor] | None:
    return None if empty is None else _conditions(*empty)


__all__ = ["SETTINGS", "Settings", "decode", "draw", "sample", "sigmas", "step", "velocity"]
