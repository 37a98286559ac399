"""Our lines among the host's progress bars: a line is whole, and so is the bar that it meets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

LOG_LEVEL = "GRPO_ACCEL_LOG"  # the variable that the C side reads too


def _live_bars(tqdm: Any) -> bool:
    """Is a bar of this process being drawn on one of its own streams?"""
    bars = list(getattr(tqdm, "_instances", ()))
    return any(not getattr(bar, "disable", True) and hasattr(bar, "start_t") for bar in bars)


def _between_bars():
    """A context in which bars are off the screen; they are drawn again after it. Nothing is imported for it."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or not _live_bars(tqdm):
        return nullcontext()
    return tqdm.external_write_mode(file=sys.stderr)


def write(line: str) -> None:
    """Writes a line to standard error, above the bars that tqdm is drawing. Any thread; never raises.

    The bars are cleared and drawn again under tqdm's own lock, on a terminal and under mpirun alike: there a bar's
    line has no end either, and a line that is merely printed sticks to it.
    """
    try:
        with _between_bars():
            print(line, file=sys.stderr, flush=True)
    except Exception:  # a closed stream, another tqdm than the one known: the job must not notice
        try:
            print(line, file=sys.__stderr__, flush=True)
        except Exception:
            pass


@contextmanager
def errors_only(wanted: bool) -> Iterator[None]:
    """While it lasts, the log says errors alone, unless the user has chosen a level."""
    if not wanted or LOG_LEVEL in os.environ:
        yield
        return
    os.environ[LOG_LEVEL] = "error"
    try:
        yield
    finally:
        del os.environ[LOG_LEVEL]
