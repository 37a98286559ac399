"""Settings of flow-grpo's scripts that a decision has to live with, or that are refused with the reason."""

import numpy as np
from test_upstream_scripts import BATCHES, KEPT, ROWS, STEPS, kept_rows

import grpo_accel


def test_a_window_that_each_rank_draws(runs):
    """Noise in two steps somewhere among the first four: decided all the same, and said to be early."""
    ranks = runs("train_sd3_fast", "prune", "window", settings={"sample.sde_window_range": [0, 4]})
    assert "the decision after step 2 comes before the noise of steps 0 to 3" in ranks[0].errors
    for observed in ranks:
        assert kept_rows(observed, 1).reshape(BATCHES, ROWS).sum(axis=1).tolist() == [KEPT] * BATCHES
        assert np.isfinite(observed.updates[1]["advantages"]).all()
        assert (observed.own("advantages", 1)[~kept_rows(observed, 1)] == 0).all()


def test_one_latent_for_a_group(runs):
    """Members that start alike are alike until noise was added: nothing is stopped there, and the reason is given."""
    ranks = runs("train_sd3_fast", "preview", "same",
                 settings={"sample.same_latent": True, "sample.sde_window_range": [2, 4]})
    assert "all rows of a group are in the same state after step 2" in ranks[0].errors
    for observed in ranks:
        assert kept_rows(observed, 1).all()
        assert int(observed.updates[1]["sampled_rows"]) == BATCHES * ROWS * STEPS * 2


def test_a_reference_inside_the_rollout(runs):
    """kl_reward asks the model without its adapter in every step: refused with the reason, and the run is its own."""
    ranks = runs("train_wan2_1", "prune", "kl",
                 settings={"sample.kl_reward": 0.1, "sample.guidance_scale": 1.0, "train.cfg": False})
    assert "kl_reward asks the reference policy inside of each rollout" in ranks[0].errors
    for observed in ranks:
        assert int(observed.updates[1]["sampled_rows"]) == BATCHES * ROWS * STEPS * 2
        assert int(observed.updates[1]["scored_rows"]) == BATCHES * ROWS


def test_a_run_that_goes_on(runs):
    """A second job with the same run_dir adds to the record, with new rows and later batches."""
    before = runs("train_sd3", "prune")[0].folder / "accel"
    runs("train_sd3", "prune", "again", run_dir=before, updates=1)
    columns = grpo_accel.open_record(before)
    assert len(np.unique(columns["row_id"])) == len(columns["row_id"]) == 2 * 3 * BATCHES * ROWS
    assert np.unique(columns["batch"]).tolist() == list(range(3 * BATCHES))
    assert np.unique(columns["update"]).tolist() == [0, 1, 2]
    assert (np.diff(columns["probe_version"][np.argsort(columns["batch"], kind="stable")].astype(int)) >= 0).all()
