"""The host's scorer and its tracker: kept rows are scored, and advantages come from whole groups."""

from __future__ import annotations

import functools
import inspect
import math
import time
import weakref
from typing import Any

import numpy as np

from . import previews, samples


def wrap_multi_score(runtime, multi_score):
    """multi_score(device, weights) → scorer; the scorer that sees a rollout's images scores its kept rows only."""

    signature = inspect.signature(multi_score)

    def host_scorer(scorer, args, kwargs):
        """The scorer, its weights, and how the host makes another: the same call with another dictionary."""
        bound = signature.bind(*args, **kwargs)
        name = list(bound.arguments)[-1]
        if not hasattr(bound.arguments[name], "items"):
            return previews.HostScorer(scorer, {}, None)

        def build(weights):
            other = signature.bind(*args, **kwargs)
            other.arguments[name] = weights
            return multi_score(*other.args, **other.kwargs)

        return previews.HostScorer(scorer, dict(bound.arguments[name].items()), build)

    @functools.wraps(multi_score)
    def wrapped(*args, **kwargs):
        scorer = multi_score(*args, **kwargs)
        ours = host_scorer(scorer, args, kwargs)
        runtime.scorers.append(ours)

        @functools.wraps(scorer)
        def score(images, prompts, metadata, *rest, **options):
            rollout = runtime.rollout_of(images)
            if rollout is None or rollout.batch is None:
                return scorer(images, prompts, metadata, *rest, **options)
            runtime.train_scorer = ours
            remember_executor(runtime)
            return score_rollout(runtime, rollout, scorer, images, prompts, metadata, *rest, **options)

        return score

    return wrapped


def remember_executor(runtime) -> None:
    """Where this rollout is being scored, previews can be scored too."""
    try:
        executor = previews.executor_of_this_thread()
        runtime.reward_executor = weakref.ref(executor) if executor is not None else None
    except Exception as error:
        runtime.degrade("the host's reward executor was not found", error)


def score_rollout(runtime, rollout, scorer, images, prompts, metadata, *rest, **options):
    """The scorer's answer for all rows of a rollout, of which it sees the kept ones."""
    started = time.perf_counter()
    kept = rollout.kept()
    if len(kept) == rollout.rows:
        rewards, info = scorer(images, prompts, metadata, *rest, **options)
    else:
        rewards, info = scorer(
            images[kept], _take(prompts, kept), _take(metadata, kept),
            *(_kept_of(value, kept, rollout.rows) for value in rest),
            **{name: _kept_of(value, kept, rollout.rows) for name, value in options.items()},
        )
    rollout.batch.seconds(2, time.perf_counter() - started)
    rollout.images = None  # only this scorer had to know them
    _report(runtime, rollout, rewards, kept)
    if len(kept) == rollout.rows:
        return rewards, info
    try:
        return {name: _spread(rollout, name, values, kept) for name, values in rewards.items()}, info
    except Exception as error:  # the host needs a value a row: the stopped ones' grey images have one too
        runtime.degrade("rewards of kept rows could not be put in their places", error)
        return scorer(images, prompts, metadata, *rest, **options)


def _take(values, rows):
    return [values[row] for row in rows] if isinstance(values, (list, tuple)) else values[rows]


def _kept_of(value, kept, rows: int):
    """Of an argument that has something for each row (an edit's reference images), what the kept rows have."""
    return _take(value, kept) if _is_per_row(value, rows) else value


def _is_per_row(values, count: int) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, (str, dict)) and len(values) == count


def _report(runtime, rollout, rewards, kept) -> None:
    """Into the record, the combined reward first: it is the one that a probe learns."""
    for name in sorted(rewards, key=lambda name: name != "avg"):
        try:
            if _is_per_row(rewards[name], len(kept)):
                rollout.batch.reward(name, kept, [float(value) for value in rewards[name]])
        except Exception as error:
            runtime.degrade(f"rewards of scorer {name} are not logged", error)


def _spread(rollout, name, values, kept):
    """Values of kept rows → values of all rows: a stopped row gets its prediction ("avg") or the kept rows' mean."""
    if not _is_per_row(values, len(kept)):
        return values
    known = [float(value) for value in values]
    mean = sum(known) / len(known) if known else 0.0
    full = [mean] * rollout.rows
    if name == "avg":
        full = [mean if math.isnan(value) else float(value) for value in rollout.decision.prediction]
    for row, value in zip(kept, known):
        full[row] = value
    if hasattr(values, "new_tensor"):
        return values.new_tensor(full)
    return np.asarray(full, dtype=values.dtype) if isinstance(values, np.ndarray) else full


