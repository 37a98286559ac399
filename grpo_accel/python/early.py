"""Rollouts of an unmodified diffusers pipeline up to a decision step, and only the most promising ones to the end.

    early = EarlyRuns(pipeline, steps=3, keep=1, scorer=score)          # or probe="probe.safetensors"
    for runs in early.run(["a red circle"], seeds=range(10), num_inference_steps=28):
        best = next(run for run in runs if run.finished)

A run is a private session around the pipeline's own `__call__`: the same capture, features, probe and plan as in
training, with policy topk. Where a row's seed is `torch.Generator().manual_seed(seed)`, its image does not depend on
its neighbours. Nothing stays on the pipeline afterwards, whatever happens.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import models
from .attach import Runtime
from .calls import by_name, moment_of, prediction_of
from .library import GrpoAccelError
from .probe_file import ProbeFile, read_probe
from .proxy import PipelineProxy
from .rollout import Rollout
from .seams import images_of
from .signals import GUESSES

MAX_ROWS = 32
OURS = ("prompt", "generator", "latents", "prompt_embeds", "num_images_per_prompt", "num_videos_per_prompt")
OutOfMemory = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


@dataclass
class EarlyRun:
    """One prompt from one seed."""

    prompt: str
    seed: int
    predictions: dict[int, float] = field(default_factory=dict)  # reward, by denoising steps done
    steps_run: int = 0  # denoising steps that it had; the decision's own step is whole
    stopped_step: int | None = None  # the decision that stopped it
    finished: bool = False
    image: Any = None  # as the pipeline returns it, of finished ones
    score: float | None = None  # of the finished image, where somebody scored it
    preview: np.ndarray | None = None  # uint8 [H, W, 3], where asked for: the guess at the newest decision

    @property
    def prediction(self) -> float:
        """The newest one; NaN where there is none."""
        return next(reversed(self.predictions.values()), math.nan)


class EarlyRuns:
    """Early runs of one pipeline under one setting.

    steps: denoising steps done at the decision, or an ascending list of up to 3 (successive halving); None: those of
    the probe. keep: seeds of each prompt that go on from there, one number or one a decision. Predictions come from
    `probe` (a file; refused where it was made for another model, step, scheduler or resolution), else they are what
    `scorer(images [n, 3, H, W] in 0…1, prompts)` gives for one guess of the image, `direct`: "lookahead" (a few big
    steps) or "preview" (x0). decoder: folder of an AutoencoderTiny for guesses; max_rows: of one batch, halved where
    memory runs out; options: further configuration keys, such as {"probe.map_size": 8}; run_dir: kept, else a temporary
    one.

    `row_steps`: denoising steps of single rows so far, forwards of look-aheads included.
    """

    def __init__(
        self, pipeline: Any, *, steps: int | Sequence[int] | None = None, keep: int | Sequence[int] = 1,
        probe: str | Path | None = None, scorer: Callable[..., Any] | None = None, direct: str | None = None,
        lookahead_steps: int | None = None, decoder: str | Path | None = None, max_rows: int = MAX_ROWS,
        run_dir: str | Path | None = None, options: Mapping[str, Any] | None = None,
    ):
        self.pipeline = pipeline
        self.probe: ProbeFile | None = read_probe(probe) if probe is not None else None
        self.scorer = scorer
        self.max_rows = max_rows
        self.row_steps = 0.0
        self._run_dir = run_dir
        self._memory = _Memory()
        self._decoders: dict = {}
        self.steps = self._steps_of(steps)
        self.keep = [keep] if isinstance(keep, int) else list(keep)
        self._overrides = self._config(direct, lookahead_steps, decoder, options or {})
        self._check()

    # ------------------------------------------------------------------ settings

    def _steps_of(self, steps: int | Sequence[int] | None) -> list[int]:
        if steps is None:
            if self.probe is None:
                raise GrpoAccelError("argument", "steps: there is no probe, so say after how many it is decided")
            return [self.probe.steps[0]]
        steps = [steps] if isinstance(steps, int) else list(steps)
        if self.probe is not None:
            self.probe.check_steps(steps)
        return steps

    def _config(self, direct: str | None, lookahead_steps: int | None, decoder: Any, options: Mapping) -> list[str]:
        """The private session's configuration as overrides."""
        keys: dict[str, Any] = {
            "mode": "prune", "decision.policy": "topk", "decision.audit": 0.0, "decision.even_groups": True,
            "record.enabled": False, "retrain.every_updates": 0, "retrain.on_drift": False, "metrics.jsonl": False,
            "metrics.wandb": "false", "distributed.transport": "local",
        }
        if self.probe is not None:
            keys |= {"probe.path": str(self.probe.path), "probe.inputs": list(self.probe.inputs), **self.probe.settings}
        else:
            keys |= {"probe.direct": direct or "lookahead", "probe.inputs": [direct or "lookahead"]}
        if lookahead_steps is not None:
            keys["probe.lookahead.steps"] = lookahead_steps
        if decoder is not None:
            keys["probe.preview.decoder"] = str(decoder)
        keys |= options
        self._inputs = keys["probe.inputs"]
        return [f"{key}={_yaml(value)}" for key, value in keys.items()]

    def _check(self) -> None:
        if len(self.keep) != len(self.steps):
            raise GrpoAccelError(
                "argument", f"keep: {len(self.keep)} numbers for {len(self.steps)} decision steps; one each")
        if any(count < 1 for count in self.keep) or any(a < b for a, b in zip(self.keep, self.keep[1:])):
            raise GrpoAccelError("argument", f"keep: {self.keep} is no falling list of seeds that go on, at least 1")
        if self.max_rows < 1:
            raise GrpoAccelError("argument", f"max_rows: {self.max_rows}; at least 1")
        if self.scorer is None and set(self._inputs) & set(GUESSES):
            raise GrpoAccelError("argument", f"scorer: {' and '.join(self._inputs)} need one, scorer(images, prompts)")

    # ------------------------------------------------------------------ what callers ask

    def run(
        self, prompts: Sequence[str], seeds: Iterable[int] | Sequence[Sequence[int]], *, only_early: bool = False,
        previews: bool = False, progress: Callable[[int, int], None] | None = None, **arguments: Any,
    ) -> list[list[EarlyRun]]:
        """Runs every prompt from every seed: a list a prompt, in the order of the seeds; the same for the same seeds.
        `seeds`: of all prompts, or a list for each, all of them as long.

        only_early: the pipeline is left right after the last decision and nothing is finished; what its denoiser said
        is kept, so that `resume` does not ask again. arguments: of the pipeline's call. progress(prompts done, all).
        Errors of the pipeline and of the scorer pass unchanged.
        """
        prompts = list(prompts)
        seeds = _seeds_of(prompts, list(seeds))
        self._check_call(prompts, seeds, arguments)
        count = len(seeds[0])
        self._memory.meet(arguments)
        done: list[list[EarlyRun]] = []
        with _Sessions(self) as sessions:
            while len(done) < len(prompts):
                fits = self.max_rows // count
                part = slice(len(done), len(done) + max(fits, 1))
                call = _Call(sessions, arguments, previews, only_early)
                try:
                    if fits and not (only_early and len(self.steps) > 1):
                        done += self._whole(call, prompts[part], seeds[part])
                    else:
                        done.append(self._in_parts(call, prompts[part][0], seeds[part][0]))
                except OutOfMemory as error:
                    self._shrink(min(self.max_rows, len(prompts[part]) * count), error)
                    continue
                if progress is not None:
                    progress(len(done), len(prompts))
        return done

    def resume(self, rows: Sequence[tuple[str, int]], **arguments: Any) -> list[EarlyRun]:
        """Finishes (prompt, seed) rows, in their order. Steps that `run(only_early=True)` has already asked the
        denoiser for, under the same arguments, are not asked again; the images are those of a run in one go."""
        self._memory.meet(arguments)
        done: dict[tuple[str, int], EarlyRun] = {}
        by_prompt: dict[str, list[int]] = {}
        for prompt, seed in rows:
            by_prompt.setdefault(prompt, []).append(int(seed))
        for prompts, seeds in _even(by_prompt):
            first = 0
            while first < len(prompts):
                part = slice(first, first + max(1, self.max_rows // len(seeds[0])))
                try:
                    done |= self._finish(prompts[part], seeds[part], arguments)
                except OutOfMemory as error:
                    self._shrink(min(self.max_rows, len(prompts[part]) * len(seeds[0])), error)
                    continue
                first = part.stop
        return [done[prompt, int(seed)] for prompt, seed in rows]

    def forget(self) -> None:
        """Drops what `resume` could have used."""
        self._memory.clear()

    # ------------------------------------------------------------------ one batch, or a prompt in parts

    def _check_call(self, prompts: list[str], seeds: list[list[int]], arguments: dict) -> None:
        if not prompts or len(seeds) != len(prompts) or not seeds[0] or len(set(map(len, seeds))) > 1:
            raise GrpoAccelError("argument", "no prompts, no seeds, or not as many seeds for each prompt")
        for name, values in (("prompts", prompts), *(("seeds", some) for some in seeds)):
            if len(set(values)) != len(values):
                raise GrpoAccelError("argument", f"{name}: one of them is given twice")
        if self.keep[0] > len(seeds[0]):
            raise GrpoAccelError("argument", f"keep: {self.keep[0]} of {len(seeds[0])} seeds")
        given = [name for name in OURS if name in arguments]
        if given:
            raise GrpoAccelError("argument", f"{given[0]} can't be given: prompts and seeds decide it")

    def _shrink(self, rows: int, error: Exception) -> None:
        """After memory ran out with so many rows; where there was but one, that is the caller's."""
        if rows < 2:
            raise error
        self.max_rows = rows // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _whole(self, call: _Call, prompts: list[str], seeds: list[list[int]]) -> list[list[EarlyRun]]:
        """Some prompts with all their seeds in one batch; the session decides."""
        count = len(seeds[0])
        keep = [count] if call.only_early else self.keep
        runs = self._batch(call, prompts, seeds, self.steps, keep)
        return [runs[first: first + count] for first in range(0, len(runs), count)]

    def _in_parts(self, call: _Call, prompt: str, seeds: list[int]) -> list[EarlyRun]:
        """A prompt whose seeds are more than one batch may have: each part up to the decision, then the best of all."""
        runs = {seed: EarlyRun(prompt, seed) for seed in seeds}
        running, early = list(seeds), _Call(call.sessions, call.arguments, call.previews, only_early=True)
        for step, keep in zip(self.steps, self.keep):
            for first in range(0, len(running), self.max_rows):
                part = running[first: first + self.max_rows]
                for run in self._batch(early, [prompt], [part], [step], [len(part)]):
                    runs[run.seed].predictions |= run.predictions
                    runs[run.seed].preview, runs[run.seed].steps_run = run.preview, run.steps_run
            if call.only_early and step == self.steps[-1]:
                break
            best = sorted(running, key=lambda seed: -_or_least(runs[seed].prediction))[:keep]
            for seed in running:
                runs[seed].stopped_step = None if seed in best else step
            running = [seed for seed in running if seed in best]
        if not call.only_early:
            for run in self.resume([(prompt, seed) for seed in running], **call.arguments):
                runs[run.seed].image, runs[run.seed].finished, runs[run.seed].steps_run = run.image, True, run.steps_run
            self._memory.clear()
        return list(runs.values())

    def _batch(
        self, call: _Call, prompts: list[str], seeds: list[list[int]], steps: list[int], keep: list[int],
    ) -> list[EarlyRun]:
        runs = [EarlyRun(prompt, seed) for prompt, some in zip(prompts, seeds) for seed in some]
        runtime = call.sessions.of(len(runs), steps, [count * len(prompts) for count in keep])
        recall = _Recall(self._memory, runs) if call.only_early else None
        rollout = EarlyRollout(runtime, self.pipeline, runs, call.arguments, recall, call.previews)
        runtime.open_rollouts.append(rollout)
        before = _Attributes(self.pipeline)
        try:
            images = self._sample(rollout, prompts, seeds, call.arguments)
            rollout.finish(images)
        except _Decided:
            before.restore()
        else:
            rollout.take_images(images)
        finally:
            self.row_steps += rollout.row_steps
            runtime.forget(rollout)
        return runs

    def _finish(self, prompts: list[str], seeds: list[list[int]], arguments: dict) -> dict:
        runs = [EarlyRun(prompt, seed) for prompt, some in zip(prompts, seeds) for seed in some]
        rest = _Rest(self.pipeline, self._memory, runs)
        images = self._sample(rest, prompts, seeds, arguments)
        self.row_steps += rest.row_steps
        for row, run in enumerate(runs):
            run.image, run.finished, run.steps_run = images[row], True, rest.steps
        return {(run.prompt, run.seed): run for run in runs}

    def _sample(self, rollout: Any, prompts: list[str], seeds: list[list[int]], arguments: dict) -> Any:
        """The pipeline's own call; prompts are encoded once each where it can, every prompt has as many seeds."""
        call = type(self.pipeline).__call__
        once = len(prompts) == 1 or rollout.taps.PROMPTS_ONCE
        several = [name for name in ("num_images_per_prompt", "num_videos_per_prompt")
                   if once and name in inspect.signature(call).parameters]
        given = {"prompt": prompts, several[0]: len(seeds[0])} if several else {
            "prompt": [prompt for prompt, some in zip(prompts, seeds) for _ in some]}
        count = len(given["prompt"])
        texts = {name: [value] * count for name, value in arguments.items()
                 if isinstance(value, str) and (name.startswith("prompt_") or name.startswith("negative_prompt"))}
        generators = [torch.Generator().manual_seed(seed) for some in seeds for seed in some]
        stand_in = PipelineProxy(self.pipeline, rollout)
        return images_of(call(stand_in, **{**arguments, **texts, **given, "generator": generators}))


# ---------------------------------------------------------------------- private sessions


@dataclass(frozen=True)
class _Call:
    """What one `run` was asked for."""

    sessions: _Sessions
    arguments: dict
    previews: bool
    only_early: bool


class EarlyRuntime(Runtime):
    """A session of one process that decides or says why not: nothing is degraded in silence."""

    last_warning = ""

    def __init__(self, config: Path, overrides: list[str], probe: ProbeFile | None):
        self._probe = probe
        super().__init__(config, overrides)

    def write_log(self, level: int, line: str) -> None:
        self.last_warning = line if level <= 1 else self.last_warning

    def degrade(self, what: str, error: Exception) -> None:
        raise error

    def model_name(self, pipeline, taps, geometry) -> str:
        name = super().model_name(pipeline, taps, geometry)
        if self._probe is not None:
            self._probe.check_model(name)
            self._probe.check_steps_total(len(taps.PROCESS(pipeline.scheduler).levels()) - 1)
        return name

    def keeps_previews(self) -> bool:
        return any(rollout.wants_previews for rollout in self.open_rollouts)

    def shown_guess(self) -> str:
        return "lookahead" if self.wants("lookahead") else "preview"

    def decided(self, rollout) -> None:
        rollout.take_previews()


class _Sessions:
    """Sessions of one `run`, one for each shape of batch, numbered from their first batch on: ties fall alike."""

    def __init__(self, early: EarlyRuns):
        self._early = early
        self._open: dict[tuple, EarlyRuntime] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Sessions:
        folder = self._early._run_dir or self._stack.enter_context(tempfile.TemporaryDirectory(prefix="grpo-accel-"))
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "accel.yaml").write_text("version: 1\n")
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def of(self, rows: int, steps: list[int], keep: list[int]) -> EarlyRuntime:
        """The session for batches of `rows` rows of which keep[i] go on after steps[i]."""
        key = (rows, *steps, *keep)
        if key not in self._open:
            overrides = [
                *self._early._overrides, f"run_dir={_yaml(str(self._folder))}", f"decision.step={_yaml(steps)}",
                f"decision.keep={_yaml([count / rows for count in keep])}"]
            runtime = EarlyRuntime(self._folder / "accel.yaml", overrides, self._early.probe)
            self._stack.callback(runtime.detach)
            runtime.previewer.decoders = self._early._decoders
            if self._early.scorer is not None:
                runtime.use_scorer(self._early.scorer)
            runtime.session.set_host(0, True)
            self._open[key] = runtime
        return self._open[key]


class EarlyRollout(Rollout):
    """A batch that notes what is predicted at each decision, and may end there."""

    def __init__(
        self, runtime, pipeline, runs: list[EarlyRun], arguments: dict, recall: _Recall | None, previews: bool,
    ):
        taps = runtime.taps_of(pipeline)
        if taps is None:
            raise GrpoAccelError("argument", runtime.last_warning)
        super().__init__(runtime, taps, pipeline, [run.prompt for run in runs], [{} for _ in runs], arguments)
        self.runs = runs
        self.wants_previews = previews
        self.row_steps = 0.0
        self.steps_total = 0
        self._recall = recall  # of a batch that ends at its last decision
        self._counted_step = -1

    def denoise(self, module, args, kwargs):
        asked = module if self._recall is None else self._recall.of_call(module, self.taps)
        return super().denoise(asked, args, kwargs)

    def take_images(self, images) -> None:
        for row in self.kept():
            run = self.runs[row]
            run.image, run.finished, run.steps_run = images[row], True, self.steps_total

    def take_previews(self) -> None:
        """Those of the guess that was made anyway; of its own decoding where none was."""
        if self.signals.shown is not None:
            pixels = (self.signals.shown[0].detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
            for run, image in zip(self.runs, pixels.cpu().numpy()):
                run.preview = image

    def _begin(self, kwargs) -> None:
        super()._begin(kwargs)
        self.steps_total = len(self.taps.PROCESS(self.pipeline.scheduler).levels()) - 1

    def _denoise_running(self, module, kwargs) -> tuple:
        answer = super()._denoise_running(module, kwargs)
        if self._counted_step != self.step and not getattr(module, "recalled", False):
            self.row_steps += len(self.kept())
        self._counted_step = self.step
        return answer

    def _observe(self) -> None:
        super()._observe()
        runtime, policy = self.runtime, self.policy()
        if runtime.wants("lookahead"):
            forwards = min(runtime.lookahead_steps, len(policy.levels) - 2 - policy.step)
            halves = policy.unconditional is not None and not runtime.lookahead_guided
            self.row_steps += policy.rows * forwards * (0.5 if halves else 1.0)
        if self.wants_previews and not any(runtime.wants(name) for name in ("lookahead", "preview")):
            images = runtime.previewer.decode(self.taps, self.pipeline, policy.x0(), policy.geometry)
            self.signals.show(self.kept(), images)

    def _agree(self) -> None:
        step, running = self._steps_ahead[0], self.kept()
        super()._agree()
        kept = set(self.kept())
        for row in running:
            run = self.runs[row]
            run.predictions[step] = float(self.decision.prediction[row])
            run.steps_run = step + 1
            run.stopped_step = None if row in kept else step
        if self.decision.reason != "pruned":
            why = self.runtime.last_warning or self.decision.reason
            raise GrpoAccelError("data", f"after step {step} the seeds could not be compared: {why}")
        if self._recall is not None and not self._steps_ahead:
            raise _Decided


class _Decided(BaseException):
    """Leaves the pipeline right after the last decision."""


# ---------------------------------------------------------------------- steps that are not asked twice


class _Memory:
    """What the denoiser said to a row, call by call, under one set of the pipeline's arguments."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int], list[torch.Tensor]] = {}
        self._arguments = ""

    def meet(self, arguments: dict) -> None:
        """Forgets everything where the arguments are others."""
        known = repr(sorted((name, value) for name, value in arguments.items()))
        if known != self._arguments:
            self.clear()
        self._arguments = known

    def clear(self) -> None:
        self._said.clear()

    def recall(self, runs: list[EarlyRun], call: int) -> torch.Tensor | None:
        """The prediction [copies · rows, …] of a call; None where one of the rows was never asked."""
        said = [self._said.get((run.prompt, run.seed), []) for run in runs]
        if any(len(calls) <= call for calls in said):
            return None
        return torch.stack([calls[call] for calls in said], dim=1).flatten(0, 1)

    def keep(self, runs: list[EarlyRun], call: int, prediction: torch.Tensor) -> None:
        rows = prediction.detach().unflatten(0, (-1, len(runs)))
        for row, run in enumerate(runs):
            calls = self._said.setdefault((run.prompt, run.seed), [])
            if len(calls) == call:
                calls.append(rows[:, row].clone())


class _Recall:
    """The calls of one batch: those that its rows had before are answered from memory, the others are kept there."""

    def __init__(self, memory: _Memory, runs: list[EarlyRun]):
        self._memory, self._runs, self._calls = memory, runs, 0

    def of_call(self, module: Any, taps: Any) -> _RecalledCall:
        self._calls += 1
        return _RecalledCall(module, self._memory, self._runs, self._calls - 1)


class _RecalledCall:
    """The denoiser for one call of the host; when it is called again (by a look-ahead) it is the denoiser itself."""

    def __init__(self, module: Any, memory: _Memory, runs: list[EarlyRun], call: int):
        self._module, self._memory, self._runs, self._call = module, memory, runs, call
        self._answered = self.recalled = False

    def __call__(self, **kwargs: Any) -> Any:
        if self._answered:
            return self._module(**kwargs)
        self._answered = True
        known = self._memory.recall(self._runs, self._call)
        if known is not None:
            self.recalled = True
            return (known,) if kwargs.get("return_dict") is False else _Output(known)
        output = self._module(**kwargs)
        self._memory.keep(self._runs, self._call, prediction_of(output))
        return output


@dataclass
class _Output:
    sample: torch.Tensor


class _Rest:
    """Rows to the end without any decision; the pipeline's stand-in for their denoiser."""

    def __init__(self, pipeline: Any, memory: _Memory, runs: list[EarlyRun]):
        self.taps = models.taps_of(pipeline)
        self.steps, self.row_steps = 0, 0.0
        self._pipeline, self._runs, self._recall = pipeline, runs, _Recall(memory, runs)
        self._moment: float | None = None

    def denoise(self, module: Any, args: tuple, kwargs: dict) -> Any:
        named = by_name(self.taps, args, kwargs)
        call = self._recall.of_call(module, self.taps)
        output = call(**named)
        moment = moment_of(self.taps, named)
        if moment != self._moment:
            self._moment, self.steps = moment, self.steps + 1
            self.row_steps += 0 if call.recalled else len(self._runs)
        return output

    def decode(self, latents: Any, *args: Any, **kwargs: Any) -> Any:
        return self._pipeline.vae.decode(latents, *args, **kwargs)


class _Attributes:
    """Attributes of pipeline and scheduler as they were, for a call that was left in its middle."""

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline
        self._owners = [(owner, dict(vars(owner))) for owner in (pipeline, pipeline.scheduler)]

    def restore(self) -> None:
        for owner, values in self._owners:
            vars(owner).clear()
            vars(owner).update(values)
        if hasattr(self._pipeline, "maybe_free_model_hooks"):
            self._pipeline.maybe_free_model_hooks()


def _even(by_prompt: dict[str, list[int]]) -> list[tuple[list[str], list[list[int]]]]:
    """Prompts with as many seeds together."""
    counts: dict[int, list[str]] = {}
    for prompt, seeds in by_prompt.items():
        counts.setdefault(len(seeds), []).append(prompt)
    return [(prompts, [by_prompt[prompt] for prompt in prompts]) for prompts in counts.values()]


def _seeds_of(prompts: list[str], seeds: list) -> list[list[int]]:
    """A list of seeds for each prompt."""
    if seeds and isinstance(seeds[0], Sequence):
        return [[int(seed) for seed in some] for some in seeds]
    return [[int(seed) for seed in seeds] for _ in prompts]


def _or_least(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _yaml(value: Any) -> str:
    """A configuration value as it is written: words bare, lists in brackets."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_yaml(entry) for entry in value)}]"
    return value if isinstance(value, str) else json.dumps(value)
