"""Better wordings of a prompt for the price of early predictions.

    best = grpo_accel.optimize_prompt(pipeline, "circle, red", rewriter, threshold=0.7, scorer=score, num_inference_steps=28)
    best.image, best.prompt

Each wording runs to a decision step from a few seeds. Only where the prediction there is below the threshold is
`rewriter(prompt, tried) -> str` asked for another one. The best of all tried, by prediction, is completed; its first steps
are not paid twice. `python -m grpo_accel.prompts` is what `grpo-accel optimize-prompt` starts.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .early import MAX_ROWS, EarlyRun, EarlyRuns
from .library import GrpoAccelError
from .probe_file import read_header
from .rewriters import RewriterFailed, checked
from .seeds import default_step, score_finished

ROUNDS_MAX = 64


@dataclass
class Try:
    """One wording with its early runs. decision: "accepted", "rewrite", or why it was the last one: "rounds", "budget",
    "rewriter"."""

    prompt: str
    seeds: list[int]
    predictions: list[float]
    row_steps: float
    decision: str = ""

    @property
    def prediction(self) -> float:
        """The mean over seeds of the finite ones; NaN where there is none."""
        known = [value for value in self.predictions if math.isfinite(value)]
        return sum(known) / len(known) if known else math.nan


@dataclass
class Optimised:
    """image, of the row of all tried with the highest prediction; `asked` is the user's own prompt, `prompt` the image's.

    reason: the last try's decision. row_steps: denoising steps of single rows, forwards of look-aheads counted. score: the
    scorer's of the image, where there is one.
    """

    asked: str
    image: Any = None
    prompt: str = ""
    seed: int = 0
    prediction: float = math.nan
    score: float | None = None
    tries: list[Try] = field(default_factory=list)
    reason: str = ""
    row_steps: float = 0.0
    row_steps_full: float = 0.0  # of one whole rollout, from which budgets are counted


class Rewriter(Protocol):
    def __call__(self, prompt: str, tried: Sequence[Try]) -> str: ...


@dataclass(frozen=True)
class Threshold:
    """When a wording is good enough. kind "value": its prediction is at least `value`. "budget": never; rewriting goes on while
    another try and the completion fit into `value` row-steps."""

    kind: str
    value: float

    @classmethod
    def of(cls, given: float | str | Threshold, probe: str | Path | None) -> Threshold:
        """0.7, "0.7", "q0.8" (of the predictions that the probe's own training saw) or "budget:60"."""
        if isinstance(given, Threshold):
            return given
        text = str(given)
        kind = "budget" if text.startswith("budget:") else "quantile" if text.startswith("q") else "value"
        try:
            value = float(text.removeprefix("budget:").removeprefix("q"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (kind == "quantile" and not 0 <= value <= 1) or (kind == "budget" and value <= 0):
            raise GrpoAccelError("argument", f"threshold: {text!r} is no value, quantile (q0.8) or budget (budget:60)")
        if kind == "quantile":
            if probe is None:
                raise GrpoAccelError("argument", f"threshold: {text} is a quantile of a probe's predictions; there is no probe")
            return cls("value", float(np.interp(value, np.arange(1, 10) / 10, deciles_of(probe))))
        return cls(kind, value)


def optimize_prompt(
    pipeline: Any, prompt: str | Sequence[str], rewriter: Rewriter, threshold: float | str, *,
    probe: str | Path | None = None, step: int | None = None, rounds: int = 4, seeds: Sequence[int] = (0, 1),
    scorer: Callable[..., Any] | None = None, direct: str | None = None, lookahead_steps: int | None = None,
    decoder: str | Path | None = None, max_rows: int = MAX_ROWS, log: str | Path | Callable[[dict], None] | None = None,
    options: Mapping[str, Any] | None = None, **pipeline_kwargs: Any,
) -> Optimised | list[Optimised]:
    """The best image that `rewriter` leads to; a list of them for a list of prompts, whose tries share batches.

    prompt: what is wanted. threshold: a value, a quantile ("q0.8") or a budget of row-steps ("budget:60"); see `Threshold`.
    rounds: rewritings at most. Predictions after `step` denoising steps are those of `probe` (a file) or, without one, of
    `scorer(images [n, 3, H, W] in 0…1, prompts)` on one guess of the image (`direct`: "lookahead" or "preview"); a wording's
    is the mean over `seeds`. Scorers are given the prompt as asked, never a rewriting. log: a file for JSON lines, or
    a callable, of every early score, decision, rewriting and completion. See `EarlyRuns` for the rest.

    A rewriter that raises RewriterFailed, or gives no text, ends the search; what was tried is still completed. All other
    errors pass unchanged, and nothing stays on the pipeline either way.
    """
    search = PromptSearch(
        pipeline, rewriter, probe=probe, step=step, rounds=rounds, seeds=seeds, scorer=scorer, direct=direct,
        lookahead_steps=lookahead_steps, decoder=decoder, max_rows=max_rows, log=log, options=options, **pipeline_kwargs)
    found = search.run([prompt] if isinstance(prompt, str) else list(prompt), threshold)
    return found[0] if isinstance(prompt, str) else found


class PromptSearch:
    """`optimize_prompt` under one setting, for as many calls as wanted."""

    def __init__(
        self, pipeline: Any, rewriter: Rewriter, *, probe: str | Path | None = None, step: int | None = None, rounds: int = 4,
        seeds: Sequence[int] = (0, 1), scorer: Callable[..., Any] | None = None, direct: str | None = None,
        lookahead_steps: int | None = None, decoder: str | Path | None = None, max_rows: int = MAX_ROWS,
        log: str | Path | Callable[[dict], None] | None = None, options: Mapping[str, Any] | None = None, **arguments: Any,
    ):
        if not 0 <= rounds <= ROUNDS_MAX:
            raise GrpoAccelError("argument", f"rounds: {rounds}; 0 to {ROUNDS_MAX}")
        self.pipeline, self.rewriter, self.rounds, self.probe = pipeline, rewriter, rounds, probe
        self.seeds, self.arguments, self.log = [int(seed) for seed in seeds], arguments, _log_of(log)
        self._scorer = scorer
        self._asked: dict[str, str] = {}  # by wording, of the batch that runs
        if step is None and probe is None:
            step = default_step(pipeline, arguments)
        self.early = EarlyRuns(
            pipeline, steps=step, probe=probe, scorer=self._score_as_asked if scorer is not None else None, direct=direct,
            lookahead_steps=lookahead_steps, decoder=decoder, max_rows=max_rows, options=options)

    def run(self, prompts: Sequence[str], threshold: float | str | Threshold) -> list[Optimised]:
        """One answer a prompt, in their order."""
        until = Threshold.of(threshold, self.probe)
        total = self._steps_total() if until.kind == "budget" else 0
        found = [Optimised(asked=prompt, row_steps_full=total) for prompt in prompts]
        wordings = dict(enumerate(prompts))
        try:
            while wordings:
                self._try(found, wordings)
                wordings = self._decide(found, wordings, until)
            self._complete(found)
        finally:
            self.early.forget()
        return found

    # ------------------------------------------------------------------ a round

    def _try(self, found: list[Optimised], wordings: dict[int, str]) -> None:
        """Early runs of every wording; one that was tried before is known and costs nothing."""
        new = {}
        for place, wording in wordings.items():
            known = next((one for one in found[place].tries if one.prompt == wording), None)
            if known is not None:
                found[place].tries.append(Try(wording, known.seeds, known.predictions, 0.0))
            else:
                new[place] = wording
        for part in _without_twins(new):
            self._asked = {wording: found[place].asked for place, wording in part.items()}
            before = self.early.row_steps
            runs = self.early.run(list(part.values()), self.seeds, only_early=True, **self.arguments)
            cost = (self.early.row_steps - before) / len(part)
            for (place, wording), some in zip(part.items(), runs):
                found[place].row_steps += cost
                found[place].tries.append(Try(wording, self.seeds, [run.prediction for run in some], cost))
        for place in wordings:
            newest = found[place].tries[-1]
            self._say("early", found[place], prompt=newest.prompt, seeds=newest.seeds, predictions=newest.predictions,
                      prediction=newest.prediction, row_steps=newest.row_steps)

    def _decide(self, found: list[Optimised], wordings: dict[int, str], until: Threshold) -> dict[int, str]:
        """The wordings of the next round."""
        following = {}
        for place in wordings:
            one = found[place]
            newest = one.tries[-1]
            newest.decision = self._decision(one, until)
            self._say("decision", one, prompt=newest.prompt, decision=newest.decision, prediction=newest.prediction,
                      threshold=until.value, threshold_kind=until.kind)
            if newest.decision == "rewrite":
                wording = self._rewritten(one)
                if wording is not None:
                    following[place] = wording
            one.reason = newest.decision
        return following

    def _decision(self, one: Optimised, until: Threshold) -> str:
        newest = one.tries[-1]
        if until.kind == "value" and newest.prediction >= until.value:
            return "accepted"
        if len(one.tries) > self.rounds:
            return "rounds"
        if until.kind == "budget":
            completion = one.row_steps_full - self.early.steps[-1] - 1
            if one.row_steps + one.tries[0].row_steps + completion > until.value:
                return "budget"
        return "rewrite"

    def _rewritten(self, one: Optimised) -> str | None:
        newest = one.tries[-1]
        started = time.perf_counter()
        try:
            wording = checked(self.rewriter(newest.prompt, list(one.tries)))
        except RewriterFailed as failed:
            newest.decision = "rewriter"
            self._say("error", one, message=str(failed), prompt=newest.prompt)
            return None
        self._say("rewrite", one, prompt=wording, instead_of=newest.prompt, seconds=round(time.perf_counter() - started, 6))
        return wording

    # ------------------------------------------------------------------ the end

    def _complete(self, found: list[Optimised]) -> None:
        for part in _without_twins({place: _best(one)[0] for place, one in enumerate(found)}):
            chosen = {place: _best(found[place]) for place in part}
            before = self.early.row_steps
            finished = self.early.resume([(prompt, seed) for prompt, seed, _ in chosen.values()], **self.arguments)
            cost = (self.early.row_steps - before) / len(part)
            if self._scorer is not None:
                self._asked = {wording: found[place].asked for place, wording in part.items()}
                score_finished(finished, self._score_as_asked)
            for run, (place, (_, _, prediction)) in zip(finished, chosen.items()):
                self._finish(found[place], run, prediction, cost)

    def _finish(self, one: Optimised, run: EarlyRun, prediction: float, cost: float) -> None:
        one.image, one.prompt, one.seed, one.prediction = run.image, run.prompt, run.seed, prediction
        one.row_steps += cost
        one.row_steps_full, one.score = float(run.steps_run), run.score
        self._say("finished", one, prompt=one.prompt, seed=one.seed, prediction=prediction, score=one.score,
                  reason=one.reason, row_steps=one.row_steps)

    # ------------------------------------------------------------------ small things

    def _score_as_asked(self, images: Any, prompts: Sequence[str]) -> Any:
        return self._scorer(images, [self._asked.get(prompt, prompt) for prompt in prompts])

    def _say(self, event: str, one: Optimised, **values: Any) -> None:
        if self.log is not None:
            self.log({"event": event, "asked": one.asked, "round": len(one.tries) - 1, **values})

    def _steps_total(self) -> int:
        given = self.arguments.get("num_inference_steps")
        if given is None:
            parameter = inspect.signature(type(self.pipeline).__call__).parameters.get("num_inference_steps")
            given = parameter.default if parameter is not None else None
        if not isinstance(given, int):
            raise GrpoAccelError("argument", "threshold: a budget needs num_inference_steps, a whole number")
        return given


def _best(one: Optimised) -> tuple[str, int, float]:
    """(wording, seed, prediction) of all rows tried; of equals the earliest."""
    rows = [(wording.prompt, seed, value) for wording in one.tries for seed, value in zip(wording.seeds, wording.predictions)]
    return max(rows, key=lambda row: row[2] if math.isfinite(row[2]) else -math.inf)


def _without_twins(wordings: dict[int, str]) -> list[dict[int, str]]:
    """Parts in which no wording stands twice: a batch tells its rows by wording and seed."""
    parts: list[dict[int, str]] = []
    for place, wording in wordings.items():
        part = next((part for part in parts if wording not in part.values()), None)
        if part is None:
            parts.append(part := {})
        part[place] = wording
    return parts


def deciles_of(probe: str | Path) -> np.ndarray:
    """The nine deciles of the predictions that the probe's own training saw, at its first step. They stand in its file's array
    "reference" [steps, columns, rows and 9 edges and 10 shares], whose first column is the prediction."""
    try:
        header, begin = read_header(probe)
        entry = header["reference"]
        with open(probe, "rb") as file:
            file.seek(begin + entry["data_offsets"][0])
            column = np.frombuffer(file.read(4 * 10), dtype="<f4")
        if entry["dtype"] != "F32" or len(column) != 10 or not column[0] > 0:
            raise ValueError("its predictions are not known")
        return column[1:]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise GrpoAccelError("file", f"{probe}: no quantiles of predictions: {type(reason).__name__}: {reason}") from reason


def _log_of(log: str | Path | Callable[[dict], None] | None) -> Callable[[dict], None] | None:
    if log is None or callable(log):
        return log
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(event: dict) -> None:
        with open(path, "a") as file:
            file.write(json_line(event) + "\n")

    return write


def json_line(event: dict) -> str:
    """JSON without NaN: what is not finite is null."""
    return json.dumps(_finite(event), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    from .prompt_command import main

    sys.exit(main())
