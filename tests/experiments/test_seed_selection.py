"""The experiment's own arithmetic, and that the committed results say what the README claims."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.seed_selection import strategies, table
from experiments.seed_selection.strategies import Look, Strategy

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "seed_selection" / "results.json"
CONFIG = {"looks": [1, 2], "forwards": [0, 2], "steps_total": 10, "seeds": 4}


def made_up(prompts=30, seeds=4, seed=0):
    random = np.random.RandomState(seed)
    rewards = random.rand(prompts, seeds)
    return {"reward": rewards, "look": np.repeat(np.repeat(rewards[:, :, None, None], 2, 2), 2, 3).copy()}


def test_row_steps_count_every_forward():
    one = Strategy((Look(2, 1),), (1,))
    assert one.row_steps(4, 10) == 4 * (3 + 1) + 7
    two = Strategy((Look(1, 2), Look(2, 2)), (2, 1))
    assert two.row_steps(4, 10) == 4 * (2 + 2) + 2 * (1 + 2) + 7


def test_a_perfect_score_has_the_whole_gain_and_a_reversed_one_none():
    made = made_up()
    best = Strategy((Look(1, 0),), (1,))
    share, (low, high) = strategies.gain_share(made["reward"], strategies.chosen_rewards(best, made, CONFIG), 200, 0)
    assert share == pytest.approx(1.0) and low == pytest.approx(1.0) and high == pytest.approx(1.0)
    made["look"] *= -1
    assert strategies.gain_share(made["reward"], strategies.chosen_rewards(best, made, CONFIG), 200, 0)[0] < 0


def test_two_finished_seeds_are_judged_by_their_reward():
    made = made_up()
    made["look"][:] = np.random.RandomState(1).rand(*made["look"].shape)
    one, two = (strategies.chosen_rewards(Strategy((Look(1, 0),), (keep,)), made, CONFIG) for keep in (1, 2))
    assert (two >= one).all() and two.mean() > one.mean()


def test_chance_of_all_seeds_is_the_best():
    rewards = made_up()["reward"]
    assert np.allclose(strategies.expected_best(rewards, 1), rewards.mean(1))
    assert np.allclose(strategies.expected_best(rewards, 4), rewards.max(1))


def test_prompts_of_choice_probe_and_judgement_are_apart():
    sets = table.prompt_sets(table.load_config(False), 1)
    everything = [prompt for some in sets.values() for prompt in some]
    assert len(set(everything)) == len(everything)
    assert len(sets["curve"]) + len(sets["rest"]) >= 200


def test_the_committed_headline_meets_its_goal():
    head = json.loads(RESULTS.read_text())["headline"]
    assert head["n_prompts"] >= 200 and head["cost_ratio"] >= 3.45 and head["gain_share"] >= 0.6
    assert head["cost_ratio_ci95"][0] <= head["cost_ratio"] <= head["cost_ratio_ci95"][1]
    assert head["gain_share_ci95"][0] <= head["gain_share"] <= head["gain_share_ci95"][1]
    assert head["largest_difference"] < 1e-4
