"""Whole jobs under mpirun: off and shadow change nothing, pruning stops rows, and faults never stop the job."""

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

RANDOM_HALF = "{step: 2, keep: 0.5, policy: random, audit: 0.0}"
CHEAP = "{inputs: [attention, x0, preview]}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """The job without us: what off and shadow must reproduce bit for bit."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    lines = mini_flow_grpo.train(model, folder, "test_window", attached.EARLY_NOISE, ranks=2)
    return folder, lines


def weights(folder):
    return load_file(next(folder.glob("checkpoints/*/lora/adapter_model.safetensors")))


def assert_same_training(folder, lines, plain):
    plain_folder, plain_lines = plain
    assert [line.get("reward") for line in lines] == [line.get("reward") for line in plain_lines]
    assert [line.get("eval_reward") for line in lines] == [line.get("eval_reward") for line in plain_lines]
    ours, theirs = weights(folder), weights(plain_folder)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] == value).all(), name


def read_record(folder):
    import grpo_accel

    return grpo_accel.open_record(folder)


def test_off_is_bit_identical_to_not_installed(model, plain, tmp_path):
    config = attached.write_config(tmp_path / "accel.yaml", mode="off")
    process, lines = attached.run(tmp_path / "out", config, model)
    assert process.returncode == 0, process.stderr[-3000:]
    assert_same_training(tmp_path / "out", lines, plain)
    assert not (tmp_path / "out" / "record").exists()
    assert attached.warnings(process) == []


