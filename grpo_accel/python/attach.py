"""Attaching to a host: which functions are wrapped, where, and how they are put back."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import ddpo, models, own_loop, previews, rewards, schemas, seams, terminal, versions
from .distilled import Distilled
from .library import INPUTS, MODES, Session, load
from .proxy import PipelineProxy
from .rollout import Rollout
from .seams import (
    DDPO_MODULES, ENCODER_FUNCTIONS, PIPELINE_FUNCTIONS, REFUSED, REWARD_MODULE, SEAM_MODULES, TRACKER_MODULE,
)
from .signals import GUESSES
from .taps import bare

FINALS = ("none", "latent", "image")
OPEN_ROLLOUTS_MAX = 512  # batches of one update; more means that the host never computes advantages

_LEVELS = ("error", "warning", "info", "debug")


def _write_log(level: int, line: str) -> None:
    """A line of ours, whatever the host did with its own logging, above its progress bars."""
    terminal.write(f"grpo_accel: {_LEVELS[level]}: {line}")


class Runtime:
    """One attached session of this rank: the wraps in force and the batches that are open."""

    def __init__(self, config: str | os.PathLike[str], overrides: Iterable[str] = ()):
        self.session = Session(os.fspath(config), [*overrides, *_provider_overrides()], self.write_log)
        info = self.session.info()
        self.rank = info.rank
        self.world_size = info.world_size
        self.mode = MODES[info.mode]
        self.run_dir = Path(info.run_dir.decode())
        self.inputs = {name for bit, name in enumerate(INPUTS) if info.inputs >> bit & 1}
        self.hidden_block = _text(info.hidden_block) or "middle"
        self.lookahead_steps = info.lookahead_steps
        self.lookahead_guided = bool(info.lookahead_guided)
        self.finals = FINALS[info.finals]
        self.drops_rows = bool(info.drop_stopped_rows)
        names = _text(info.preview_scorers)
        self.previewer = previews.Previewer(self, names.split(",") if names else (), _text(info.preview_decoder))
        self.distilled = Distilled(
            self, path=_text(info.distilled_lora), rank=info.distilled_rank, every_updates=info.distilled_every_updates,
            seconds=info.distilled_seconds, pairs=info.distilled_pairs,
        ) if "distilled" in self.inputs else None
        self.scorers = []
        self.train_scorer = None
        self.reward_executor = None  # weak reference to the one that last scored a rollout
        self.open_rollouts = []
        self.ended_update = None  # rewards.EndedUpdate
        self.wants_wandb = bool(info.wandb)
        saved = os.environ.get("GRPO_ACCEL_SAVE_PREVIEWS", "0")
        self.preview_batches = int(saved) if saved.isdigit() else 0
        self._by_images = {}
        self._warned = set()
        self._ddpo = ddpo.Trainer(self)
        self._prompts = None
        self._longest = 0  # the host's max_sequence_length, where its encoder was told one
        self._content = {}
        self._taps = {}  # by pipeline class
        self._undo = []
        self._finder = None
        self._gave_up = False

    # ------------------------------------------------------------------ what the wraps ask

    def is_active(self) -> bool:
        """False once the session has given up: everything passes through untouched then."""
        return not self._gave_up and MODES[self.session.info().mode] in ("shadow", "prune")

    def wants(self, name: str) -> bool:
        return name in self.inputs

    def scorer(self) -> previews.HostScorer:
        """The host's training scorer: the one that last scored a rollout, before that the first one made."""
        if self.train_scorer is not None:
            return self.train_scorer
        if not self.scorers:
            raise RuntimeError("the host has not made a scorer yet (flow_grpo.rewards.multi_score)")
        return self.scorers[0]

    def executor(self):
        """Where the host scores its rollouts: a concurrent.futures executor, None if there is none (any more)."""
        return self.reward_executor() if self.reward_executor is not None else None

    def score_columns(self) -> int:
        return self.previewer.columns() if self.scorers and self.inputs & set(GUESSES) else 1

    def rollout_of(self, images):
        """The rollout whose images these very tensors are; None for evaluation and anything else."""
        entry = self._by_images.get(id(images))
        return entry if entry is not None and entry.images is images else None

    def model_name(self, pipeline, taps, geometry) -> str:
        """What a probe is bound to: the pipeline's class, digests of the denoiser's and the scheduler's configuration,
        and the size of the latent."""
        parts = (bare(getattr(pipeline, taps.DENOISER)).config, pipeline.scheduler.config)
        size = f"{geometry.channels}x{geometry.height}x{geometry.width}"
        return "/".join([type(pipeline).__name__, *(_digest(config) for config in parts), size])

    def content(self, pipeline, taps, prompt: str, text_tokens: int, valid: int | None) -> list:
        key = (prompt, text_tokens, valid)
        if key not in self._content:
            self._content[key] = taps.content(pipeline, prompt, text_tokens, self._longest, valid)
        return self._content[key]

    def learn_text_length(self, arguments: dict) -> None:
        """From the arguments of a sampling function that encodes its prompts itself."""
        self._longest = arguments.get("max_sequence_length") or self._longest

    def keeps_previews(self) -> bool:
        """Whether the batch that is rolled out is one whose previews GRPO_ACCEL_SAVE_PREVIEWS asks for."""
        return self.rank == 0 and len(self.open_rollouts) <= self.preview_batches

    def decided(self, rollout) -> None:
        """Called after a batch's last decision."""
        images, scores = rollout.signals.shown or (None, None)
        if images is None or rollout.decision is None or np.isnan(scores).all():
            return
        try:
            previews.save(
                self.run_dir / "previews", self.session.info().updates, len(self.open_rollouts) - 1, images,
                rollout.prompts, rollout.decision.prediction, rollout.decision.kept, scores,
            )
        except Exception as error:
            self.degrade("previews could not be saved", error)

    def update_ended(self, prompts, rewards) -> None:
        """Called once the host has its advantages; prompts, rewards [N, …] as its tracker got them, of all ranks."""
        if self.distilled is not None:
            try:
                self._audit_distilled(prompts, np.asarray(rewards, dtype=np.float64))
            except Exception as error:
                self.distilled.drop(f"{type(error).__name__}: {error}")
        self.open_rollouts.clear()
        self._by_images.clear()
        self._content.clear()
        self._log_to_wandb()

    def _audit_distilled(self, prompts, rewards) -> None:
        try:
            scores = [rollout.signals.audited_scores() for rollout in self.open_rollouts]
            for rollout, one in zip(self.open_rollouts, scores):
                one[rollout.stopped()] = np.nan
            own = np.concatenate(scores) if scores else None
        except Exception as error:  # the other ranks wait for this one
            self.degrade("the distilled signal of an update could not be judged", error)
            own = None
        combined = rewards.reshape(len(rewards), -1)[:, 0]
        self.distilled.after_update(self.session.info().updates, prompts, combined, own)

    def _log_to_wandb(self) -> None:
        wandb = sys.modules.get("wandb")
        if self.rank == 0 and self.wants_wandb and wandb is not None and getattr(wandb, "run", None) is not None:
            try:
                numbers = self.distilled.metrics() if self.distilled is not None else {}
                wandb.log({**json.loads(self.session.metrics_json()), **numbers}, commit=False)
            except Exception as error:
                self.warn_once("wandb", f"numbers could not be handed to wandb: {error}")

    def write_log(self, level: int, line: str) -> None:
        """Where lines of this session and of the C library go."""
        _write_log(level, line)

    def shown_guess(self) -> str:
        """Whose images are the previews that are kept."""
        return "preview"

    def warn_once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self.write_log(1, f"rank {self.rank}: {text}")

    def warn_once_in_job(self, key: str, text: str) -> None:
        """Of what is the same on every rank: rank 0 says it."""
        if self.rank == 0:
            self.warn_once(key, text)

    def log_info(self, text: str) -> None:
        if os.environ.get(terminal.LOG_LEVEL, "info") in ("info", "debug"):
            self.write_log(2, f"rank {self.rank}: {text}")

    def degrade(self, what: str, error: Exception) -> None:
        """Something of ours failed: the host goes on, and one warning says what was lost."""
        self.warn_once(what, f"{what} ({type(error).__name__}: {error}); the job goes on")

    # ------------------------------------------------------------------ loops of one's own

    def use_scorer(self, score) -> None:
        """Previews are scored by `score(images [n, 3, H, W] in 0…1, prompts)`, one number a row."""
        self.train_scorer = own_loop.host_scorer(score)
        self.scorers.append(self.train_scorer)

    def rollout(
        self, pipeline, prompts, *, metadata=None, arguments=None, noise_window=(-1, -1),
    ) -> own_loop.OwnRollout:
        """A batch of a loop that is not flow-grpo's: see `own_loop`. `prompts`: one a row, rows of a group alike.

        arguments: of your sampling function where guidance needs them (`true_cfg_scale`); noise_window: the steps
        [begin, end) that add noise, where only some do. Every rank calls it for as many batches, in the same order.
        """
        prompts, rollout = list(prompts), None
        taps = self.taps_of(pipeline) if self.is_active() else None
        if taps is not None:
            self.ended_update = None
            self.learn_text_length(arguments or {})
            rows = list(metadata) if metadata is not None else [{} for _ in prompts]
            rollout = Rollout(self, taps, pipeline, prompts, rows, arguments, noise_window)
            self.open_rollouts.append(rollout)
        return own_loop.OwnRollout(self, rollout, pipeline, prompts)

    def advantages(self, prompts, rewards, std: str = "global") -> np.ndarray:
        """Ends an update: advantages float64 [rows] of this rank's rows since the last one, exactly 0 for stopped ones.

        prompts, rewards: one a row, in the order of the rollouts, NaN where a row was stopped; `std`: what advantages are
        divided by, "global" (one standard deviation for all rows) or "group". Collective: with several ranks over
        torch.distributed.
        """
        return own_loop.advantages(self, prompts, rewards, std)

    # ------------------------------------------------------------------ wraps

    def taps_of(self, pipeline):
        """What is known of the pipeline's model; None, and a warning once, where nothing is or it can't be followed."""
        kind = type(pipeline)
        if kind not in self._taps:
            self._taps[kind] = models.taps_of(pipeline)
        taps = self._taps[kind]
        why = "is not a pipeline that can be accelerated" if taps is None else taps.why_not(pipeline)
        if why is None:
            return taps
        self.warn_once("pipeline", f"{kind.__name__} ({versions.describe(('diffusers',))}) {why}; it runs as it is")
        return None

    def wrap_pipeline(self, function):
        """pipeline_with_logprob(pipeline, …): rollouts go through a proxy pipeline, everything else passes."""
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(pipeline, *args, **kwargs):
            rollout = None
            try:
                arguments = seams.call_arguments(signature, pipeline, args, kwargs)
                rolls = seams.is_rollout(arguments)
                if rolls:  # followed or not: what the tracker is asked next is about other rows
                    self.ended_update = None
                active = rolls and self.is_active()
                rollout = self._begin_rollout(pipeline, arguments) if active else None
            except Exception as error:  # a fork's call that looks like none we know still is the host's call
                self.ended_update = None
                self.degrade("a batch could not be followed, so it is not accelerated", error)
                self.session.missed_batch()
            if rollout is None:
                return function(pipeline, *args, **kwargs)
            self.open_rollouts.append(rollout)
            try:
                result = function(PipelineProxy(pipeline, rollout), *args, **kwargs)
            except BaseException:
                self.forget(rollout)
                raise
            self.finish(rollout, seams.images_of(result))
            return result

        return wrapped

    def _begin_rollout(self, pipeline, arguments: dict):
        """The rollout of a call of the host's sampling function; None, and why is said once, where it can't be one."""
        taps = self.taps_of(pipeline)
        if taps is None:
            return None
        if arguments.get("kl_reward"):
            self.warn_once("kl_reward", "kl_reward asks the reference policy inside of each rollout and rewards each "
                           "denoising step apart: such a batch is not accelerated")
            self.session.missed_batch()
            return None
        prompts, metadata = self._prompts_of_batch(arguments)
        if prompts is None:
            self.warn_once("prompts", "the prompts of a batch are not known, so it is not accelerated")
            self.session.missed_batch()
            return None
        return Rollout(self, taps, pipeline, prompts, metadata, arguments, seams.noise_window(arguments))

    def finish(self, rollout, images) -> None:
        """The rollout has ended; `images`: what the host will hand to its scorer."""
        rollout.finish(images)
        if rollout.batch is not None:
            self._by_images[id(images)] = rollout
        if len(self.open_rollouts) > OPEN_ROLLOUTS_MAX:
            self._give_up(f"{len(self.open_rollouts)} batches were rolled out and advantages were never computed")

    def forget(self, rollout) -> None:
        self.open_rollouts.remove(rollout)
        if rollout.batch is not None:
            rollout.batch.abandon()
        else:
            self.session.missed_batch()

    def _give_up(self, why: str) -> None:
        """This host does not work as flow-grpo does: from here on everything passes through."""
        self.warn_once("host", f"{why}; nothing is observed from here on")
        self._gave_up = True
        self.ended_update = None
        for rollout in list(self.open_rollouts):
            self.forget(rollout)
        self._by_images.clear()

    def open_batches(self) -> list:
        return [rollout.batch for rollout in self.open_rollouts if rollout.batch is not None]

    def _prompts_of_batch(self, arguments: dict):
        """Prompts of the batch's rows as the host encoded them last, and the caller's metadata of those rows."""
        embeds, prompts = arguments.get("prompt_embeds"), arguments.get("prompt")
        if prompts is None:
            prompts = self._prompts
        prompts = [prompts] if isinstance(prompts, str) else prompts
        each = arguments.get("num_images_per_prompt") or arguments.get("num_videos_per_prompt") or 1
        asked = embeds.shape[0] if embeds is not None else len(prompts or [])
        if prompts is None or len(prompts) != asked:
            return None, None
        if embeds is None:
            self.learn_text_length(arguments)
        prompts = [prompt for prompt in prompts for _ in range(each)]
        metadata = seams.callers_metadata() if self.inputs & set(GUESSES) else None
        known = isinstance(metadata, (list, tuple)) and len(metadata) == len(prompts)
        return prompts, metadata if known else [{} for _ in prompts]

    def remember_prompts(self, prompts) -> None:
        """The prompts of the next batch's rows, where its call has none."""
        self._prompts = list(prompts)

    def wrap_encode_prompt(self, function):
        """encode_prompt(text_encoders, tokenizers, prompt, max_sequence_length): remembers the strings only."""
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            bound = signature.bind_partial(*args, **kwargs).arguments
            prompts = bound.get("prompt")
            if isinstance(prompts, (list, tuple)) and any(prompts):
                self.remember_prompts(prompts)
                self._longest = bound.get("max_sequence_length", self._longest)
            return function(*args, **kwargs)

        return wrapped

    def patch(self, module) -> None:
        """Replaces the seams that a module defines; `detach` puts them back."""
        name = module.__name__
        if name in PIPELINE_FUNCTIONS:
            self.replace(module, PIPELINE_FUNCTIONS[name], self.wrap_pipeline)
        elif name in ENCODER_FUNCTIONS:
            self.replace(module, ENCODER_FUNCTIONS[name], self.wrap_encode_prompt)
        elif name in DDPO_MODULES:
            self._ddpo.patch(module)
        elif name in REFUSED:
            self.warn_once(name, f"{REFUSED[name]}: nothing is attached to it")
        elif name == REWARD_MODULE:
            self.replace(module, "multi_score", lambda function: rewards.wrap_multi_score(self, function))
        elif name == TRACKER_MODULE:
            tracker = module.PerPromptStatTracker
            self.replace(tracker, "update", lambda function: rewards.wrap_tracker_update(self, function))

    def replace(self, owner, name: str, wrap) -> None:
        """A function of the host's by what `wrap` makes of it; `detach` puts it back."""
        original = getattr(owner, name)
        setattr(owner, name, wrap(original))
        self._undo.append((owner, name, original))

    def install(self) -> None:
        """Patches modules that are there already, and the others when they are imported."""
        self._finder = seams.SeamFinder(self)
        sys.meta_path.insert(0, self._finder)
        for name in SEAM_MODULES:
            if name in sys.modules:
                self.patch(sys.modules[name])

    def detach(self, in_step: bool = True) -> None:
        """Puts every function back and closes the session; `in_step`: every rank does so now."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        while self._undo:
            owner, name, original = self._undo.pop()
            setattr(owner, name, original)
        self.session.close(in_step, self.open_batches())

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.detach(in_step=kind is None)


def _provider_overrides() -> list:
    """probe.provider=native where this PyTorch is not the one that the provider torch was written for."""
    names = schemas.changed(schemas.expected(load()))
    if not names:
        return []
    _write_log(1, f"this PyTorch has other signatures of {', '.join(names)}; the probe is computed natively")
    return ["probe.provider=native"]


def _digest(config) -> str:
    known = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _text(value):
    """Text of a C string, None for NULL and for an empty one."""
    return value.decode() if value else None


class _Detached:
    """What attach gives for mode off: nothing was touched and nothing is to be put back."""

    mode = "off"
    rank, world_size = 0, 1

    def rollout(self, pipeline, prompts, **_) -> own_loop.OwnRollout:
        return own_loop.OwnRollout(self, None, pipeline, list(prompts))

    def advantages(self, prompts, rewards, std: str = "global") -> np.ndarray:
        return own_loop.plain_advantages(prompts, rewards, std)

    def detach(self, in_step: bool = True) -> None:
        return None

    def __enter__(self) -> _Detached:
        return self

    def __exit__(self, kind, error, trace) -> None:
        return None


def attach(
    config: str | os.PathLike[str], overrides: Iterable[str] = (), *, scorer: Callable[..., Any] | None = None,
) -> Runtime | _Detached:
    """Attaches to flow-grpo in this process and returns the attachment (also a context manager).

    Call it before the host's modules are imported by the script, on every rank. `config` is the path of a YAML
    file, `overrides` are "key=value" texts, `scorer(images [n, 3, H, W] in 0…1, prompts)` scores previews in loops of one's
    own (`Runtime.rollout`); flow-grpo's is found. Raises GrpoAccelError if the configuration is wrong; nothing is
    attached then. With mode off, or GRPO_ACCEL_DISABLE=1, nothing is attached at all.
    """
    if os.environ.get("GRPO_ACCEL_DISABLE") == "1":
        return _Detached()
    runtime = Runtime(config, overrides)
    if scorer is not None:
        runtime.use_scorer(scorer)
    if runtime.mode == "off":
        runtime.session.close(True)
        return _Detached()
    if runtime.is_active():
        runtime.install()
    return runtime
