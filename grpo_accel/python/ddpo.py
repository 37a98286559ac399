"""TRL's DDPOTrainer (trl up to 0.23): its sampling and its rewards; stopped rows stay in its training with advantage 0.

The trainer calls `pipeline_step` with embeddings, its reward function with images, and its tracker, where it has one,
with the prompts and rewards of all ranks. What prompts a batch has only its prompt function knows, one a row. Without
`per_prompt_stat_tracking` no function sees the advantages: such a trainer is left alone.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from . import previews, rewards
from .seams import DDPO_STEP, DDPO_TRAINER

ROWS_REMEMBERED = 4096  # prompts asked for since the last batches; no batch of one rank has as many rows


class Trainer:
    """What is known of the trainer in this process; nothing is followed before one that can be was made."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._asked: deque = deque(maxlen=ROWS_REMEMBERED)  # (prompt, metadata) as the prompt function gave them
        self._follows = False

    def patch(self, module: Any) -> None:
        replace = self._runtime.replace
        if module.__name__ == DDPO_STEP:
            replace(module, "pipeline_step", self._wrap_step)
        elif module.__name__ == DDPO_TRAINER:
            replace(module.DDPOTrainer, "__init__", self._wrap_init)
        else:
            replace(module.PerPromptStatTracker, "update", self._wrap_update)

    def _wrap_init(self, init: Callable) -> Callable:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def wrapped(trainer, *args, **kwargs):
            bound = signature.bind(trainer, *args, **kwargs)
            given = bound.arguments
            self._follows = bool(given["config"].per_prompt_stat_tracking)
            if self._follows:
                given["prompt_function"] = self._remembering(given["prompt_function"])
                given["reward_function"] = self._scoring(given["reward_function"])
            else:
                self._runtime.warn_once_in_job(
                    "ddpo", "DDPOTrainer without per_prompt_stat_tracking computes advantages where nothing can set those "
                    "of stopped rows to 0: nothing is observed")
            init(*bound.args, **bound.kwargs)

        return wrapped

    def _remembering(self, ask: Callable) -> Callable:
        @functools.wraps(ask)
        def remembering():
            prompt, metadata = ask()
            self._asked.append((prompt, metadata))
            return prompt, metadata

        return remembering

    def _wrap_step(self, step: Callable) -> Callable:
        signature, followed = inspect.signature(step), self._runtime.wrap_pipeline(step)

        @functools.wraps(step)
        def wrapped(pipeline, *args, **kwargs):
            if not self._follows:
                return step(pipeline, *args, **kwargs)
            embeds = signature.bind_partial(pipeline, *args, **kwargs).arguments.get("prompt_embeds")
            batch = list(self._asked)[-len(embeds):] if embeds is not None else []
            prompt_metadata = [metadata for _, metadata in batch]  # the sampler's caller has them by this name
            self._runtime.remember_prompts([prompt for prompt, _ in batch])
            result = followed(pipeline, *args, **kwargs)
            del prompt_metadata
            return result

        return wrapped

    def _scoring(self, reward: Callable) -> Callable:
        """The trainer's reward function of kept rows only; a stopped row's reward is its prediction."""
        runtime = self._runtime

        def by_name(images, prompts, metadata, only_strict=True):
            values, info = reward(images, prompts, metadata)
            return {"avg": values}, info

        ours = previews.HostScorer(by_name, {"avg": 1.0}, None)
        runtime.scorers.append(ours)

        @functools.wraps(reward)
        def scoring(images, prompts, metadata):
            rollout = runtime.rollout_of(images)
            if rollout is None or rollout.batch is None:
                return reward(images, prompts, metadata)
            runtime.train_scorer = ours
            rewards.remember_executor(runtime)
            named, info = rewards.score_rollout(runtime, rollout, by_name, images, prompts, metadata)
            return named["avg"], info

        return scoring

    def _wrap_update(self, update: Callable) -> Callable:
        """The tracker's own advantages [N], and 0 for stopped rows."""
        runtime = self._runtime

        @functools.wraps(update)
        def wrapped(tracker, prompts, values):
            advantages = update(tracker, prompts, values)
            if not runtime.open_rollouts:
                return advantages
            ended = rewards.EndedUpdate(prompts, runtime.open_rollouts)
            groups = np.unique(np.asarray(prompts), return_inverse=True)[1].reshape(-1)
            try:
                ended.told = True
                runtime.session.end_update(
                    groups, np.asarray(values, dtype=np.float64), np.asarray(advantages, dtype=np.float64), 1, True,
                    runtime.open_batches())
            except Exception as error:
                runtime.degrade("an update could not be ended", error)
            finally:
                runtime.update_ended(prompts, values)
            return np.asarray(ended.with_zeros(runtime, advantages)).astype(np.asarray(advantages).dtype)

        return wrapped
