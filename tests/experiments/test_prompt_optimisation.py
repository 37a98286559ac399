"""The rewriter of the shapes world, the walks along wordings, and the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.prompt_optimisation import choose, intents, report
from experiments.shapes import rewriter, world

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "prompt_optimisation" / "results.json"


def test_clumsy_wordings_keep_their_meaning_and_differ():
    prompts = world.load_prompts("test")
    wordings = [rewriter.clumsy(prompt, 3) for prompt in prompts]
    assert [rewriter.meaning(wording) for wording in wordings] == prompts
    assert all(wording != prompt and rewriter.flaws(wording) for wording, prompt in zip(wordings, prompts))
    assert [rewriter.clumsy(prompt, 3) for prompt in prompts] == wordings
    assert all(not rewriter.flaws(prompt) for prompt in prompts)


def test_the_rewriter_mends_a_flaw_a_call_and_slips_as_often_as_told():
    prompts = world.load_prompts("test")
    always, never = rewriter.Rewriter(1, slip=0.0), rewriter.Rewriter(1, slip=1.0)
    for prompt in prompts:
        text = rewriter.clumsy(prompt, 5)
        assert rewriter.meaning(always(text, [text])) == rewriter.meaning(never(text, [text])) == prompt
        steps = 0
        while rewriter.flaws(text):
            text, steps = always(text, [text] * (steps + 1)), steps + 1
        assert text == prompt and 1 <= steps <= 16


def test_sets_of_intents_do_not_meet():
    config = intents.load_config(False)
    sets = intents.intent_sets(config, 1)
    assert len(set().union(*sets.values())) == sum(map(len, sets.values()))
    assert len(sets["judged"]) == config["judged_prompts"] >= 200


def test_walks_stop_where_they_should_and_take_the_best():
    reward = np.array([[[0.1, 0.3], [0.9, 0.7], [1.0, 1.0]], [[0.2, 0.2], [0.1, 0.5], [0.3, 0.1]]])
    final, cost = choose.full_walk(reward, 0.6, 10)
    assert final == pytest.approx((0.9 + 0.5) / 2) and cost == (2 + 3) / 2 * 2 * 10
    wrong = np.array([[[0.1, 0.3], [0.7, 0.9], [1.0, 1.0]], [[0.2, 0.2], [0.1, 0.0], [0.3, 0.1]]])
    final, cost = choose.early_walk(reward, wrong, 0.6, 3, 7)
    assert final == pytest.approx((0.7 + 0.3) / 2) and cost == (2 + 3) / 2 * 2 * 3 + 7
    walks = [{"reward": 0.5, "row_steps": 9}, {"reward": 0.6, "row_steps": 20}, {"reward": 0.7, "row_steps": 15}]
    assert choose.choose(walks, 0.55)["row_steps"] == 15 and choose.choose(walks, 0.9)["reward"] == 0.7


def test_shares_of_wording_and_seed():
    draw = np.random.RandomState(0)
    wording, seed = draw.normal(size=(200, 5, 1)), draw.normal(size=(200, 5, 2))
    found = choose.parts(wording + seed, wording + 0 * seed + 1e-3 * draw.normal(size=seed.shape))
    assert found["reward_share_of_wording"] == pytest.approx(0.5, abs=0.07)
    assert found["prediction_share_of_wording"] > 0.99 and abs(found["correlation_within_wordings"]) < 0.1


def test_the_overhead_is_on_the_bill():
    full = {"rewards": np.array([1.0, 0.5]), "row_steps": np.array([100.0, 100.0]), "seconds": 3.0, "denoiser_seconds": 2.0, "tries": 2}
    ours = {"rewards": np.array([1.0, 0.5]), "row_steps": np.array([30.0, 30.0]), "seconds": 0.8, "denoiser_seconds": 0.6, "tries": 2}
    row = report.row_of("lookahead", ours, full, 50)
    assert row["overhead_row_steps"] == pytest.approx(10.0) and row["cost_ratio"] == pytest.approx(200 / 80)
    assert row["gain_share"] == 1.0 and row["reward_difference_ci95"] == [0.0, 0.0]


@pytest.mark.skipif(not RESULTS.is_file(), reason="experiments/prompt_optimisation/results.json was not made yet")
def test_the_committed_results_say_what_others_read():
    results = json.loads(RESULTS.read_text())
    headline = results["headline"]
    assert headline["n_prompts"] >= 200
    for key in ("cost_ratio", "gain_share"):
        low, high = headline[f"{key}_ci95"]
        assert low <= headline[key] <= high
    assert {row["method"] for row in results["rows"]} >= {"generate-score-rewrite", "lookahead"}
    assert {"command", "seconds", "versions"} <= set(results)
