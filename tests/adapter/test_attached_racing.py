"""Whole jobs under mpirun with several decisions in a batch, with candidates, and with mode auto."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "accelerate", "peft", "absl", "ml_collections", "safetensors", "h5py"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import mini_flow_grpo  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

pytestmark = [
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed"),
    pytest.mark.skipif(not attached.COMMAND.exists(), reason="grpo-accel is not installed beside this Python"),
]
RACING = "{step: [2, 3], keep: [0.75, 0.5], policy: random, audit: 0.0}"
CHEAP = "{inputs: [attention, x0, preview]}"
JOB = ("--config.sample.num_steps=5", "--config.eval_freq=0")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")


def read(folder):
    import grpo_accel

    verify = subprocess.run([attached.COMMAND, "verify", str(folder), "--quiet"], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stdout + verify.stderr
    return grpo_accel.open_record(folder)


def test_two_decisions_stop_a_quarter_and_then_another(model, tmp_path):
    config = attached.write_config(tmp_path / "accel.yaml", mode="prune", decision=RACING, probe=CHEAP)
    process, lines = attached.run(tmp_path / "out", config, model, *JOB)
    assert process.returncode == 0, process.stderr[-3000:]
    assert attached.warnings(process) == []
    # Of 16 rows and 5 steps, the third is still whole; the fourth has three quarters of them and the last one half.
    assert lines[0]["transformer_rows"]["sampled"] == 16 * 5
    assert lines[1]["transformer_rows"]["sampled"] == 16 * 3 + 12 + 8
    assert lines[1]["rows_trained"] == 8
    record = read(tmp_path / "out")
    second = record["update"] == 1
    assert record["features/x0"].shape[1] == record["prediction"].shape[1] == 2, "a column a candidate"
    seen = np.isfinite(record["features/x0"].astype(np.float32)).all(axis=(2, 3, 4))
    assert seen[:, 0].all() and seen[~second, 1].all()
    for rank in (0, 1):
        for batch in np.unique(record["batch"][second]):
            mine = (record["rank"] == rank) & (record["batch"] == batch)
            assert (mine.sum(), seen[mine, 1].sum(), record["kept"][mine].sum()) == (4, 3, 2)
    kept = record["kept"] == 1
    assert seen[kept, 1].all(), "who is kept was there at the second look"
    # π multiply: ¾ at the first decision, and two of three at the second one, which a row stopped before never met.
    wanted = np.where(second, np.where(seen[:, 1], 0.75 * 2 / 3, 0.75), 1.0)
    assert np.allclose(record["inclusion"], wanted)
    assert set(record["step"][second & seen[:, 1]].tolist()) == {3}
    assert set(record["step"][second & ~seen[:, 1]].tolist()) == {2}
    assert (record["advantage"][~kept] == 0).all() and (record["advantage"][second & kept] != 0).any()
    assert np.isfinite(record["reward/combined"][kept]).all() and np.isnan(record["reward/combined"][~kept]).all()


def test_candidates_in_shadow_change_nothing(model, tmp_path):
    plain = mini_flow_grpo.train(model, tmp_path / "plain", "test_window", attached.EARLY_NOISE, *JOB, ranks=2)
    config = attached.write_config(
        tmp_path / "accel.yaml", mode="shadow", decision="{step: [2, 3, 4], keep: [0.75, 0.5, 0.25]}", probe=CHEAP
    )
    process, lines = attached.run(tmp_path / "out", config, model, *JOB)
    assert process.returncode == 0, process.stderr[-3000:]
    assert attached.warnings(process) == []
    assert [line.get("reward") for line in lines] == [line.get("reward") for line in plain]
    weights = [
        load_file(next((tmp_path / name).glob("checkpoints/*/lora/adapter_model.safetensors")))
        for name in ("plain", "out")
    ]
    assert all((weights[1][name] == value).all() for name, value in weights[0].items())
    record = read(tmp_path / "out")
    assert record["kept"].all() and record["audit"].all() and (record["inclusion"] == 1).all()
    for name in ("attention", "x0", "preview"):
        values = record[f"features/{name}"].astype(np.float32)
        assert values.shape[:2] == (2 * 16, 3) and np.isfinite(values).all(), name
        assert not np.array_equal(values[:, 0], values[:, 2]), name


def test_mode_auto_gathers_retrains_and_says_what_it_thinks(model, tmp_path):
    """A smoke test: six updates are no time to find out anything, and nothing may be stopped without evidence."""
    config = attached.write_config(
        tmp_path / "accel.yaml", mode="auto", probe=CHEAP, retrain="{every_updates: 2}", record="{segment_rows: 32}"
    )
    process, lines = attached.run(tmp_path / "out", config, model, *JOB, "--config.num_epochs=6")
    assert process.returncode == 0, process.stderr[-3000:]
    assert lines[-1]["update"] == 6
    numbers = attached.metrics(tmp_path / "out")
    assert len(numbers) == 6
    assert any(name.startswith("guard/") for name in numbers[-1]), sorted(numbers[-1])
    record = read(tmp_path / "out")
    assert len(record["row_id"]) == 6 * 16
    first = record["update"] == 0
    assert record["kept"][first].all(), "it begins as shadow does"
    assert np.isfinite(record["features/x0"][first].astype(np.float32)).all(), "at every candidate step"
