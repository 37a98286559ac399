"""Calls of the host's denoiser: arguments by name, and the same call for other rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Call:
    """One call of the denoiser as it was made; `prediction` is the tensor that came back."""

    module: Any
    kwargs: dict
    prediction: torch.Tensor

    def again(self, kwargs: dict) -> torch.Tensor:
        """The same module's prediction for other arguments, without gradients."""
        with torch.no_grad():
            return prediction_of(self.module(**kwargs))


def prediction_of(output: Any) -> torch.Tensor:
    """What a denoiser or a decoder computed, in what it returns: a tuple or an output object."""
    return output[0] if isinstance(output, tuple) else output.sample


def with_prediction(output: Any, prediction: torch.Tensor) -> Any:
    """The denoiser's or the decoder's output with another tensor in place of its own."""
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    output.sample = prediction
    return output


def by_name(taps, args: tuple, kwargs: dict) -> dict:
    """Every argument by name; ValueError where there are more positions than names are known for."""
    if len(args) > len(taps.POSITIONAL):
        raise ValueError(f"the denoiser was called with {len(args)} arguments by position")
    return {**dict(zip(taps.POSITIONAL, args)), **kwargs}


def of_rows(taps, kwargs: dict, rows: Any) -> dict:
    """The arguments of some rows; `rows`: a slice, or an int64 tensor of indices. Arguments without rows are shared."""
    total = kwargs[taps.STATE].shape[0]
    taken = dict(kwargs)
    for name in taps.ROWS:
        owner, _, entry = name.partition(".")
        if taken.get(owner) is None:
            continue
        if not entry:
            taken[owner] = _take(taken[owner], rows, total)
        elif taken[owner].get(entry) is not None:
            taken[owner] = {**taken[owner], entry: _take(taken[owner][entry], rows, total)}
    return taken


def argument(kwargs: dict, name: str) -> Any:
    """A (dotted) argument, None where it is not given."""
    owner, _, entry = name.partition(".")
    value = kwargs.get(owner)
    return value.get(entry) if entry and value is not None else value


def with_argument(kwargs: dict, name: str, value: Any) -> dict:
    """The arguments with another value of a (dotted) one."""
    owner, _, entry = name.partition(".")
    return {**kwargs, owner: {**kwargs[owner], entry: value} if entry else value}


def _take(value: Any, rows: Any, total: int) -> Any:
    """Rows of one argument; what has no row's share (a scalar, one value for all) stays."""
    if isinstance(value, torch.Tensor):
        if value.dim() == 0 or value.shape[0] != total:
            return value
        return value[rows] if isinstance(rows, slice) else value.index_select(0, rows.to(value.device))
    if not isinstance(value, (list, tuple)) or len(value) != total:
        return value
    return value[rows] if isinstance(rows, slice) else [value[row] for row in rows.tolist()]


def moment_of(taps, kwargs: dict) -> float:
    """What the denoiser is told of the noise level; it changes from step to step."""
    time = kwargs[taps.TIME]
    return float(time.flatten()[0]) if isinstance(time, torch.Tensor) else float(time)
