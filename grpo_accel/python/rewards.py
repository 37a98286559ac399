"""The host's scorer and its tracker: kept rows are scored, and advantages come from whole groups."""

from __future__ import annotations

import functools
import math
import time

import numpy as np


def wrap_multi_score(runtime, multi_score):
    """multi_score(device, weights) → scorer; the scorer that sees a rollout's images scores its kept rows only."""

    @functools.wraps(multi_score)
    def wrapped(*args, **kwargs):
        scorer = multi_score(*args, **kwargs)
        runtime.scorers.append(scorer)

        @functools.wraps(scorer)
        def score(images, prompts, metadata, *rest, **options):
            rollout = runtime.rollout_of(images)
            if rollout is None or rollout.batch is None:
                return scorer(images, prompts, metadata, *rest, **options)
            runtime.train_scorer = scorer
            return _score_rollout(runtime, rollout, scorer, images, prompts, metadata, rest, options)

        return score

    return wrapped


def _score_rollout(runtime, rollout, scorer, images, prompts, metadata, rest, options):
    started = time.perf_counter()
    kept = rollout.decision.kept if rollout.decision is not None else list(range(rollout.rows))
    if len(kept) == rollout.rows:
        rewards, info = scorer(images, prompts, metadata, *rest, **options)
    else:
        rewards, info = scorer(
            images[kept], _take(prompts, kept), _take(metadata, kept), *rest, **options
        )
    rollout.batch.seconds(2, time.perf_counter() - started)
    try:
        _report(rollout, rewards, kept)
        if len(kept) < rollout.rows:
            rewards = {name: _spread(rollout, name, values, kept) for name, values in rewards.items()}
    except Exception as error:
        runtime.degrade("rewards could not be taken over", error)
        if len(kept) < rollout.rows:  # the host needs a value a row: the stopped ones' grey images have one too
            return scorer(images, prompts, metadata, *rest, **options)
    return rewards, info


def _take(values, rows):
    return [values[row] for row in rows] if isinstance(values, (list, tuple)) else values[rows]


def _is_per_row(values, count: int) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, (str, dict)) and len(values) == count


def _report(rollout, rewards, kept) -> None:
    for name, values in rewards.items():
        if _is_per_row(values, len(kept)):
            rollout.batch.reward(name, kept, [float(value) for value in values])


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


def wrap_tracker_update(runtime, update):
    """PerPromptStatTracker.update(prompts, rewards[N, T'] or [N], type) → advantages of the same shape."""

    @functools.wraps(update)
    def wrapped(tracker, prompts, rewards, *args, **kwargs):
        advantages = update(tracker, prompts, rewards, *args, **kwargs)
        if not runtime.open_rollouts:
            return advantages
        kind = kwargs.get("type", args[0] if args else "grpo")
        try:
            return _whole_group_advantages(runtime, tracker, prompts, rewards, advantages, kind)
        except Exception as error:
            runtime.degrade("advantages could not be computed over whole groups", error)
            return advantages
        finally:
            runtime.update_ended()

    return wrapped


def _whole_group_advantages(runtime, tracker, prompts, rewards, advantages, kind):
    rewards = np.asarray(rewards, dtype=np.float64)
    host = np.asarray(advantages, dtype=np.float64)
    columns = rewards.reshape(len(rewards), -1)
    host_columns = host.reshape(len(host), -1)
    groups = np.unique(np.asarray(prompts), return_inverse=True)[1].reshape(-1)
    host_std = 0 if getattr(tracker, "global_std", False) else 1
    whole = runtime.session.end_update(groups, columns[:, 0], host_columns[:, 0], host_std)
    if np.array_equal(whole, host_columns[:, 0]):
        return advantages
    if kind != "grpo" or not (columns == columns[:, :1]).all():
        runtime.warn_once(
            "advantages",
            f"advantages of type {kind!r} or rewards that differ by timestep stay the host's own; stopped rows get 0",
        )
        return host * (whole != 0).reshape(-1, *([1] * (host.ndim - 1)))
    return np.broadcast_to(whole.reshape(-1, *([1] * (host.ndim - 1))), host.shape).copy()
