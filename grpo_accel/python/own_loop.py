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

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
        result = type(self._pipeline).__call__(self.pipeline, **{"prompt": list(self._prompts), **arguments})
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


def host_scorer(score: Callable[..., Any]) -> previews.HostScorer:
    """A scorer of previews from `score(images [n, 3, H, W] in 0…1, prompts)`, which returns one number a row."""

    def function(images: Any, prompts: Any, metadata: Any, only_strict: bool = True) -> tuple[dict, dict]:
        return {"avg": [float(value) for value in score(images, prompts)]}, {}

    return previews.HostScorer(function, {"avg": 1.0}, None)


def gathered(runtime: Any, own: Any) -> list:
    """`own` of every rank, in the order of ranks. Collective."""
    if runtime.world_size == 1:
        return [own]
    import torch.distributed as distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise RuntimeError(
            f"{runtime.world_size} ranks and no torch.distributed process group: give advantages() the rows of all ranks")
    parts = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    return parts


def advantages(runtime: Any, prompts: Sequence[str], rewards: Sequence[float], std: str) -> np.ndarray:
    """See `Runtime.advantages`."""
    if std not in ("global", "group"):
        raise ValueError(f"std is 'global' or 'group', not {std!r}")
    parts = gathered(runtime, (list(prompts), [float(value) for value in rewards]))
    everyone = [prompt for part, _ in parts for prompt in part]
    values = np.array([value for _, part in parts for value in part], dtype=np.float64)
    groups = np.unique(np.asarray(everyone), return_inverse=True)[1].reshape(-1)
    guessed = np.where(np.isnan(values), _predicted(runtime, parts, values), values)
    whole = runtime.session.end_update(
        groups, guessed, _plain(groups, guessed, std), 0 if std == "global" else 1, True, runtime.open_batches())
    runtime.update_ended(everyone, guessed)
    first = sum(len(part) for part, _ in parts[: runtime.rank])
    return whole[first: first + len(prompts)]


def plain_advantages(runtime: Any, prompts: Sequence[str], rewards: Sequence[float], std: str) -> np.ndarray:
    """The same where nothing is attached and nothing is stopped."""
    _, groups = np.unique(np.asarray(list(prompts)), return_inverse=True)
    return _plain(groups.reshape(-1), np.array(rewards, dtype=np.float64), std)


def _predicted(runtime: Any, parts: list, values: np.ndarray) -> np.ndarray:
    """What stands in for the rewards of stopped rows: this rank's predictions, elsewhere the mean of what is known."""
    known = values[~np.isnan(values)]
    guess = np.full(len(values), known.mean() if len(known) else 0.0)
    own = [np.asarray(rollout.decision.prediction if rollout.decision is not None else [math.nan] * rollout.rows)
           for rollout in runtime.open_rollouts]
    if own:
        first = sum(len(part) for part, _ in parts[: runtime.rank])
        predicted = np.concatenate(own)
        place = slice(first, first + len(predicted))
        guess[place] = np.where(np.isnan(predicted), guess[place], predicted)
    return guess


def _plain(groups: np.ndarray, rewards: np.ndarray, std: str) -> np.ndarray:
    """Reward less its group's mean, divided as flow-grpo does."""
    result = np.zeros(len(rewards))
    for group in np.unique(groups):
        rows = groups == group
        spread = rewards.std() if std == "global" else rewards[rows].std()
        result[rows] = (rewards[rows] - rewards[rows].mean()) / (spread + 1e-4)
    return result
