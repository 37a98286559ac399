"""TRL's DDPOTrainer in its last release: rows are stopped while it samples, and keep their place in its training."""

import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import running
from conftest import MODES, STEP
from scripts import NEWER

import grpo_accel

STEPS, ROWS, BATCHES, EPOCHS, BRANCHES = 5, 8, 2, 2, 2  # of trl_job.py
KEPT = ROWS // 2
HOST = SimpleNamespace(name="trl", model="sd15", environment=NEWER)


def reason_to_skip():
    if not running.python(HOST).is_file() or not running.program(HOST).is_file():
        return f"no {NEWER}: run scripts/setup_upstream --newer"
    look = "import importlib.util as u; raise SystemExit(u.find_spec('trl') is None)"
    found = subprocess.run([running.python(HOST), "-c", look], check=False)
    return f"trl is not installed in {NEWER}" if found.returncode else None


pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


@pytest.fixture(scope="module")
def job(folders):
    """job(mode): what trl_job.py saw, and its standard error; mode None: without grpo-accel."""

    def run(mode=None):
        out = folders / f"trl-{mode or 'alone'}"
        if not (out / "seen.npz").is_file():
            model = folders / "model-sd15"
            if not (model / "model_index.json").is_file():
                running.write_model(HOST, model)
            shutil.rmtree(out, ignore_errors=True)  # of a run that was broken off
            out.mkdir()
            command = [str(running.python(HOST))]
            if mode is not None:
                (out / "accel.yaml").write_text(MODES[mode].format(run_dir=out / "accel"))
                command = [str(running.program(HOST)), "run", "--config", str(out / "accel.yaml"), "--"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true",
                           "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
            done = subprocess.run(
                [*command, str(running.HERE / "trl_job.py"), str(model), str(out)], env=environment, cwd=out,
                capture_output=True, text=True, timeout=running.PATIENCE)
            (out / "stderr").write_text(done.stderr)
            assert done.returncode == 0, done.stderr[-4000:]
        return np.load(out / "seen.npz"), (out / "stderr").read_text()

    return run


def test_rows_are_stopped_while_it_samples(job):
    seen, errors = job("prune")
    full = BATCHES * ROWS * STEPS * BRANCHES
    pruned = BATCHES * BRANCHES * (ROWS * (STEP + 1) + KEPT * (STEPS - STEP - 1))
    assert seen["sampled"].tolist() == [full, pruned]
    assert seen["scored"].tolist() == [2 * BATCHES * ROWS, BATCHES * (ROWS + KEPT)]  # previews of all, images of kept
    assert "could not" not in errors


def test_stopped_rows_train_with_advantage_0(job):
    seen, alone = job("prune")[0], job()[0]
    assert (seen["advantages"] == 0).sum(axis=1).tolist() == [0, BATCHES * (ROWS - KEPT)]
    assert seen["trained"].tolist() == alone["trained"].tolist()
    assert np.isfinite(seen["advantages"]).all() and np.isfinite(seen["weights"]).all()


def test_kept_rows_are_those_of_a_run_without_grpo_accel(job):
    seen, alone = job("prune")[0], job()[0]
    np.testing.assert_array_equal(seen["advantages"][0], alone["advantages"][0])
    np.testing.assert_array_equal(seen["latents"][0], alone["latents"][0])
    kept = seen["advantages"][1] != 0  # the trainer shuffles rows and steps, in both runs alike
    # convolutions of 8 rows and of 16 differ by rounding: 8e-6 of values up to 40 was measured
    np.testing.assert_allclose(seen["latents"][1][kept], alone["latents"][1][kept], rtol=1e-5, atol=1e-4)


def test_the_record_knows_its_prompts(job, folders):
    job("prune")
    columns = grpo_accel.open_record(folders / "trl-prune" / "accel")
    assert len(columns["kept"]) == EPOCHS * BATCHES * ROWS
    assert len(np.unique(columns["prompt_hash"], axis=0)) == 2
    assert len(np.unique(columns["group"])) == 2 * EPOCHS * BATCHES
