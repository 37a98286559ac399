"""The host's denoiser at the decision step: what it said there, and how to ask it again.

Further calls use the host's own module, arguments, autocast and guidance, with another state and another noise level.
They touch neither the scheduler nor its counters, and none of our hooks is on a module while they run.
"""

from __future__ import annotations

from typing import Any

import torch

from .calls import Call, of_rows
from .taps import Geometry


class Policy:
    """The policy at the decision step: one call of B rows, of 2B rows under guidance, or two calls of B rows.

    state, conditional, unconditional, prediction: [B, …] fp32 in the host's layout, without a reference image's tokens;
    `unconditional` is None without guidance, and `prediction` is the guided one that the host steps with.
    `arguments`: of the host's sampling function, by name.
    """

    def __init__(self, taps, pipeline, geometry: Geometry, rows: int, step: int, calls: list[Call], arguments: dict):
        self.taps = taps
        self.pipeline = pipeline
        self.geometry = geometry
        self.rows = rows
        self.step = step
        self.calls = calls
        self.arguments = arguments
        self.process = taps.PROCESS(pipeline.scheduler)
        self.levels = self.process.levels()
        self.level = self.levels[step]
        self.state = taps.image_part(calls[0].kwargs[taps.STATE][:rows], geometry).float()
        self.conditional, self.unconditional = self._halves([call.prediction for call in calls])
        self.prediction = self._guide(self.conditional, self.unconditional)

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def prompted_call(self) -> Call:
        """The call that has the conditional rows."""
        return self.calls[self.taps.CONDITIONAL_CALL if len(self.calls) > 1 else 0]

    def prompted_arguments(self) -> dict:
        """The denoiser's arguments of the conditional rows, [B, …]."""
        kwargs = self.prompted_call.kwargs
        return of_rows(self.taps, kwargs, conditional_rows(self.taps, kwargs[self.taps.STATE].shape[0], self.rows))

    def map_of(self, state: torch.Tensor) -> torch.Tensor:
        """[B, channels, height, width]"""
        return self.taps.map_of(state, self.geometry)

    def x0(self) -> torch.Tensor:
        """The guessed end of each row [B, …]."""
        return self.process.x0(self.state, self.prediction, self.level)

    def move(self, state: torch.Tensor, prediction: torch.Tensor, level: float, target: float) -> torch.Tensor:
        """One step of the policy's ODE."""
        return self.process.move(state, prediction, level, target)

    def prediction_at(self, state: torch.Tensor, level: float, guided: bool) -> torch.Tensor:
        """The policy's prediction [B, …] fp32 at another state and level; unguided: of the conditional rows alone."""
        if not guided or self.unconditional is None:
            return self._image_part(self._ask(self.prompted_call.again, self.prompted_arguments(), state, level))
        outputs = [self._ask(call.again, call.kwargs, state, level) for call in self.calls]
        return self._guide(*self._halves(outputs))

    def _ask(self, call: Any, kwargs: dict, state: torch.Tensor, level: float) -> torch.Tensor:
        taps = self.taps
        before = kwargs[taps.STATE]
        part = torch.cat([state] * (before.shape[0] // self.rows)).to(before.dtype)
        time = self.process.time(level) / taps.TIME_DIVISOR
        return call({
            **kwargs, taps.STATE: taps.with_image_part(before, part, self.geometry),
            taps.TIME: _time_like(kwargs[taps.TIME], time),
        })

    def _image_part(self, prediction: torch.Tensor) -> torch.Tensor:
        return self.taps.image_part(prediction, self.geometry).float()

    def _halves(self, predictions: list) -> tuple:
        """(conditional, unconditional) of what the denoiser said, whichever way the host asks for both."""
        predictions = [self._image_part(prediction) for prediction in predictions]
        if len(predictions) > 1:
            first = self.taps.CONDITIONAL_CALL
            return predictions[first], predictions[1 - first]
        if predictions[0].shape[0] == self.rows:
            return predictions[0], None
        halves = predictions[0].chunk(2)
        return halves[self.taps.CONDITIONAL_HALF], halves[1 - self.taps.CONDITIONAL_HALF]

    def _guide(self, conditional: torch.Tensor, unconditional: torch.Tensor | None) -> torch.Tensor:
        if unconditional is None:
            return conditional
        return self.taps.guided(self.pipeline, conditional, unconditional, self.arguments).float()


def _time_like(asked: Any, time: float) -> Any:
    """`time` as the host gives its own; between two whole steps (DDIM's int64) it stays between them."""
    if not isinstance(asked, torch.Tensor):
        return time
    return torch.full_like(asked, time, dtype=asked.dtype if asked.is_floating_point() else torch.float32)


def conditional_rows(taps, total_rows: int, rows: int) -> slice:
    """Which of a call's rows carry the prompt."""
    start = taps.CONDITIONAL_HALF * rows if total_rows > rows else 0
    return slice(start, start + rows)
