"""flow-grpo's own scripts, unmodified: by themselves and launched by grpo-accel.

Needs a flow-grpo checkout in FLOW_GRPO_DIR and the environments that scripts/setup_upstream makes.
"""

import numpy as np
import pytest
from config import STEPS
from conftest import STEP
from running import RANKS
from scripts import NEWER, SCRIPTS

import grpo_accel

ROWS, BATCHES, KEPT = 8, 2, 4
every_script = pytest.mark.parametrize("script", list(SCRIPTS.values()), ids=list(SCRIPTS))


def evaluated_rows(script):
    """Through the transformer before the first update: two prompts a rank, two steps."""
    return 2 * 2 * script.branches if script.evaluates else 0


def rows_with_advantage(observed, update):
    return np.abs(observed.own("advantages", update)).sum(axis=1) != 0


def trained(script, rows):
    """Rows through the transformer with gradients for that many rows that train."""
    return rows * script.trained_steps * script.trained_branches


def assert_same(one, other, names=("advantages", "latents", "reward_avg", "prompts", "sampled_rows", "scored_rows")):
    """Two runs did the same, bit for bit."""
    for mine, yours in zip(one, other, strict=True):
        assert mine.weights == yours.weights
        assert mine.trained_rows == yours.trained_rows
        for update, expected in zip(mine.updates, yours.updates, strict=True):
            for name in names:
                np.testing.assert_array_equal(update[name], expected[name], err_msg=name)


def kept_rows(observed, update):
    """bool [rows]: which of the rank's rows went on, as the record has it, in the host's order."""
    columns = grpo_accel.open_record(observed.folder / "accel")
    mine = (columns["rank"] == observed.rank) & (columns["batch"] // BATCHES == update)
    order = np.lexsort((columns["index"][mine], columns["batch"][mine]))
    return columns["kept"][mine][order].astype(bool)


@every_script
def test_alone(runs, script):
    """What the other tests compare with: all rows are sampled and scored, and train where the script has no mask."""
    for observed in runs(script.name):
        full = BATCHES * ROWS * STEPS * script.branches
        assert [int(u["sampled_rows"]) for u in observed.updates] == [full + evaluated_rows(script), full]
        for update, count in enumerate(observed.trained_rows):
            rows = np.count_nonzero(rows_with_advantage(observed, update)) if script.mask else BATCHES * ROWS
            assert count == trained(script, rows + -rows % BATCHES)


@every_script
def test_off_is_not_installed(runs, script):
    assert_same(runs(script.name, "off"), runs(script.name))


def test_shadow_changes_nothing_that_is_trained(runs):
    assert_same(runs("train_sd3", "shadow"), runs("train_sd3"), ("advantages", "latents", "reward_avg"))


@every_script
def test_half_the_rows_are_stopped(runs, script):
    """From the second update on: after two steps, and the velocity of the third, 4 of each rank's 8 rows go on."""
    ranks = runs(script.name, "prune")
    full = BATCHES * ROWS * STEPS * script.branches
    pruned = BATCHES * script.branches * (ROWS * (STEP + 1) + KEPT * (STEPS - STEP - 1))
    for observed in ranks:
        assert [int(u["sampled_rows"]) for u in observed.updates] == [full + evaluated_rows(script), pruned]
        assert int(observed.updates[1]["scored_rows"]) == BATCHES * (ROWS + KEPT)  # previews of all, images of kept
        assert kept_rows(observed, 0).all()
        kept = kept_rows(observed, 1)
        # every rank keeps as many of every batch: no rank can be left with nothing
        assert kept.reshape(BATCHES, ROWS).sum(axis=1).tolist() == [KEPT] * BATCHES
        assert not rows_with_advantage(observed, 1)[~kept].any()
        assert rows_with_advantage(observed, 1).any()
        for name in ("advantages", "reward_avg", "latents"):
            assert np.isfinite(observed.updates[1][name]).all()


@every_script
def test_training_shrinks_where_the_script_has_a_mask(runs, script):
    """Micro-batches of kept rows only, as many as before; without a mask a warning says that nothing is saved."""
    ranks = runs(script.name, "prune")
    for observed in ranks:
        rows = np.count_nonzero(rows_with_advantage(observed, 1))
        assert rows <= BATCHES * KEPT
        assert observed.trained_rows[1] == trained(script, rows + -rows % BATCHES if script.mask else BATCHES * ROWS)
    warned = "this script trains on every row" in ranks[0].errors
    assert warned is not script.mask


@every_script
def test_kept_rows_are_those_of_a_run_without_grpo_accel(runs, differs, script):
    """Latents and rewards of kept rows, from the same weights; bit for bit where this machine's kernels allow it."""
    for observed, alone in zip(runs(script.name, "prune"), runs(script.name), strict=True):
        first, expected = observed.updates[0], alone.updates[0]
        for name in ("advantages", "latents", "reward_avg"):
            np.testing.assert_array_equal(first[name], expected[name], err_msg=name)
        assert observed.trained_rows[0] == alone.trained_rows[0]
        kept = kept_rows(observed, 1)
        mine, other = observed.updates[1], alone.updates[1]
        np.testing.assert_array_equal(mine["prompts"], other["prompts"])
        allowed = differs(script)
        np.testing.assert_allclose(mine["latents"][kept], other["latents"][kept], rtol=0, atol=allowed)
        rewards = observed.own("reward_avg", 1)[kept], alone.own("reward_avg", 1)[kept]
        np.testing.assert_allclose(*rewards, rtol=0, atol=10 * allowed)


@every_script
def test_groups_are_of_a_batch(runs, script):
    """Read-ahead makes the first batches repeat their prompts: such a prompt's rows are decided batch by batch."""
    prompts = runs(script.name, "prune")[0].updates[0]["prompts"]
    columns = grpo_accel.open_record(runs(script.name, "prune")[0].folder / "accel")
    first = columns["batch"] < BATCHES
    distinct, members = np.unique(prompts, return_counts=True)
    assert members.tolist() == [4 * (BATCHES if script.repeats else 1)] * len(distinct)
    assert len(np.unique(columns["group"][first])) == BATCHES * RANKS * ROWS // 4


@every_script
def test_ranks_agree(runs, script):
    """All ranks end with the same weights; under FSDP each has a share of its own."""
    ranks = runs(script.name, "prune")
    sharded = script.environment == NEWER and not script.mask
    assert len({observed.weights for observed in ranks}) == (RANKS if sharded else 1)
    for observed in ranks[1:]:
        np.testing.assert_array_equal(observed.updates[1]["advantages"], ranks[0].updates[1]["advantages"])
