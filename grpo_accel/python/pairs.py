"""Pairs of a state at a step of decision and the latent it ended in: what the distilled adapter learns from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

BYTES_MAX = 1 << 30  # of one rank's memory, whatever the number of pairs asked for
HELD_EVERY = 8  # every eighth row is never trained on, at whichever step it was seen


@dataclass
class Seen:
    """Rows as one step saw them: their states and what they seemed to become, [rows, …] each, and the noise level."""

    states: torch.Tensor
    previews: torch.Tensor
    sigma: float

    def of(self, rows) -> Seen:
        """Those rows alone; `rows` is an int64 tensor on the states' device."""
        return Seen(self.states.index_select(0, rows), self.previews.index_select(0, rows), self.sigma)


@dataclass
class Pair:
    """One kept row at one step, on the CPU in half precision: state and final [C, …], arguments without rows."""

    state: torch.Tensor
    final: torch.Tensor
    sigma: float
    arguments: dict
    preview_error: float  # mean squared error of the host's own x0 against the final latent
    held: bool


def _half(tensor):
    """A copy on the CPU, no wider than 16 bits."""
    narrow = tensor.detach().to(torch.float16) if tensor.dtype in (torch.float32, torch.float64) else tensor.detach()
    return narrow.to("cpu", copy=True)


class Pairs:
    """The newest pairs of this rank, at most `limit` of them and at most BYTES_MAX."""

    def __init__(self, limit: int):
        self._limit = limit
        self._pairs = deque()
        self._rows_added = 0
        self._bytes = 0
        self._sharers = {}  # pairs by the arguments that they share

    def __len__(self):
        return len(self._pairs)

    def trained(self) -> list:
        return [pair for pair in self._pairs if not pair.held]

    def held(self) -> list:
        return [pair for pair in self._pairs if pair.held]

    def add(self, seen: list, finals, arguments: dict, prompts: list) -> None:
        """A pair for each row and each step that saw it. finals [rows, …]; arguments {name: [rows, …]}, by prompt.

        All pairs of a row are held back together, or none: they end in the same latent.
        """
        shared = {}
        for row, prompt in enumerate(prompts):
            if prompt not in shared:
                shared[prompt] = {name: _half(value[row]) for name, value in arguments.items()}
            held = self._rows_added % HELD_EVERY == HELD_EVERY - 1
            final = _half(finals[row])
            for step in seen:
                error = float((step.previews[row].float() - finals[row].float()).square().mean())
                self._push(Pair(_half(step.states[row]), final, step.sigma, shared[prompt], error, held))
            self._rows_added += 1
        while self._pairs and (len(self._pairs) > self._limit or self._bytes > BYTES_MAX):
            self._drop_oldest()

    def _push(self, pair: Pair) -> None:
        sharers = self._sharers.get(id(pair.arguments), 0)
        self._sharers[id(pair.arguments)] = sharers + 1
        self._bytes += pair.state.nbytes + pair.final.nbytes + (0 if sharers else _bytes_of(pair.arguments))
        self._pairs.append(pair)

    def _drop_oldest(self) -> None:
        pair = self._pairs.popleft()
        self._sharers[id(pair.arguments)] -= 1
        last = self._sharers[id(pair.arguments)] == 0
        if last:
            del self._sharers[id(pair.arguments)]
        self._bytes -= pair.state.nbytes + pair.final.nbytes + (_bytes_of(pair.arguments) if last else 0)


def _bytes_of(arguments: dict) -> int:
    return sum(value.nbytes for value in arguments.values())
