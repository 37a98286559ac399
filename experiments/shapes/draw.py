"""Draws what a prompt asks for: placement without overlap, then anti-aliased shapes on a dark ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import IMAGE_SIZE, Spec

GROUND = np.array([0.07, 0.07, 0.10], np.float32)
PALETTE = np.array([[0.90, 0.16, 0.14], [0.16, 0.78, 0.24], [0.20, 0.36, 0.95], [0.95, 0.86, 0.18]], np.float32)
GAP = 2.0
EDGE = 1.0
RADII = {"one": (4.5, 7.0), "two": (4.0, 6.0), "counting": (3.6, 4.8), "position": (4.0, 5.5)}


@dataclass(frozen=True)
class Placed:
    """One object of a picture; ``x`` grows to the right and ``y`` downwards, both in pixels."""

    colour: int
    shape: int
    x: float
    y: float
    radius: float
    brightness: float = 1.0


def place(spec: Spec, rng: np.random.Generator) -> list[Placed]:
    """Random positions that keep the objects apart and, for a position prompt, in the asked relation."""
    low, high = RADII[spec.kind]
    while True:
        radii = rng.uniform(low, high, len(spec.objects))
        margin = radii + EDGE
        centres = rng.uniform(margin[:, None], IMAGE_SIZE - margin[:, None], (len(radii), 2))
        if _apart(centres, radii) and (spec.relation is None or _related(spec.relation, centres)):
            break
    brightness = rng.uniform(0.9, 1.0, len(radii))
    return [
        Placed(colour, shape, x, y, radius, light)
        for (colour, shape), (x, y), radius, light in zip(spec.objects, centres.tolist(), radii.tolist(), brightness)
    ]


def _apart(centres: np.ndarray, radii: np.ndarray) -> bool:
    """Whether the bounding squares of all objects keep ``GAP`` pixels between them."""
    distance = np.abs(centres[:, None] - centres[None]).max(-1)
    needed = radii[:, None] + radii[None] + GAP
    return bool((distance + 1e3 * np.eye(len(radii)) >= needed).all())


def _related(relation: str, centres: np.ndarray) -> bool:
    """Whether the first centre lies as asked from the second one, clearly more so than along the other axis."""
    dx, dy = centres[0] - centres[1]
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > 0 and abs(across) < 0.7 * along


def shape_mask(shape: int, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers, 0..1, from the signed distance to its outline.

    ``dx``, ``dy`` are the pixels' offsets from the centre; all arguments broadcast against each other.
    Every shape fills the square of half width ``radius`` around its centre.
    """
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == 0:  # circle
        distance = np.sqrt(dx**2 + dy**2) - radius
    elif shape == 1:  # square
        distance = np.maximum(ax, ay) - 0.88 * radius
    elif shape == 2:  # triangle, apex upwards: sides fall from (0, -radius) to (±radius, radius)
        side = (2.0 * ax - dy - radius) / np.sqrt(5.0)
        distance = np.maximum(side, dy - 0.9 * radius)
    else:  # cross
        arm = 0.34 * radius
        distance = np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ay - radius, ax - arm))
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(scenes: list[list[Placed]]) -> np.ndarray:
    """Pictures [N, 32, 32, 3], float32 in 0..1."""
    axis = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
    objects = [placed for scene in scenes for placed in scene]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(placed, name) for placed in objects], np.float32)[:, None, None]

    dx = axis[None, None, :] - column("x")
    dy = axis[None, :, None] - column("y")
    radius = column("radius")
    shapes = np.array([o.shape for o in objects])
    masks = np.zeros((len(objects), IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for shape in np.unique(shapes):
        rows = shapes == shape
        masks[rows] = shape_mask(int(shape), dx[rows], dy[rows], radius[rows])
    images = np.broadcast_to(GROUND, (len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    at = 0
    for index, scene in enumerate(scenes):
        for placed in scene:
            paint = PALETTE[placed.colour] * placed.brightness
            images[index] += masks[at][..., None] * (paint - images[index])
            at += 1
    return images


def draw(specs: list[Spec], seed: int) -> np.ndarray:
    """One picture per spec, [N, 32, 32, 3] float32 in 0..1; the same seed gives the same pictures."""
    rng = np.random.default_rng(seed)
    return render([place(spec, rng) for spec in specs])
