"""Layouts of latents that several families share: 2×2 patches in a row of tokens, and standardised channels."""

from __future__ import annotations

from typing import Any

import torch


def unpacked(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[rows, h·w, 4·channels] → [rows, channels, 2h, 2w]; a token holds its patch's values channel by channel."""
    rows, height, width = tokens.shape[0], *grid
    patches = tokens.reshape(rows, height, width, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(rows, -1, 2 * height, 2 * width)


def packed(latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `unpacked`."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, (height // 2) * (width // 2), 4 * channels)


def destandardised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """[rows, channels, frames, h, w] as denoised → as the decoder wants them, in the order of the host's arithmetic."""
    mean, inverse = _moments(vae, latents)
    return latents / inverse + mean


def standardised(vae: Any, decoded: torch.Tensor) -> torch.Tensor:
    """The inverse of `destandardised`."""
    mean, inverse = _moments(vae, decoded)
    return (decoded - mean) * inverse


def _moments(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of each channel, [1, channels, 1, 1, 1]."""
    mean, deviation = vae.config.latents_mean, vae.config.latents_std
    shape = (1, len(mean), 1, 1, 1)
    inverse = 1.0 / torch.tensor(deviation).view(shape).to(like.device, like.dtype)
    return torch.tensor(mean).view(shape).to(like.device, like.dtype), inverse
