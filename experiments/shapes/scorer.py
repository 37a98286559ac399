"""The world's reward: how well a picture shows what its prompt asks for, 0..1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .detector import Components, detect
from .world import IMAGE_SIZE, Spec, parse

WRONG_SHAPE, WRONG_COLOUR, WRONG_RELATION = 0.30, 0.25, 0.45
EXTRA_OBJECT = 0.4
FULL_AREA = 14.0


def score(images, prompts: Sequence[str]) -> list[float]:
    """Rewards of ``images`` under ``prompts``, one float each.

    ``images`` is a torch tensor [N, 3, H, W] in 0..1, or a numpy array [N, H, W, 3], uint8 or float in 0..1.
    H and W are 32 or a multiple of it.
    """
    pixels = to_pixels(images)
    if len(pixels) != len(prompts):
        raise ValueError(f"{len(pixels)} images for {len(prompts)} prompts")
    if not len(pixels):
        return []
    components = detect(pixels)
    qualities = shape_quality(components.overlap)
    edges = np.searchsorted(components.image, np.arange(len(pixels) + 1))
    return [
        _score_one(parse(prompt), components, qualities, np.arange(edges[i], edges[i + 1]), components.clutter[i])
        for i, prompt in enumerate(prompts)
    ]


def to_pixels(images) -> np.ndarray:
    """Float32 [N, 32, 32, 3] in 0..1."""
    if isinstance(images, np.ndarray):
        pixels = images.astype(np.float32) / 255.0 if images.dtype == np.uint8 else images.astype(np.float32)
    else:  # a torch tensor
        pixels = images.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    count, height, width, channels = pixels.shape
    if channels != 3 or height != width or height % IMAGE_SIZE:
        raise ValueError(f"images of shape {tuple(images.shape)} are not square RGB with a side of 32 or a multiple")
    factor = height // IMAGE_SIZE
    if factor > 1:
        pixels = pixels.reshape(count, IMAGE_SIZE, factor, IMAGE_SIZE, factor, 3).mean((2, 4))
    return np.clip(np.nan_to_num(pixels), 0.0, 1.0)


def shape_quality(overlap: np.ndarray) -> np.ndarray:
    """How surely a component is each shape, [M, shapes] in 0..1: it fits well, and better than any other shape."""
    fit = np.clip((overlap - 0.60) / 0.28, 0.0, 1.0)
    rest = np.array([np.delete(overlap, shape, 1).max(1) for shape in range(overlap.shape[1])]).T
    lead = np.clip(0.5 + (overlap - rest) / 0.08, 0.0, 1.0)
    return fit * lead


def _score_one(spec: Spec, found: Components, qualities: np.ndarray, rows: np.ndarray, clutter: float) -> float:
    """One picture whose components are ``rows``."""
    if not len(rows):
        return 0.0
    wanted = np.array(spec.objects)
    presence = np.clip(found.area[rows] / FULL_AREA, 0.0, 1.0)
    fits = qualities[rows][:, wanted[:, 1]].T  # [slots, rows]
    same_colour = wanted[:, :1] == found.colour[rows][None]
    match = np.where(same_colour, found.purity[rows] * (WRONG_SHAPE + (1 - WRONG_SHAPE) * fits), WRONG_COLOUR * fits)
    match = match * presence
    slots, chosen = linear_sum_assignment(-match)
    reward = match[slots, chosen].sum() / len(wanted)
    if spec.relation is not None:
        reward *= WRONG_RELATION + (1 - WRONG_RELATION) * _relation(spec.relation, found, rows[chosen], slots)
    extra = presence.sum() - presence[chosen].sum()
    return float(reward / (1.0 + EXTRA_OBJECT * extra) * (1.0 - min(0.5, clutter / 40.0)))


def _relation(relation: str, found: Components, chosen: np.ndarray, slots: np.ndarray) -> float:
    """1 where the first object lies as asked from the second one, 0 where it does not, a ramp between."""
    if len(slots) < 2:
        return 0.0
    dx, dy = found.x[chosen[0]] - found.x[chosen[1]], found.y[chosen[0]] - found.y[chosen[1]]
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return float(np.clip((along - abs(across) + 3.0) / 5.0, 0.0, 1.0))