def test_shadow_changes_nothing_and_logs_every_row(model, plain, tmp_path):
    config = attached.write_config(tmp_path / "accel.yaml", mode="shadow", decision="{step: 2}", probe=CHEAP)
    process, lines = attached.run(tmp_path / "out", config, model)
    assert process.returncode == 0, process.stderr[-3000:]
    assert_same_training(tmp_path / "out", lines, plain)
    assert attached.warnings(process) == []
    record = read_record(tmp_path / "out")
    assert len(record["row_id"]) == 2 * 16 and len(set(record["row_id"].tolist())) == 32
    assert record["kept"].all() and record["audit"].all() and (record["inclusion"] == 1).all()
    assert np.isfinite(record["reward/combined"]).all()
    assert np.allclose(record["reward/shapes"], record["reward/combined"])
    assert np.isfinite(record["features/attention"].astype(np.float32)).all()
    assert record["features/attention"].std() > 0 and record["features/x0"].std() > 0
    assert (record["batches/seconds_denoise"] > 0).all()
    verify = subprocess.run([attached.COMMAND, "verify", str(tmp_path / "out"), "--quiet"], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stdout + verify.stderr


def test_prune_stops_half_of_each_ranks_rows(model, plain, tmp_path):
    config = attached.write_config(
        tmp_path / "accel.yaml", mode="prune", decision=RANDOM_HALF, probe=CHEAP, record="{prompts: text}"
    )
    process, lines = attached.run(tmp_path / "out", config, model)
    assert process.returncode == 0, process.stderr[-3000:]
    assert attached.warnings(process) == []
    # The first update shows how the host works. Then, of 16 rows and 4 steps, the step of the decision (the third)
    # is still whole, and the last one is of 8 rows.
    assert lines[0]["transformer_rows"]["sampled"] == 16 * 4
    assert lines[1]["transformer_rows"]["sampled"] == 16 * 3 + 8
    # Rows whose advantage is 0 leave training through the host's own mask.
    assert lines[1]["rows_trained"] == 8
    assert lines[0]["eval_reward"] == plain[1][0]["eval_reward"]
    record = read_record(tmp_path / "out")
    for rank in (0, 1):
        for batch in np.unique(record["batch"]):
            mine = (record["rank"] == rank) & (record["batch"] == batch)
            share = 1 if record["update"][mine][0] == 0 else 2
            assert record["kept"][mine].sum() == mine.sum() // share
    stopped = record["kept"] == 0
    assert (record["advantage"][stopped] == 0).all() and (record["advantage"][~stopped] != 0).any()
    assert np.isnan(record["reward/combined"][stopped]).all() and np.isfinite(record["reward/combined"][~stopped]).all()
    assert (record["inclusion"] == np.where(record["update"] == 0, 1.0, 0.5)).all()
    assert len(set(record["prompt"].tolist())) > 1


def test_repeated_runs_are_the_same(model, tmp_path):
    config = attached.write_config(tmp_path / "accel.yaml", mode="prune", decision=RANDOM_HALF, probe="{inputs: [x0]}")
    first, _ = attached.run(tmp_path / "a", config, model, "--config.eval_freq=0")
    second, _ = attached.run(tmp_path / "b", config, model, "--config.eval_freq=0")
    assert first.returncode == 0 and second.returncode == 0
    a, b = read_record(tmp_path / "a"), read_record(tmp_path / "b")
    for column in ("kept", "prediction", "advantage", "features/x0", "reward/combined"):
        assert np.array_equal(a[column], b[column], equal_nan=True), column
    for name, value in weights(tmp_path / "a").items():
        assert (weights(tmp_path / "b")[name] == value).all()


FAULTY_SCORER = """
import os, sys
sys.path.insert(0, {root!r})
import experiments.shapes.scorer as scorer
original = scorer.score
calls = 0
def score(images, prompts):
    global calls
    calls += 1
    if os.environ.get("RANK") == "1" and calls == 5:  # four in the first update: two batches, preview and reward
        raise RuntimeError("this scorer is ill")
    return original(images, prompts)
scorer.score = score
"""


def test_a_scorer_that_raises_on_one_rank_leaves_the_batch_unpruned(model, tmp_path):
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(FAULTY_SCORER.format(root=str(attached.ROOT)))
    config = attached.write_config(tmp_path / "accel.yaml", mode="prune", decision=RANDOM_HALF, probe="{inputs: [preview]}")
    process, lines = attached.run(
        tmp_path / "out", config, model, "--config.eval_freq=0", PYTHONPATH=str(tmp_path / "patch")
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = attached.warnings(process)
    assert sum("this scorer is ill" in line for line in found) == 1, found
    record = read_record(tmp_path / "out")
    third = record["batch"] == 2
    assert record["kept"][third].all(), "one rank without scores: nobody prunes in that batch"
    assert not record["kept"][record["batch"] == 3].all()
    assert lines[-1]["update"] == 2


@pytest.mark.parametrize("content", [b"not a probe", b""])
def test_an_unreadable_probe_file_leaves_the_job_unpruned(model, tmp_path, content):
    probe = tmp_path / "probe.safetensors"
    probe.write_bytes(content)
    config = attached.write_config(
        tmp_path / "accel.yaml", mode="prune", decision="{step: 2, keep: 0.5}",
        probe=f"{{inputs: [x0], path: {probe}}}",
    )
    process, lines = attached.run(tmp_path / "out", config, model, "--config.eval_freq=0")
    assert process.returncode == 0, process.stderr[-3000:]
    found = attached.warnings(process)
    assert any("probe.safetensors" in line for line in found), process.stderr
    assert [line["transformer_rows"]["sampled"] for line in lines[:2]] == [16 * 4, 16 * 4]
    assert read_record(tmp_path / "out")["kept"].all()


def test_an_unwritable_record_folder_leaves_the_job_unpruned(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record").write_text("a file where a folder should be")
    config = attached.write_config(tmp_path / "accel.yaml", mode="prune", decision=RANDOM_HALF, probe="{inputs: [x0]}")
    process, lines = attached.run(tmp_path / "out", config, model, "--config.eval_freq=0")
    assert process.returncode == 0, process.stderr[-3000:]
    assert any("record" in line for line in attached.warnings(process)), process.stderr
    assert [line["transformer_rows"]["sampled"] for line in lines[:2]] == [16 * 4, 16 * 4]


def test_a_wrong_configuration_ends_before_the_script(model, tmp_path):
    config = attached.write_config(tmp_path / "accel.yaml", mode="prune", descision="{keep: 0.5}")
    process, lines = attached.run(tmp_path / "out", config, model)
    assert process.returncode == 2 and lines == []
    assert "accel.yaml:3:" in process.stderr and "decision" in process.stderr


def test_the_scripts_own_exit_code_is_returned(tmp_path):
    script = tmp_path / "ends.py"
    script.write_text("raise SystemExit(7)\n")
    config = attached.write_config(tmp_path / "accel.yaml", mode="shadow", run_dir=str(tmp_path / "run"))
    process = subprocess.run([attached.COMMAND, "run", "--config", config, "--", script], capture_output=True, text=True)
    assert process.returncode == 7, process.stderr
