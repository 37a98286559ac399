"""What a way of choosing seeds would have gained and cost, from the table of scores and rewards."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Look:
    step: int
    forwards: int  # 0: x0 preview


@dataclass(frozen=True)
class Strategy:
    """`looks` in order; keep[i] seeds go on after looks[i]; those that finish are scored and the best is taken."""

    looks: tuple[Look, ...]
    keep: tuple[int, ...]

    @property
    def guesses(self) -> list[int]:
        """Rows that each look guesses, of the first `n`."""
        return list(self.keep[:-1])

    def row_steps(self, n: int, steps_total: int) -> float:
        rows = [n, *self.keep]
        done, total = 0, 0.0
        for running, look in zip(rows, self.looks):
            total += running * (look.step + 1 - done + look.forwards)
            done = look.step + 1
        return total + rows[-1] * (steps_total - done)

    def name(self) -> str:
        steps, keep = [look.step for look in self.looks], list(self.keep)
        return f"after {', '.join(map(str, steps))} keep {', '.join(map(str, keep))}"


def all_strategies(config: dict, n: int) -> list[Strategy]:
    """One look, or two of the same kind (a session has one look-ahead), and one or two rows to the end."""
    steps, found = config["looks"], []
    for forwards, last in itertools.product(config["forwards"], (1, 2)):
        found += [Strategy((Look(step, forwards),), (last,)) for step in steps]
        for first, second in itertools.combinations(steps, 2):
            looks = (Look(first, forwards), Look(second, forwards))
            found += [Strategy(looks, (middle, last)) for middle in range(last + 1, n // 2 + 1)]
    return found


def chosen_rewards(strategy: Strategy, table: dict, config: dict) -> np.ndarray:
    """[prompts] reward of the best of what finished; ties go to the earlier seed."""
    rewards = table["reward"]
    running = np.tile(np.arange(rewards.shape[1]), (len(rewards), 1))
    for look, keep in zip(strategy.looks, strategy.keep):
        scores = table["look"][:, :, config["looks"].index(look.step), config["forwards"].index(look.forwards)]
        order = np.argsort(-np.take_along_axis(scores, running, 1), axis=1, kind="stable")[:, :keep]
        running = np.take_along_axis(running, order, 1)
    return np.take_along_axis(rewards, running, 1).max(1)


def gain_share(rewards: np.ndarray, chosen: np.ndarray, resamples: int, seed: int) -> tuple[float, list[float]]:
    """Share of the gain of the best seed over the mean one, and its 95 % interval over prompts."""
    gained, best = chosen - rewards.mean(1), rewards.max(1) - rewards.mean(1)
    draws = np.random.RandomState(seed).randint(0, len(rewards), (resamples, len(rewards)))
    draws = draws[best[draws].sum(1) > 0]  # of very few prompts a draw may have nothing to gain
    shares = gained[draws].sum(1) / best[draws].sum(1)
    return float(gained.sum() / best.sum()), [float(value) for value in np.quantile(shares, [0.025, 0.975])]


def expected_best(rewards: np.ndarray, count: int) -> np.ndarray:
    """[prompts] mean over all sets of `count` seeds of the best of the set: full best-of-count."""
    sets = list(itertools.combinations(range(rewards.shape[1]), count))
    return np.mean([rewards[:, list(some)].max(1) for some in sets], axis=0)
