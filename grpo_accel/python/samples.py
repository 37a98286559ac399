"""Hosts that train on every row: stopped rows are taken out of the samples that the host has collected.

Only on request (`advantage.drop_stopped_rows`), and said aloud: it changes a dictionary of the host's in place. The
dictionary is `samples` in the frame that asks the tracker for advantages; flow-grpo's scripts cut it into micro-batches
by the number of its rows afterwards, so fewer rows are smaller micro-batches, exactly as many of them.
"""

from __future__ import annotations

import linecache
import sys
from typing import Any

import numpy as np

NAME = "samples"
MASK = "abs().sum(dim=1) != 0"  # how flow-grpo's scripts leave rows of advantage 0 out of training


def caller_frame(depth: int) -> Any:
    return sys._getframe(depth)


def masks_zeros(frame: Any) -> bool | None:
    """Does the script that asks for advantages leave rows of advantage 0 out of training? None: can't be read.

    Anywhere in its file: loops that are cut into functions have the mask in another one.
    """
    lines = linecache.getlines(frame.f_code.co_filename)
    return MASK in "".join(lines) if lines else None


def of_frame(frame: Any, rows: int) -> dict | None:
    """The host's samples: a dictionary of tensors with `rows` rows each."""
    variables = frame.f_locals
    found = variables.get(NAME)
    if type(variables) is dict and variables is not frame.f_globals:
        variables.clear()  # before Python 3.13 the look would keep the host's variables alive
    if not isinstance(found, dict) or "timesteps" not in found or len(found["timesteps"]) != rows:
        return None
    return found


def trained_rows(kept: list[bool], batches: int) -> list[int]:
    """Rows that stay, ascending: the kept ones, and stopped ones behind them until all micro-batches have one size."""
    rows = [row for row, keeps in enumerate(kept) if keeps]
    spare = [row for row, keeps in enumerate(kept) if not keeps]
    missing = -len(rows) % batches if rows else min(batches, len(spare))
    return sorted(rows + spare[:missing])


def drop(samples: dict, rows: list[int], total: int) -> None:
    """Keeps `rows` of everything in the samples that has `total` rows, in place."""
    import torch

    for name, value in samples.items():
        if isinstance(value, dict):
            drop(value, rows, total)
        elif isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == total:
            samples[name] = value[torch.tensor(rows, device=value.device)]


def advantages_of(advantages: Any, rows: list[int], rank: int, world_size: int) -> Any:
    """Advantages [ranks · rows, …] of all ranks → of as many rows a rank: this rank's `rows`; of the others, which this
    rank never trains on, those that are not zero come first."""
    blocks = np.asarray(advantages).reshape(world_size, -1, *np.shape(advantages)[1:])
    picked = []
    for other, block in enumerate(blocks):
        zero = (block.reshape(len(block), -1) == 0).all(axis=1)
        picked.append(block[rows] if other == rank else block[np.argsort(zero, kind="stable")[: len(rows)]])
    return np.concatenate(picked)
