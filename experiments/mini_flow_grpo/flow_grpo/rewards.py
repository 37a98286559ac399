"""Scorers of images, and their weighted sum."""

import io

import numpy as np
import torch
from PIL import Image


def _to_uint8(images):
    """float [n, 3, H, W] in 0..1, or uint8 [n, H, W, 3], to uint8 [n, H, W, 3] on the host."""
    if isinstance(images, torch.Tensor):
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
        images = images.permute(0, 2, 3, 1).cpu().numpy()
    return images


def shapes(device):
    """The exact detector of the shapes world: how far an image shows what its prompt asks for, 0..1."""
    from experiments.shapes.scorer import score

    def _fn(images, prompts, metadata):
        return np.asarray(score(images, prompts), dtype=np.float64), {}

    return _fn


def jpeg_compressibility(device):
    """Minus the size of the JPEG file, in units of 500 kB: flat images score higher."""

    def _size(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        return buffer.tell() / 1000

    def _fn(images, prompts, metadata):
        return np.array([-_size(image) / 500 for image in _to_uint8(images)]), {}

    return _fn


SCORERS = {"shapes": shapes, "jpeg_compressibility": jpeg_compressibility}


def multi_score(device, score_dict):
    """A function that scores images by several scorers.

    Args:
        score_dict: weight by scorer name.

    Returns:
        ``_fn(images, prompts, metadata, ref_images=None, only_strict=True)`` giving
        ({scorer: n numbers, ..., "avg": list of the n weighted sums}, {}).
    """
    scorers = {name: SCORERS[name](device) for name in score_dict}

    def _fn(images, prompts, metadata, ref_images=None, only_strict=True):
        details = {name: scorer(images, prompts, metadata)[0] for name, scorer in scorers.items()}
        total = sum(weight * np.asarray(details[name]) for name, weight in score_dict.items())
        scores = {name: np.asarray(values).tolist() for name, values in details.items()}
        scores["avg"] = np.asarray(total).tolist()
        return scores, {}

    return _fn
