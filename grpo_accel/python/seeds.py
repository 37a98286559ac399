"""The best of several seeds for the price of a few.

    selection = grpo_accel.select_seeds(pipeline, "a red circle", n=10, keep=1, scorer=score, num_inference_steps=28)
    selection.images[0]

All seeds run to a decision step; only those with the highest predicted reward run to the end. A seed is
`torch.Generator().manual_seed(seed)`: its image is the one that the pipeline gives for it alone, bit for bit where the
matrix kernels allow it.
"""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .early import MAX_ROWS, EarlyRun, EarlyRuns
from .library import GrpoAccelError
from .rollout import still_images

SHARE_BEFORE_DECISION = 1 / 8  # of the steps, where nobody says when to decide


@dataclass
class Selection:
    """What went on to the end, the best of each prompt first: `images`, and beside them `prompts`, `seeds`,
    `predictions` (NaN where there is none) and `scores` (None without a scorer). `runs`: every prompt's seeds, stopped
    ones too.

    row_steps_run, row_steps_full: denoising steps of single rows, forwards of look-aheads counted, and what running
    every seed to the end takes.
    """

    images: list[Any]
    prompts: list[str]
    seeds: list[int]
    predictions: list[float]
    scores: list[float] | None
    runs: list[list[EarlyRun]]
    row_steps_run: float
    row_steps_full: float
    seconds: float


def select_seeds(
    pipeline: Any, prompt: str | Sequence[str], n: int = 10, keep: int | Sequence[int] = 1, *,
    probe: str | Path | None = None, step: int | None = None, steps: Sequence[int] | None = None,
    seeds: Sequence[int] | Sequence[Sequence[int]] | None = None, scorer: Callable[..., Any] | None = None,
    direct: str | None = None,
    lookahead_steps: int | None = None, decoder: str | Path | None = None, max_rows: int = MAX_ROWS,
    out: str | Path | None = None, progress: bool = True, options: Mapping[str, Any] | None = None,
    **pipeline_kwargs: Any,
) -> Selection:
    """Finishes the `keep` most promising of `n` seeds (0 … n−1, or `seeds`, or a list of them a prompt) of each prompt.

    `prompt`: one or several. Promising is what `probe` (a file) predicts after `step` denoising steps; without one,
    what `scorer(images [n, 3, H, W] in 0…1, prompts)` says of one guess of the image (`direct`: "lookahead" or
    "preview"). Successive halving: steps=[3, 5], keep=[5, 1]. Finished images are scored, where there is a scorer, and
    the best comes first. `out`: a folder for images, previews, index.json and sheet.png. The rest goes to the
    pipeline's call. See `EarlyRuns` for lookahead_steps, decoder, max_rows and options.

    Raises GrpoAccelError for a probe that was made for something else and for wrong arguments; errors of the pipeline
    and of the scorer pass unchanged. Either way nothing stays on the pipeline.
    """
    started = time.perf_counter()
    if step is not None and steps is not None:
        raise GrpoAccelError("argument", "step and steps: give one of them")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    chosen = list(range(n)) if seeds is None else list(seeds)
    when = steps if steps is not None else step
    if when is None and probe is None:
        when = default_step(pipeline, pipeline_kwargs)
    early = EarlyRuns(
        pipeline, steps=when, keep=keep, probe=probe, scorer=scorer, direct=direct, lookahead_steps=lookahead_steps,
        decoder=decoder, max_rows=max_rows, options=options)
    with _Progress(progress) as shown:
        runs = early.run(prompts, chosen, previews=out is not None, progress=shown.show, **pipeline_kwargs)
    selection = _selection(early, runs, scorer)
    selection.seconds = time.perf_counter() - started
    if out is not None:
        from .seed_files import write

        write(Path(out), selection, {"steps": early.steps, "keep": early.keep, "probe": str(probe) if probe else None})
    return selection


def default_step(pipeline: Any, arguments: Mapping[str, Any]) -> int:
    """An eighth of the steps, at least one."""
    given = arguments.get("num_inference_steps")
    if given is None:
        parameter = inspect.signature(type(pipeline).__call__).parameters.get("num_inference_steps")
        given = parameter.default if parameter is not None else None
    if not isinstance(given, int):
        raise GrpoAccelError(
            "argument", "step: the pipeline does not say how many steps it takes; after how many is it decided?")
    return max(1, int(given * SHARE_BEFORE_DECISION))


def _selection(early: EarlyRuns, runs: list[list[EarlyRun]], scorer: Callable[..., Any] | None) -> Selection:
    finished = [run for some in runs for run in some if run.finished]
    if scorer is not None:
        score_finished(finished, scorer)
    scored = [_score(run) for run in finished]
    best = sorted(range(len(finished)), key=lambda row: -scored[row] if math.isfinite(scored[row]) else math.inf)
    places = {id(some): place for place, some in enumerate(runs)}
    prompt_of = {id(run): places[id(some)] for some in runs for run in some}
    best.sort(key=lambda row: prompt_of[id(finished[row])])
    kept = [finished[row] for row in best]
    total = max((run.steps_run for run in finished), default=0)
    return Selection(
        images=[run.image for run in kept], prompts=[run.prompt for run in kept], seeds=[run.seed for run in kept],
        predictions=[run.prediction for run in kept],
        scores=[run.score for run in kept] if scorer is not None else None,
        runs=runs, row_steps_run=early.row_steps, row_steps_full=float(total * sum(map(len, runs))), seconds=0.0)


def _score(run: EarlyRun) -> float:
    return run.prediction if run.score is None else run.score


def score_finished(runs: Sequence[EarlyRun], scorer: Callable[..., Any]) -> None:
    """Gives finished runs the scorer's own word of their images."""
    if not runs:
        return
    images = [run.image for run in runs]
    whole = torch.stack(images) if isinstance(images[0], torch.Tensor) else images
    images = still_images(whole, list(range(len(runs))))
    for run, value in zip(runs, scorer(images, [run.prompt for run in runs])):
        run.score = float(value)


class _Progress:
    """A line on a terminal that renews itself, after two seconds."""

    def __init__(self, wanted: bool):
        self._on = wanted and sys.stderr.isatty()
        self._next, self._shown = time.monotonic() + 2, False

    def show(self, done: int, total: int) -> None:
        if self._on and time.monotonic() >= self._next:
            self._next, self._shown = time.monotonic() + 0.2, True
            print(f"\r\033[K{done} of {total} prompts", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