class EndedUpdate:
    """The update that ended last: a host may ask its tracker again about the same rows, for another scorer."""

    def __init__(self, prompts: Any, rollouts: list) -> None:
        self._prompts = np.array(prompts)
        self._blocks = [(rollout.rows, rollout.stopped()) for rollout in rollouts]
        self.told = False  # has the session been told of its end?

    @property
    def batches(self) -> int:
        return len(self._blocks)

    def kept(self) -> list[bool]:
        """Of this rank's rows, in the order in which the host has them."""
        found = []
        for rows, stopped in self._blocks:
            gone = set(stopped)
            found += [row not in gone for row in range(rows)]
        return found

    def is_of(self, prompts: Any) -> bool:
        return np.array_equal(np.asarray(prompts), self._prompts)

    def end_unmatched(self, runtime: Any) -> None:
        """Ends the session's update without the host's rows: other ranks wait for this one, and batches must end.

        No rank has so many rows as are told here, so all of them use the host's own advantages.
        """
        self.told = True
        nothing = np.full(1 + runtime.world_size * sum(rows for rows, _ in self._blocks), np.nan)
        try:
            runtime.session.end_update(np.zeros(len(nothing)), nothing, nothing, 0, True, runtime.open_batches())
        except Exception as error:
            runtime.degrade("an update was ended without the host's rows", error)

    def with_zeros(self, runtime: Any, advantages: Any) -> Any:
        """The host's own advantages, and 0 for this rank's stopped rows: its part of the rows is a block of its own."""
        if all(not stopped for _, stopped in self._blocks):
            return advantages
        result = np.array(advantages, dtype=np.float64)
        position = runtime.rank * (len(result) // runtime.world_size)
        for rows, stopped in self._blocks:
            for row in stopped:
                if position + row < len(result):
                    result[position + row] = 0.0
            position += rows
        return result


def wrap_tracker_update(runtime, update):
    """PerPromptStatTracker.update(prompts, rewards[N, T'] or [N], type) → advantages of the same shape.

    The first call after rollouts ends their update. Further calls with the same prompts ask about the same rows under
    other rewards, until the host rolls out again: some hosts call once for each scorer, with a tracker for each.
    """

    @functools.wraps(update)
    def wrapped(tracker, prompts, rewards, *args, **kwargs):
        advantages = update(tracker, prompts, rewards, *args, **kwargs)
        first = bool(runtime.open_rollouts)
        if first:
            runtime.ended_update = EndedUpdate(prompts, runtime.open_rollouts)
        elif runtime.ended_update is None or not runtime.ended_update.is_of(prompts):
            return advantages
        kind = kwargs.get("type", args[0] if args else "grpo")
        ended = runtime.ended_update
        try:
            whole = _whole_group_advantages(runtime, tracker, prompts, rewards, advantages, kind, first)
            return _without_stopped(runtime, ended, whole, samples.caller_frame(2)) if first else whole
        except Exception as error:
            runtime.degrade("advantages could not be computed over whole groups", error)
            if first and not ended.told:
                ended.end_unmatched(runtime)
            return ended.with_zeros(runtime, advantages)
        finally:
            if first:
                runtime.update_ended(prompts, rewards)

    return wrapped


def _without_stopped(runtime, ended: EndedUpdate, advantages: Any, frame: Any) -> Any:
    """The advantages, and on request the host's samples, without stopped rows, for hosts that train on every row."""
    kept = ended.kept()
    if all(kept) or samples.masks_zeros(frame) is not False:
        return advantages
    found = samples.of_frame(frame, len(kept))
    if found is None:  # not a script of the form that is known, so what it trains on is not known either
        if runtime.drops_rows:
            runtime.warn_once(
                "samples", "the script's samples were not found where it asks for advantages: stopped rows stay")
        return advantages
    if not runtime.drops_rows:
        runtime.warn_once_in_job(
            "mask", "this script trains on every row, also on those of advantage 0: stopped rows save their rollout and their "
            "reward but not their training; advantage.drop_stopped_rows takes them out of the script's samples")
        return advantages
    rows = samples.trained_rows(kept, ended.batches)
    runtime.warn_once_in_job(
        "dropped", f"stopped rows are taken out of the script's samples (advantage.drop_stopped_rows): {len(rows)} of "
        f"{len(kept)} rows of this rank train")
    samples.drop(found, rows, len(kept))
    return samples.advantages_of(advantages, rows, runtime.rank, runtime.world_size)


def _is_prunable(runtime, columns, kind: str) -> bool:
    """Can these advantages be had from kept rows, and does the host train by nothing else? Says once why not."""
    if kind != "grpo":
        runtime.warn_once(
            "kind", f"the host asks its tracker for {kind!r}, which trains on finished images by their rank or reward "
            "and not by their distance from a group's mean: nothing is pruned")
        return False
    if not np.array_equal(columns, np.repeat(columns[:, :1], columns.shape[1], 1), equal_nan=True):
        runtime.warn_once(
            "columns", "the host's rewards differ from one denoising step to the next (a KL in the reward?): nothing is "
            "pruned")
        return False
    return True


def _whole_group_advantages(runtime, tracker, prompts, rewards, advantages, kind, first):
    rewards = np.asarray(rewards, dtype=np.float64)
    host = np.asarray(advantages, dtype=np.float64)
    columns = rewards.reshape(len(rewards), -1)
    host_columns = host.reshape(len(host), -1)
    prunable = _is_prunable(runtime, columns, kind)
    groups = np.unique(np.asarray(prompts), return_inverse=True)[1].reshape(-1)
    host_std = 0 if getattr(tracker, "global_std", False) else 1
    arguments = groups, columns[:, 0], host_columns[:, 0], host_std, prunable
    if first:
        runtime.ended_update.told = True
        whole = runtime.session.end_update(*arguments, runtime.open_batches())
    else:
        whole = runtime.session.advantages_again(*arguments)
    if np.array_equal(whole, host_columns[:, 0], equal_nan=True):
        return advantages
    if not prunable:
        return runtime.ended_update.with_zeros(runtime, advantages)
    return np.broadcast_to(whole.reshape(-1, *([1] * (host.ndim - 1))), host.shape).copy()
