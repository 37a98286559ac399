"""Loops of one's own: rollouts, rewards and advantages by hand, with no function of flow-grpo in between.

    with grpo_accel.attach("accel.yaml", scorer=score) as accel:
        for update in range(updates):
            prompts, rewards = [], []
            for batch in batches:                                   # each prompt as often as its group has members
                with accel.rollout(pipe, batch) as rollout:
                    images = my_sampler(rollout.pipeline, batch)    # or rollout.sample(num_inference_steps=28)
                scores = score([images[row] for row in rollout.kept], [batch[row] for row in rollout.kept])
                prompts += batch
                rewards += rollout.rewards(scores)
            advantages = accel.advantages(prompts, rewards)         # exactly 0 for stopped rows: leave them out
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from . import previews
from .proxy import PipelineProxy
from .rollout import Rollout
from .seams import images_of


class OwnRollout:
    """One batch of rollouts of a loop of one's own, a context manager around its sampling.

    `pipeline` stands in for the one that was given while the batch is sampled: rows that are stopped are not denoised
    and not decoded, and what comes back still has a row (grey) for each of them. `kept`: rows that went on to the end.
    """

    def __init__(self, runtime: Any, rollout: Rollout | None, pipeline: Any, prompts: list[str]):
        self._runtime = runtime
        self._rollout = rollout  # None: this batch runs as if nothing were attached
        self._pipeline = pipeline
        self._prompts = prompts
        self._images = None
        self.pipeline = PipelineProxy(pipeline, rollout) if rollout is not None else pipeline

    def __enter__(self) -> OwnRollout:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._rollout is None:
            return
        if kind is not None:
            self._runtime.forget(self._rollout)
            self._rollout = None
        else:
            self._runtime.finish(self._rollout, self._images)

    def sample(self, **arguments: Any) -> Any:
        """The pipeline's own `__call__` for the batch's prompts, as `pipeline(prompt=prompts, …)` would return it."""
        arguments = {"prompt": list(self._prompts), **arguments}
        call = type(self._pipeline).__call__
        if self._rollout is not None:
            self._rollout.arguments = {**arguments_by_name(call, arguments), **self._rollout.arguments}
            self._runtime.learn_text_length(self._rollout.arguments)
        result = call(self.pipeline, **arguments)
        self._images = images_of(result)
        return result

    @property
    def kept(self) -> list[int]:
        return self._rollout.kept() if self._rollout is not None else list(range(len(self._prompts)))

    @property
    def prediction(self) -> np.ndarray:
        """float32 [rows], the newest predicted reward of each row; NaN where there is none."""
        decision = self._rollout.decision if self._rollout is not None else None
        if decision is None:
            return np.full(len(self._prompts), np.nan, dtype=np.float32)
        return np.asarray(decision.prediction, dtype=np.float32)

    def rewards(self, values: Sequence[float], scorer: str = "avg") -> list[float]:
        """Takes the rewards of the kept rows, in their order; returns one a row of the batch, NaN for stopped rows.

        "avg" is the combined reward, which the probe learns; call again with other names for parts of it.
        """
        kept = self.kept
        if len(values) != len(kept):
            raise ValueError(f"{len(values)} rewards for {len(kept)} kept rows")
        values = [float(value) for value in values]
        if self._rollout is not None and self._rollout.batch is not None:
            self._rollout.batch.reward(scorer, kept, values)
        every = [math.nan] * len(self._prompts)
        for row, value in zip(kept, values):
            every[row] = value
        return every


def arguments_by_name(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """What the function is called with, its defaults included."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty} | given


def host_scorer(score: Callable[..., Any]) -> previews.HostScorer:
    """A scorer of previews from `score(images [n, 3, H, W] in 0…1, prompts)`, which returns one number a row."""

    def function(images: Any, prompts: Any, metadata: Any, only_strict: bool = True) -> tuple[dict, dict]:
        return {"avg": [float(value) for value in score(images, prompts)]}, {}

    return previews.HostScorer(function, {"avg": 1.0}, None)


