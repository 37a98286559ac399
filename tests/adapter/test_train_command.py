"""train as a user meets it: what it learns from, how it is ended and continued, the ranks of a job, its bar."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import written_record  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("GRPO_ACCEL_", "OMPI_", "PMIX_", "SLURM_"))}
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    CLEAN.pop(name, None)
SMALL = ("--set", "probe.network.channels=[8,8]", "--set", "probe.network.hidden=8", "--set", "training.rounds_max=3")


def find_program():
    named = os.environ.get("GRPO_ACCEL_PROGRAM")
    candidates = [Path(named)] if named else [Path(sys.executable).parent / "grpo-accel", ROOT / "build/grpo_accel/command/grpo-accel"]
    for candidate in candidates:
        if candidate.exists():
            return str(candidate)
    pytest.fail(f"grpo-accel is not built (looked at {', '.join(map(str, candidates))})")


PROGRAM = find_program()


def call(*arguments, timeout=120, before=(), **variables):
    return subprocess.run(
        [*before, PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=CLEAN | variables)


def must(code, *arguments, **settings):
    done = call(*arguments, **settings)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def answer(*arguments, code=0, **settings):
    return json.loads(must(code, *arguments, "--json", **settings).stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return written_record.write_record(tmp_path_factory.mktemp("train") / "run", ranks=2, updates=12)


def train(run, out, *more, **settings):
    return answer("train", "--data", run, "--out", out, *SMALL, *more, **settings)


# ---- what it learns from ----


def test_inputs_choose_part_of_a_record_and_evaluate_follows(run, tmp_path):
    out = tmp_path / "p.safetensors"
    assert train(run, out, "--inputs", "preview")["inputs"] == ["preview"]
    figures = answer("evaluate", "--probe", out, "--data", run)
    assert figures["within"]["spearman"]["value"] > 0.5
    assert train(run, out, "--inputs", "attention")["inputs"] == ["attention"]
    assert train(run, out)["inputs"] == ["attention", "preview"]


def test_inputs_that_are_wrong_or_missing_are_named(run, tmp_path):
    wrong = must(2, "train", "--data", run, "--out", tmp_path / "p", "--inputs", "attention,wizardry")
    assert "wizardry" in wrong.stderr
    missing = must(3, "train", "--data", run, "--out", tmp_path / "p", "--inputs", "lookahead")
    assert "lookahead" in missing.stderr
    assert not (tmp_path / "p").exists()


def test_targets_and_steps(run, tmp_path):
    done = train(run, tmp_path / "p", "--targets", "all", "--step", "all")
    assert done["targets"][0] in ("reward", "combined") and done["targets"][1:] == ["shapes"]
    assert done["steps"] == [written_record.STEP]
    assert "no scorer" in must(3, "train", "--data", run, "--out", tmp_path / "p", "--targets", "beauty").stderr
    assert "--step" in must(2, "train", "--data", run, "--out", tmp_path / "p", "--step", "three").stderr
    assert "after step 7" in must(3, "train", "--data", run, "--out", tmp_path / "p", "--step", "7").stderr


def test_the_configuration_shapes_the_network(run, tmp_path):
    config = tmp_path / "accel.yaml"
    config.write_text("version: 1\nseed: 7\ndecision: {step: 3}\nprobe: {network: {architecture: none}}\n")
    done = answer("train", "--data", run, "--out", tmp_path / "p", "--config", config)
    assert done["seed"] == 7 and done["architecture"] == "none" and done["ended_by"] == "none" and done["curve"] == []
    again = answer("train", "--data", run, "--out", tmp_path / "p", "--config", config, "--seed", 8, *SMALL,
                   "--set", "probe.network.architecture=paper")
    assert again["seed"] == 8 and again["architecture"] == "paper" and len(again["curve"]) == 3


def test_a_damaged_segment_is_left_out_with_a_warning(tmp_path):
    run = written_record.write_record(tmp_path / "run", updates=12)
    path = run / "record/rank-00000/segment-000003.h5"
    path.write_bytes(path.read_bytes()[:-100])
    done = must(0, "train", "--data", run, "--out", tmp_path / "p", "--json", *SMALL)
    assert "segment" in done.stderr and json.loads(done.stdout)["train_rows"] > 0


# ---- ending and continuing ----


def test_the_curve_has_a_point_a_round_and_no_state_is_left(run, tmp_path):
    done = train(run, tmp_path / "p")
    assert [point["round"] for point in done["curve"]] == [1, 2, 3]
    assert all(np.isfinite(point["loss"]) for point in done["curve"])
    assert done["interrupted"] is False and done["rounds_resumed"] == 0 and done["provider"] == "native"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


LONG = (*SMALL, "--set", "training.rounds_max=4000", "--set", "training.patience_rounds=4000")


def start_long(run, out, *more):
    return subprocess.Popen([PROGRAM, "train", "--data", str(run), "--out", str(out), *LONG, "--json", *more], env=CLEAN,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_best_so_far_and_the_state(run, tmp_path, number):
    out = tmp_path / "p"
    process = start_long(run, out)
    wait_for(tmp_path / "p.state", process)
    process.send_signal(number)
    text, errors = process.communicate(timeout=60)
    done = json.loads(text)
    assert process.returncode == 0, errors
    assert done["interrupted"] is True and done["ended_by"] == "stop" and 0 < done["rounds"] < 4000
    assert out.exists() and (tmp_path / "p.state").exists()
    assert answer("evaluate", "--probe", out, "--data", run)["n_rows"] > 0


def test_a_second_interrupt_ends_the_program(tmp_path):
    run = written_record.write_record(tmp_path / "run", updates=12)
    process = start_long(run, tmp_path / "p")
    wait_for(tmp_path / "p.state", process)
    os.kill(process.pid, signal.SIGSTOP)  # so that both are there before it can act on the first
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 0)  # 0: it had already ended by the first


def test_a_continued_training_gives_the_same_file(run, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rounds = (*SMALL, "--set", "training.patience_rounds=1000", "--inputs", "attention")
    most = ("--set", "training.rounds_max=12")
    straight = answer("train", "--data", run, "--out", whole, *rounds, *most)
    process = start_long(run, cut, *rounds[4:], "--set", "training.rounds_max=4000")
    wait_for(tmp_path / "cut.state", process)
    process.send_signal(signal.SIGINT)
    first = json.loads(process.communicate(timeout=60)[0])
    if first["rounds"] >= 12:
        pytest.skip(f"this machine did {first['rounds']} rounds before it could be interrupted")
    second = answer("train", "--data", run, "--out", cut, *rounds, *most, "--resume")
    assert second["rounds_resumed"] >= 0 and second["rounds"] == 12
    assert [p["loss"] for p in second["curve"]] == [p["loss"] for p in straight["curve"]]
    assert cut.read_bytes() == whole.read_bytes()


def test_resume_without_a_state_starts_and_with_another_trainings_is_refused(run, tmp_path):
    out = tmp_path / "p"
    assert train(run, out, "--resume")["rounds_resumed"] == 0
    process = start_long(run, out)
    wait_for(tmp_path / "p.state", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    other = must(2, "train", "--data", run, "--out", out, *SMALL, "--seed", 5, "--resume")
    assert "another training" in other.stderr
    state = tmp_path / "p.state"
    state.write_bytes(state.read_bytes()[:-4] + b"\0\0\0\1")
    assert "checksum" in must(3, "train", "--data", run, "--out", out, *SMALL, "--resume").stderr


def test_seconds_end_a_training(run, tmp_path):
    done = answer("train", "--data", run, "--out", tmp_path / "p", *LONG, "--seconds", 0.2)
    assert done["ended_by"] == "seconds" and done["interrupted"] is False and (tmp_path / "p.state").exists()


# ---- the bar ----


def test_there_is_no_bar_where_there_is_no_terminal(run, tmp_path):
    assert must(0, "train", "--data", run, "--out", tmp_path / "p", *LONG, "--seconds", 3).stderr == ""


def test_a_terminal_gets_a_bar(run, tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen([PROGRAM, "train", "--data", str(run), "--out", str(tmp_path / "p"), *LONG, "--seconds", "6"],
                               env=CLEAN, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    seen = b""
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.2)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:
                break
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert re.search(rb"\[[#.]{24}\] round \d+ of at most 4000", seen), seen[-300:]


# ---- ranks ----


def mpirun(ranks):
    return ("mpirun", "--oversubscribe", "-np", str(ranks))


def has_mpirun():
    try:
        return subprocess.run(["mpirun", "--version"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
needs_mpi = pytest.mark.skipif(not has_mpirun(), reason="mpirun is not installed")


@needs_mpi
def test_any_number_of_ranks_gives_the_same_probe(run, tmp_path):
    answers, arrays = {}, {}
    for ranks in (1, 2, 4):
        out = tmp_path / f"p{ranks}"
        answers[ranks] = train(run, out, "--inputs", "attention", before=mpirun(ranks), **MPI)
        arrays[ranks] = read_safetensors(out)
    assert [answers[ranks]["ranks"] for ranks in answers] == [1, 2, 4]
    for ranks in (2, 4):
        for kind in answers[1]["candidates"]:
            one, many = (answers[r]["candidates"][kind]["held"]["value"] for r in (1, ranks))
            assert abs(one - many) < 0.02, (ranks, kind)
        for one, many in zip(answers[1]["curve"], answers[ranks]["curve"]):
            assert abs(one["loss"] - many["loss"]) < 1e-3 * abs(one["loss"])
        assert answers[ranks]["train_rows"] == answers[1]["train_rows"]
        assert arrays[1].keys() == arrays[ranks].keys()
        for name in arrays[1]:
            np.testing.assert_allclose(arrays[ranks][name], arrays[1][name], rtol=2e-3, atol=2e-3, err_msg=name)


def read_safetensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    return {name: np.frombuffer(data[8 + size:][slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
            for name, entry in header.items()}


@needs_mpi
def test_a_rank_that_stops_ends_the_others_with_its_number(run, tmp_path):
    out = tmp_path / "p"
    process = subprocess.Popen(
        [*mpirun(2), PROGRAM, "train", "--data", str(run), "--out", str(out), *LONG, "--timeout", "2"], env=CLEAN | MPI,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "p.state", process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    ranks = {rank_of(child): int(child) for child in children}
    os.kill(ranks[1], signal.SIGSTOP)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.kill(ranks[1], signal.SIGCONT)
            process.kill()
    assert process.returncode != 0
    assert "rank 1" in errors, errors


def rank_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(v.split(b"=")[1]) for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")), -1)


# ---- help ----


def test_help_names_every_option():
    text = must(0, "train", "--help").stdout
    for option in ("data", "out", "config", "set", "inputs", "step", "targets", "rows", "seed", "seconds", "relabels", "resume",
                   "provider", "torch", "timeout"):
        assert f"--{option}" in text
