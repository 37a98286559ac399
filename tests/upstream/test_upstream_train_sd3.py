"""flow-grpo's own scripts, unmodified, on the shapes world: by themselves and launched by grpo-accel.

Needs a flow-grpo checkout in FLOW_GRPO_DIR and the environment that scripts/setup_upstream makes. The model
is UPSTREAM_MODEL, else the trained shapes model, else an untrained one made on the spot.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import running  # noqa: E402

STEPS, ROWS, BATCHES, GUIDANCE_BRANCHES = 6, 6, 2, 2
EVALUATION_ROWS = 2 * 2 * GUIDANCE_BRANCHES  # two prompts a rank, two steps, before the first update
FULL_ROWS = BATCHES * ROWS * STEPS * GUIDANCE_BRANCHES
TRAINED_STEPS = {"train_sd3": int(STEPS * 0.99), "train_sd3_fast": 2}

ACCEL = {
    "off": "version: 1\nmode: off\n",
    "shadow": "version: 1\nmode: shadow\nrun_dir: {out}/accel\ndecision: {{step: 2, keep: 0.5}}\n",
    # Without a probe only chance can choose; what is tested here is the seam, not the choice.
    "prune": "version: 1\nmode: prune\nrun_dir: {out}/accel\n"
    "decision: {{step: 2, keep: 0.5, policy: random}}\n",
}


def reason_to_skip():
    if running.checkout() is None:
        return "FLOW_GRPO_DIR names no flow-grpo checkout"
    if not (running.checkout() / "scripts" / "train_sd3.py").is_file():
        return f"FLOW_GRPO_DIR={running.checkout()} has no scripts/train_sd3.py"
    if not (running.VENV / ".installed").is_file():
        return "no .venv-upstream: run scripts/setup_upstream"
    if shutil.which("mpirun") is None:
        return "mpirun is not installed"
    return None


pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
needs_accel = pytest.mark.skipif(
    not (running.VENV / "bin" / "grpo-accel").is_file(), reason="grpo-accel is not installed in .venv-upstream"
)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    trained = running.ROOT / "experiments" / "shapes" / "models" / "sd3"
    if "UPSTREAM_MODEL" in os.environ:
        return Path(os.environ["UPSTREAM_MODEL"])
    if (trained / "model_index.json").is_file():
        return trained
    folder = tmp_path_factory.mktemp("model") / "sd3"
    command = [sys.executable, "-m", "experiments.shapes.build", "--untrained", "--out", str(folder)]
    subprocess.run(command, cwd=running.ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def runs(model, tmp_path_factory):
    """``runs(script, mode)``: the ranks' ``Observed``; each combination is run once a session."""
    done = {}

    def get(script, mode=None):
        if (script, mode) not in done:
            out = tmp_path_factory.mktemp(f"{script}-{mode}")
            accel = None
            if mode:
                accel = out / "accel.yaml"
                accel.write_text(ACCEL[mode].format(out=out))
            done[script, mode] = running.run(script, model, out, accel)
        return done[script, mode]

    return get


def assert_same(one, other):
    """Two runs did the same, bit for bit."""
    for mine, yours in zip(one, other, strict=True):
        assert mine.weights == yours.weights
        assert mine.trained_rows == yours.trained_rows
        for update, expected in zip(mine.updates, yours.updates, strict=True):
            assert update.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(update[name], values, err_msg=name)


@pytest.mark.parametrize("script", ["train_sd3", "train_sd3_fast"])
def test_alone(runs, script):
    """What the other tests compare with: all rows are sampled, and those with an advantage are trained."""
    ranks = runs(script)
    assert ranks[0].weights == ranks[1].weights
    for rank, observed in enumerate(ranks):
        assert [int(u["sampled_rows"]) for u in observed.updates] == [FULL_ROWS + EVALUATION_ROWS, FULL_ROWS]
        for update, first, trained in zip(observed.updates, ranks[0].updates, observed.trained_rows):
            np.testing.assert_array_equal(update["advantages"], first["advantages"])
            mine = update["advantages"].reshape(2, BATCHES * ROWS, -1)[rank]
            rows = np.count_nonzero(np.abs(mine).sum(axis=1))
            assert trained == (rows + -rows % BATCHES) * TRAINED_STEPS[script] * GUIDANCE_BRANCHES


@needs_accel
def test_off_is_not_installed(runs):
    assert_same(runs("train_sd3", "off"), runs("train_sd3"))


@needs_accel
def test_shadow_changes_nothing_that_is_trained(runs):
    for watched, alone in zip(runs("train_sd3", "shadow"), runs("train_sd3"), strict=True):
        assert watched.weights == alone.weights
        for update, expected in zip(watched.updates, alone.updates, strict=True):
            np.testing.assert_array_equal(update["advantages"], expected["advantages"])


@needs_accel
@pytest.mark.parametrize("script", ["train_sd3", "train_sd3_fast"])
def test_half_the_rows_are_stopped(runs, script):
    """From the second update on: after two steps, and the velocity of the third, 3 of each rank's 6 rows go on."""
    ranks = runs(script, "prune")
    assert ranks[0].weights == ranks[1].weights
    kept = ROWS // 2
    sampled = BATCHES * GUIDANCE_BRANCHES * (ROWS * 3 + kept * (STEPS - 3))
    for rank, observed in enumerate(ranks):
        whole = BATCHES * GUIDANCE_BRANCHES * ROWS * STEPS
        assert [int(u["sampled_rows"]) for u in observed.updates] == [whole + EVALUATION_ROWS, sampled]
        for update, trained in list(zip(observed.updates, observed.trained_rows))[1:]:
            mine = update["advantages"].reshape(2, BATCHES * ROWS, -1)[rank]
            rows = np.count_nonzero(np.abs(mine).sum(axis=1))
            assert np.isfinite(update["advantages"]).all() and np.isfinite(update["reward_avg"]).all()
            assert rows <= BATCHES * kept
            assert trained <= BATCHES * kept * TRAINED_STEPS[script] * GUIDANCE_BRANCHES