def gathered(own: Any, ranks: int) -> list:
    """`own` of each of the ranks, in their order. Collective."""
    if ranks == 1:
        return [own]
    if not _has_process_group():
        raise RuntimeError(
            f"{ranks} ranks and no torch.distributed process group: make one before the first call of advantages()")
    parts = [None] * ranks
    torch.distributed.all_gather_object(parts, own)
    return parts


def advantages(runtime: Any, prompts: Sequence[str], rewards: Sequence[float], std: str) -> np.ndarray:
    """See `Runtime.advantages`."""
    if not runtime.open_rollouts:
        return plain_advantages(prompts, rewards, std)
    own, expected = _checked(prompts, rewards, std), sum(rollout.rows for rollout in runtime.open_rollouts)
    if len(own) != expected:
        raise ValueError(f"{len(own)} rewards for the {expected} rows that were rolled out since the last advantages()")
    parts = gathered((list(prompts), own, _with_predictions(runtime, own)), runtime.world_size)
    everyone, groups = _groups_of(parts)
    values, guessed = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    known = values[~np.isnan(values)]
    guessed = np.where(np.isnan(guessed), known.mean() if len(known) else 0.0, guessed)
    plain = _plain(groups, guessed, std)
    try:
        whole = runtime.session.end_update(
            groups, guessed, plain, 0 if std == "global" else 1, True, runtime.open_batches())
    except Exception as error:
        runtime.degrade("advantages could not be computed over whole groups", error)
        whole = np.where(np.isnan(values), 0.0, plain)
    runtime.update_ended(everyone, guessed)
    return whole[_place_of(parts, runtime.rank)]


def plain_advantages(prompts: Sequence[str], rewards: Sequence[float], std: str) -> np.ndarray:
    """The same where nothing is attached and nothing is stopped."""
    own = _checked(prompts, rewards, std)
    group = _has_process_group()
    parts = gathered((list(prompts), own), torch.distributed.get_world_size() if group else 1)
    _, groups = _groups_of(parts)
    whole = _plain(groups, np.concatenate([part[1] for part in parts]), std)
    return whole[_place_of(parts, torch.distributed.get_rank() if group else 0)]


def _has_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _checked(prompts: Sequence[str], rewards: Sequence[float], std: str) -> np.ndarray:
    """The rewards as float64 [rows]."""
    if std not in ("global", "group"):
        raise ValueError(f"std is 'global' or 'group', not {std!r}")
    if len(rewards) != len(prompts):
        raise ValueError(f"{len(rewards)} rewards for {len(prompts)} prompts")
    return np.array([float(value) for value in rewards], dtype=np.float64)


def _groups_of(parts: list) -> tuple[list[str], np.ndarray]:
    """(prompts of all ranks, the number of each row's group)."""
    everyone = [prompt for part in parts for prompt in part[0]]
    return everyone, np.unique(np.asarray(everyone), return_inverse=True)[1].reshape(-1)


def _place_of(parts: list, rank: int) -> slice:
    first = sum(len(part[0]) for part in parts[:rank])
    return slice(first, first + len(parts[rank][0]))


def _with_predictions(runtime: Any, values: np.ndarray) -> np.ndarray:
    """This rank's rewards, with the predictions of stopped rows in their place; NaN where there is none."""
    none = [math.nan]
    predicted = np.concatenate([
        np.asarray(rollout.decision.prediction if rollout.decision is not None else none * rollout.rows, np.float64)
        for rollout in runtime.open_rollouts])
    return np.where(np.isnan(values), predicted, values)


def _plain(groups: np.ndarray, rewards: np.ndarray, std: str) -> np.ndarray:
    """Reward less its group's mean, divided as flow-grpo does."""
    result = np.zeros(len(rewards))
    for group in np.unique(groups):
        rows = groups == group
        spread = rewards.std() if std == "global" else rewards[rows].std()
        result[rows] = (rewards[rows] - rewards[rows].mean()) / (spread + 1e-4)
    return result
