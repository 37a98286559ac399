"""The host's denoiser at the decision step: what it said there, and how to ask it again.

Further calls use the host's own module, arguments, autocast and guidance, with another state and another σ. They
touch neither the scheduler nor its counters, and none of our hooks is on a module while they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Call:
    """One call of the denoiser as the host made it; `prediction` is the tensor that the host got."""

    module: Any
    args: tuple
    kwargs: dict
    prediction: torch.Tensor


def prediction_of(output):
    """The velocity in what a denoiser returns, a tuple or an output object."""
    return output[0] if isinstance(output, tuple) else output.sample


class Policy:
    """The policy at the decision step: one call of B rows, of 2B rows under guidance, or two calls of B rows.

    state, conditional, unconditional, velocity: [B, …] fp32; `unconditional` is None without guidance, and `velocity`
    is the guided one that the host steps with.
    """

    def __init__(self, taps, pipeline, rows: int, step: int, calls: list):
        self.taps = taps
        self.pipeline = pipeline
        self.rows = rows
        self.step = step
        self.calls = calls
        self.sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
        self.sigma = self.sigmas[step]
        self.state = calls[0].kwargs[taps.STATE_ARGUMENT][:rows].float()
        self.conditional, self.unconditional = self._halves([call.prediction for call in calls])
        self.velocity = self._guide(self.conditional, self.unconditional)

    @property
    def device(self):
        return self.state.device

    @property
    def prompted_call(self) -> Call:
        """The call that has the conditional rows."""
        return self.calls[self.taps.CONDITIONAL_CALL if len(self.calls) > 1 else 0]

    def conditional_rows(self) -> slice:
        total = self.prompted_call.kwargs[self.taps.STATE_ARGUMENT].shape[0]
        return conditional_rows(self.taps, total, self.rows)

    def argument(self, name: str):
        """An argument of the conditional rows, [B, …]."""
        return self.prompted_call.kwargs[name][self.conditional_rows()]

    def x0(self):
        """The guessed end of each row, x − σ·v [B, …]."""
        return self.state - self.sigma * self.velocity

    def velocity_at(self, state, sigma: float, guided: bool):
        """The policy's velocity [B, …] fp32 at another state and σ; unguided: of the conditional rows alone."""
        if not guided or self.unconditional is None:
            return self._call(self.prompted_call, state, sigma, self.conditional_rows()).float()
        outputs = [self._call(call, state, sigma, slice(None)) for call in self.calls]
        return self._guide(*self._halves(outputs))

    def _call(self, call: Call, state, sigma: float, rows: slice):
        kwargs = {
            name: value[rows] if name in self.taps.ROW_ARGUMENTS and value is not None else value
            for name, value in call.kwargs.items()
        }
        before = kwargs[self.taps.STATE_ARGUMENT]
        kwargs[self.taps.STATE_ARGUMENT] = torch.cat([state] * (before.shape[0] // self.rows)).to(before.dtype)
        kwargs["timestep"] = torch.full_like(kwargs["timestep"], self.taps.timestep(self.pipeline, sigma))
        with torch.no_grad():
            return prediction_of(call.module(*call.args, **kwargs))

    def _halves(self, predictions: list) -> tuple:
        """(conditional, unconditional) of what the denoiser said, whichever way the host asks for both."""
        if len(predictions) > 1:
            first = self.taps.CONDITIONAL_CALL
            return predictions[first].float(), predictions[1 - first].float()
        if predictions[0].shape[0] == self.rows:
            return predictions[0].float(), None
        halves = predictions[0].float().chunk(2)
        return halves[self.taps.CONDITIONAL_HALF], halves[1 - self.taps.CONDITIONAL_HALF]

    def _guide(self, conditional, unconditional):
        if unconditional is None:
            return conditional
        return self.taps.guided(self.pipeline, conditional, unconditional)


def conditional_rows(taps, total_rows: int, rows: int) -> slice:
    """Which of a call's rows carry the prompt."""
    start = taps.CONDITIONAL_HALF * rows if total_rows > rows else 0
    return slice(start, start + rows)
