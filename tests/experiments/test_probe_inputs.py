"""The experiment's own statistics, schedules and list of probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr

from experiments.probe_inputs import joining, judge, probes, samplers

CONFIG = Path(samplers.__file__).parent / "config.yaml"


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(CONFIG.read_text())


def test_spearman_by_group_is_that_of_scipy():
    random = np.random.RandomState(3)
    score = random.randint(0, 6, size=(5, 16)).astype(float)  # with ties
    reward = score + random.randn(5, 16)
    found = judge.spearman_by_group(score.ravel(), reward.ravel(), 16)
    np.testing.assert_allclose(found, [spearmanr(a, b)[0] for a, b in zip(score, reward)], atol=1e-12)


def test_a_constant_score_orders_nothing_and_equal_rewards_are_left_out():
    score, reward = np.zeros(32), np.concatenate([np.arange(16.0), np.ones(16)])
    found = judge.spearman_by_group(score, reward, 16)
    assert found[0] == 0.0 and np.isnan(found[1])
    assert judge.interval(found, 100, 0)[0] == 0.0


def test_auc_counts_pairs():
    random = np.random.RandomState(4)
    score, positive = random.randint(0, 5, 60).astype(float), random.rand(60) < 0.3
    wins = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert judge.auc(score, positive) == pytest.approx(np.mean(wins))


def test_a_difference_is_paired_over_groups():
    random = np.random.RandomState(5)
    reward = random.randn(320)
    noise = random.randn(320)
    better, worse = reward + 0.5 * noise, reward + 1.5 * noise
    found = judge.difference(better, worse, reward, 16, 500, 0)
    assert found["difference"] > 0.1 and found["ci95"][0] > 0.0
    assert judge.difference(better, better, reward, 16, 500, 0) == {"difference": 0.0, "ci95": [0.0, 0.0]}


def test_schedules(config):
    by_name = {sampler.name: sampler for sampler in samplers.load(config)}
    plain, shifted = by_name["window_t10"].sigmas(), by_name["shift3_t10"].sigmas()
    assert plain == pytest.approx([1.0 - step / 10 for step in range(11)])
    assert shifted[0] == 1.0 and shifted[-1] == 0.0 and shifted[5] == pytest.approx(3 * 0.5 / 2)
    assert [by_name["window_t10"].noise_of(step) for step in range(4)] == [0.0, 0.7, 0.7, 0.0]


def test_every_probe_has_a_name_of_its_own_and_names_what_it_learns(config, tmp_path):
    wanted = probes.wanted(tmp_path, config)
    assert len({probe.name for probe in wanted}) == len(wanted)
    assert len({probe.predictions for probe in wanted}) == len(wanted)
    names = {probe.name for probe in wanted}
    assert all(probe.same_as is None or probe.same_as in names for probe in wanted)
    own = [s for s in config["samplers"] if "trained_on" not in s]
    assert all(f"{s['name']}@{step}/joined" in names for s in own for step in s["looks"])


def test_a_join_is_judged_on_prompts_that_it_was_not_fitted_on():
    draws = np.random.default_rng(3)
    seen, hidden = draws.normal(size=(2, 60 * 8))
    level = np.repeat(draws.normal(size=60) * 5, 8)
    reward = seen + hidden + level
    both = joining.joined([seen, hidden + level], reward, 8)
    assert np.corrcoef(both, joining.centred(seen + hidden, 8))[0, 1] > 0.999
    noise = draws.normal(size=(6, 60 * 8))
    spoiled = joining.joined([seen, *noise], reward, 8)
    assert judge.difference(spoiled, seen, reward, 8, 200, 1)["difference"] < 0.03
