"""Finds coloured shapes in pictures: colour segmentation, connected components, overlap with templates.

Everything up to the list of components runs on the whole batch at once. Values are continuous in the
pixels (coverage, overlap, purity) rather than yes or no, so that two blurry pictures still differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from .draw import GROUND, PALETTE, shape_mask
from .world import COLOURS, IMAGE_SIZE, SHAPES

WINDOW = 20
MIN_COVERAGE = 0.35
MIN_COSINE = 0.88
MIN_AREA = 5.0
DARK = 0.2
TEMPLATE_RADII = np.arange(2.8, 8.3, 0.5)
TEMPLATE_SHIFTS = (-0.375, -0.125, 0.125, 0.375)
PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], bool)


@dataclass
class Components:
    """All components of a batch, one entry each; sorted by ``image``."""

    image: np.ndarray  # [M] index of the picture
    colour: np.ndarray  # [M] index of the colour
    x: np.ndarray  # [M] centre of mass, pixels
    y: np.ndarray  # [M]
    area: np.ndarray  # [M] covered pixels
    purity: np.ndarray  # [M] 0..1, 1 where the colour is exactly the palette's
    overlap: np.ndarray  # [M, shapes] best overlap with a template of each shape, 0..1
    clutter: np.ndarray  # [N] bright area of each picture that belongs to no component


@lru_cache(maxsize=None)
def templates() -> tuple[np.ndarray, np.ndarray]:
    """Flat templates [shapes * T, WINDOW**2], their centre of mass near the window's centre, and their energies."""
    axis = np.arange(WINDOW) - WINDOW / 2 + 0.5
    rows = []
    for shape in range(len(SHAPES)):
        for radius in TEMPLATE_RADII:
            centred = shape_mask(shape, axis[None, :], axis[:, None], radius)
            drop = (centred.sum(1) * axis).sum() / centred.sum()  # a triangle's mass lies below its middle
            for shift_y in TEMPLATE_SHIFTS:
                for shift_x in TEMPLATE_SHIFTS:
                    mask = shape_mask(shape, axis[None, :] - shift_x, axis[:, None] - shift_y + drop, radius)
                    rows.append(np.where(mask > MIN_COVERAGE, mask, 0.0).ravel())
    bank = np.array(rows, np.float32)
    return bank, (bank**2).sum(1)


def segment(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pixels [K, 3], offset from the ground: colour index, coverage 0..1, distance from the palette, each [K]."""
    paint = PALETTE - GROUND
    length = np.linalg.norm(paint, axis=1)
    projection = pixels @ (paint / length[:, None]).T
    colour = projection.argmax(1)
    along = projection[np.arange(len(pixels)), colour]
    squared = (pixels**2).sum(1)
    # Shapes may be drawn up to a tenth darker than the palette: full coverage starts there.
    coverage = np.clip(along / (0.93 * length[colour]), 0.0, 1.0)
    coverage[along < MIN_COSINE * np.sqrt(squared)] = 0.0
    return colour, coverage, np.sqrt(np.maximum(squared - along**2, 0.0))


def detect(images: np.ndarray) -> Components:
    """Components of pictures [N, 32, 32, 3] in 0..1."""
    lit = (images - GROUND).reshape(-1, 3)
    brightness = np.sqrt((lit**2).sum(1))
    bright = np.flatnonzero(brightness > DARK)  # most of a picture is ground: go on with the other pixels only
    colour, coverage, off_palette = segment(lit[bright])
    solid = coverage > MIN_COVERAGE
    at, colour, coverage, off_palette = bright[solid], colour[solid], coverage[solid], off_palette[solid]
    label, found = _label(at, colour)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights=values, minlength=found)

    area = total(coverage)
    safe = np.maximum(area, 1e-6)
    x = total(coverage * (at % IMAGE_SIZE + 0.5)) / safe
    y = total(coverage * (at // IMAGE_SIZE % IMAGE_SIZE + 0.5)) / safe
    impurity = total(coverage * off_palette) / safe
    image, tint = np.zeros(found, int), np.zeros(found, int)
    image[label] = at // IMAGE_SIZE**2
    tint[label] = colour

    kept = np.flatnonzero(area >= MIN_AREA)
    kept = kept[np.argsort(image[kept], kind="stable")]
    labels = np.full(lit.shape[0], -1)
    labels[at] = label
    cover = np.zeros(lit.shape[0], np.float32)
    cover[at] = coverage
    labels, cover = labels.reshape(images.shape[:3]), cover.reshape(images.shape[:3])
    inside = np.zeros(found + 1, bool)
    inside[kept] = True
    clutter = np.where(_grow(inside[labels]), 0.0, np.clip(brightness.reshape(images.shape[:3]) - DARK, 0.0, 1.0))
    return Components(
        image=image[kept],
        colour=tint[kept],
        x=x[kept],
        y=y[kept],
        area=area[kept],
        purity=np.clip(1.15 - impurity[kept] / 0.30, 0.0, 1.0),
        overlap=_overlaps(labels, cover, kept, image[kept], x[kept], y[kept]),
        clutter=clutter.sum((1, 2)),
    )


def _label(at: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, int]:
    """Component number, from 0, of every solid pixel at flat index ``at`` [K], and how many there are."""
    image, place = np.divmod(at, IMAGE_SIZE**2)
    planes, plane = np.unique(image * len(COLOURS) + colour, return_inverse=True)
    mask = np.zeros((len(planes), IMAGE_SIZE**2), bool)
    mask[plane, place] = True
    labels, found = ndimage.label(mask.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), structure=PLANE)
    return labels.reshape(mask.shape)[plane, place] - 1, found


def _grow(mask: np.ndarray) -> np.ndarray:
    """``mask`` [N, H, W] and its direct neighbours."""
    grown = mask.copy()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def _overlaps(labels, coverage, kept, image, x, y) -> np.ndarray:
    """Best Tanimoto overlap ab / (aa + bb - ab) of every component with each shape's templates, [M, shapes]."""
    half = WINDOW // 2
    pad = ((0, 0), (half, half), (half, half))
    labels, coverage = np.pad(labels, pad, constant_values=-1), np.pad(coverage, pad)
    span = np.arange(WINDOW)
    rows = (np.rint(y).astype(int)[:, None] + span)[:, :, None]
    columns = (np.rint(x).astype(int)[:, None] + span)[:, None, :]
    at = (image[:, None, None], rows, columns)
    crops = np.where(labels[at] == kept[:, None, None], coverage[at], 0.0).reshape(len(kept), WINDOW**2)
    bank, energy = templates()
    shared = crops.astype(np.float32) @ bank.T
    overlap = shared / ((crops**2).sum(1)[:, None] + energy - shared)
    return overlap.reshape(len(kept), len(SHAPES), len(bank) // len(SHAPES)).max(-1)
