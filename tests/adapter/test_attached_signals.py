"""Whole jobs under mpirun with every signal on: the job's results stay as they are, and the record has all of them."""

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
INPUTS = ("attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled")
DISTILLED = "distilled: {every_updates: 1, seconds: 1.0, rank: 4}"
SIGNALS = f"{{inputs: [{', '.join(INPUTS)}], lookahead: {{steps: 1}}, {DISTILLED}}}"
JOB = ("--config.sample.guidance_scale=2.5", "--config.eval_freq=0", "--config.num_epochs=3")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "out"
    return folder, mini_flow_grpo.train(model, folder, "test_window", attached.EARLY_NOISE, *JOB, ranks=2)


def weights(folder):
    return load_file(next(folder.glob("checkpoints/*/lora/adapter_model.safetensors")))


def floats(record, name):
    return record[f"features/{name}"].astype(np.float32)


def test_shadow_with_every_signal_changes_nothing_and_logs_them(model, plain, tmp_path):
    import grpo_accel

    config = attached.write_config(
        tmp_path / "accel.yaml", mode="shadow", decision="{step: 2}", probe=SIGNALS, record="{finals: latent}"
    )
    process, lines = attached.run(tmp_path / "out", config, model, *JOB, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    assert attached.warnings(process) == []
    plain_folder, plain_lines = plain
    assert [line.get("reward") for line in lines] == [line.get("reward") for line in plain_lines]
    ours, theirs = weights(tmp_path / "out"), weights(plain_folder)
    assert all((ours[name] == value).all() for name, value in theirs.items())
    record = grpo_accel.open_record(tmp_path / "out")
    rows = 3 * 16
    assert len(record["row_id"]) == rows
    for name in INPUTS:
        assert np.isfinite(floats(record, name)).all(), name
    assert floats(record, "cfg").std() > 0 and floats(record, "hidden").std() > 0 and floats(record, "prompt").std() > 0
    assert record["final_present"].all() and record["final"].shape == (rows, 8, 8, 8) == record["state"].shape
    assert np.isfinite(record["final"].astype(np.float32)).all() and record["final"].astype(np.float32).std() > 0
    x0_end = np.abs(record["final"].astype(np.float32) - record["state"].astype(np.float32)).mean(axis=(1, 2, 3))
    assert (x0_end > 0).all(), "an end is not the state it came from"
    first = record["update"] == 0
    assert np.array_equal(floats(record, "distilled")[first], floats(record, "preview")[first]), "not trained yet"
    for part in ("preview", "lookahead", "features"):
        assert (record[f"batches/seconds_{part}"] > 0).all(), part
    trained = record["batches/update"] > 0
    assert (record["batches/seconds_distilled"][trained] > 0).all()
    signal = sum(record[f"batches/seconds_{part}"] for part in ("preview", "lookahead", "distilled"))
    assert np.allclose(signal, record["batches/seconds_signal"], rtol=1e-3, atol=1e-4)
    assert (tmp_path / "out" / "distilled" / "adapter_config.json").is_file()
    assert process.stderr.count("distilled: ") == 2 * 3, "each rank says once an update what was learned"
    command = [attached.COMMAND, "verify", str(tmp_path / "out"), "--quiet"]
    verify = subprocess.run(command, capture_output=True, text=True)
    assert verify.returncode == 0, verify.stdout + verify.stderr


def test_prune_by_sigma_with_every_signal(model, plain, tmp_path):
    """The first step at or below σ .8 is the second of four, inside the noise: the decision moves behind it."""
    import grpo_accel

    config = attached.write_config(
        tmp_path / "accel.yaml", mode="prune", decision="{sigma: 0.8, keep: 0.5, policy: random, audit: 0.0}",
        probe=SIGNALS, record="{finals: image}",
    )
    process, lines = attached.run(tmp_path / "out", config, model, *JOB, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    assert attached.warnings(process) == []
    record = grpo_accel.open_record(tmp_path / "out")
    assert (record["step"] == 2).all()
    kept = record["kept"] == 1
    assert kept[record["update"] == 0].all() and kept[record["update"] > 0].mean() == 0.5
    assert np.array_equal(record["final_present"] == 1, kept)
    assert record["final"].dtype == np.uint8 and record["final"].shape[1:] == (32, 32, 3)
    assert record["final"][kept].std() > 0
    assert [line["rows_trained"] for line in lines[1:3]] == [8, 8]
    for name in INPUTS:
        assert np.isfinite(floats(record, name)).all(), name
