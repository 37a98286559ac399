"""grpo-accel run --dry-run: every rank opens a session, plans with the others, logs and verifies; nothing is left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "numpy"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import test_command_line as command_line  # noqa: E402

PYTHON = {"GRPO_ACCEL_PYTHON": sys.executable}
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
needs_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
GOLDEN = command_line.ROOT / "tests/golden/probe_1_network.safetensors"


def configured(folder, *lines):
    path = folder / "accel.yaml"
    path.write_text("\n".join(["version: 1", f"run_dir: {folder}/runs/mine", *lines]) + "\n")
    return path


def on_ranks(ranks, command, timeout=400, **variables):
    words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *map(str, command)]
    environment = command_line.CLEAN | PYTHON | MPI | variables
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=timeout)


def nothing_is_left(folder):
    assert sorted(path.name for path in folder.iterdir() if path.name != "rank") == ["accel.yaml"]


@needs_mpi
def test_two_ranks_make_one_plan_and_leave_nothing(tmp_path):
    config = configured(tmp_path, "mode: shadow", "probe: {inputs: [attention, x0, cfg, hidden, prompt, preview, lookahead]}")
    command = [command_line.PROGRAM, "run", "--config", config, "--dry-run", "--json", "--", "x.py", "1"]
    done = on_ranks(2, command)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["command"] == [sys.executable, "-m", "grpo_accel.launch", "x.py", "1"]
    assert found["environment"]["WORLD_SIZE"] == "2" and found["mode"] == "shadow"
    assert found["ready"] is True and found["problems"] == []
    first, second = found["ranks"]
    assert (first["rank"], second["rank"]) == (0, 1)
    for rank in (first, second):
        assert rank["ok"] is True and rank["reason"] in ("pruned", "audit") and rank["kept"] == 4
        assert rank["rows_logged"] == 16  # as configured, and by chance
        assert {"open", "begin", "observe", "decide", "reward", "update", "verify"} <= set(rank["seconds"])
    assert first["plan"] == second["plan"] == found["plan"] != "0" * 16
    assert first["advantages"] == second["advantages"] != ""
    nothing_is_left(tmp_path)


@needs_mpi
def test_a_rank_that_never_comes_is_named_and_nobody_waits_for_ever(tmp_path):
    config = configured(tmp_path, "mode: shadow")
    rank = tmp_path / "rank"
    rank.write_text(
        '#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && exec sleep 300\n'
        f'exec {command_line.PROGRAM} run --config {config} --dry-run --timeout 10 -- x.py\n')
    rank.chmod(0o755)
    done = on_ranks(2, [rank])
    assert done.returncode != 0
    assert "FAILED: rank 1: no answer within 10 s" in done.stdout, done.stdout + done.stderr
    nothing_is_left(tmp_path)


def test_alone_in_words(tmp_path):
    config = configured(tmp_path, "mode: prune", "decision: {step: [3], policy: random, keep: 0.25, audit: 0.0}")
    done = command_line.must(0, "run", "--config", config, "--dry-run", "--", "x.py", **PYTHON)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["rank 0 of 1 (launcher: none), mode prune", f"would start: {sys.executable} -m grpo_accel.launch x.py"]
    assert lines[2].startswith("rank 0: ok; kept 2 of 8 rows (audit), logged 8; seconds: meet ")
    assert lines[3].startswith("all ranks agree: plan ") and len(lines) == 4
    nothing_is_left(tmp_path)


def rehearsed(tmp_path, capsys, monkeypatch, config, *arguments):
    """The interpreter's half in this process, with the plan that the program hands to it."""
    from grpo_accel import dry_run

    python = command_line.fake_python(tmp_path, 'echo "$GRPO_ACCEL_DRY_RUN"')
    plan = command_line.must(0, "run", "--config", config, *arguments, "--dry-run", "--", "x.py", GRPO_ACCEL_PYTHON=python).stdout
    monkeypatch.setenv("GRPO_ACCEL_DRY_RUN", plan)
    monkeypatch.setenv("GRPO_ACCEL_CONFIG", str(config))
    code = dry_run.main(["--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_run_folder_that_can_not_be_made_is_said(tmp_path, capsys, monkeypatch):
    config = configured(tmp_path, "mode: shadow")
    code, found = rehearsed(tmp_path, capsys, monkeypatch, config, "--set", "run_dir=/proc/none/run")
    assert code == 1 and found["ready"] is False
    assert found["problems"][0].startswith("rank 0: run_dir /proc/none/run can't be made: ")


def test_the_configured_probe_predicts_or_is_said_not_to_fit(tmp_path, capsys, monkeypatch):
    """The golden probe's layout has a made-up id; the warning says the right one, and with that it is used."""
    probe = tmp_path / "probe.safetensors"
    shutil.copy(GOLDEN, probe)
    config = configured(
        tmp_path, "mode: prune", "decision: {step: [3], keep: 0.5, audit: 0.0}", f"probe: {{path: {probe}, map_size: 4,"
        " inputs: [attention, x0, prompt, preview], blocks: 'middle:1', statistics: [mass, entropy]}")
    code, found = rehearsed(tmp_path, capsys, monkeypatch, config)
    assert code == 0 and found["ready"] is True, found["problems"]
    assert found["ranks"][0]["rows_logged"] == 16  # nothing could be stopped but by chance
    warning, = found["ranks"][0]["warnings"]
    assert "nothing is pruned until a new probe is trained" in warning
    right = warning.split("the host gives ")[1].split("(schema ")[1][:16]
    probe.write_bytes(probe.read_bytes().replace(b"0123456789abcdef", right.encode()))
    code, found = rehearsed(tmp_path, capsys, monkeypatch, config)
    assert code == 0 and found["ranks"][0]["warnings"] == []
    assert (found["ranks"][0]["reason"], found["ranks"][0]["rows_logged"], found["ranks"][0]["kept"]) == ("pruned", 8, 4)


def test_mode_off_has_nothing_to_rehearse(tmp_path, capsys, monkeypatch):
    code, found = rehearsed(tmp_path, capsys, monkeypatch, configured(tmp_path, "mode: off"))
    assert (code, found["ready"], found["ranks"]) == (0, True, [])


def test_problems_are_told_apart():
    from grpo_accel import dry_run

    good = {"rank": 0, "ok": True, "plan": "0a", "advantages": "x", "reason": "audit"}
    assert dry_run.agreement([good, {**good, "rank": 1}]) == {"ready": True, "problems": [], "plan": "0a"}
    other = dry_run.agreement([good, {**good, "rank": 1}, {**good, "rank": 2, "plan": "0b"}])
    assert other["ready"] is False and other["problems"] == ["rank 2 has another plan than most (0b, 0a)"]
    lost = dry_run.agreement([good, dry_run.absent(1, 5)])
    assert lost["problems"] == ["rank 1: no answer within 5 s"]
    assert not dry_run.agreement([{**good, "plan": "0" * 16}])["ready"]


def test_disabled_has_nothing_to_rehearse():
    text = command_line.must(0, "run", "--dry-run", "--", "x.py", GRPO_ACCEL_DISABLE="1", **PYTHON).stdout
    assert text.splitlines() == ["rank 0 of 1 (launcher: none), disabled by GRPO_ACCEL_DISABLE", f"would start: {sys.executable} x.py"]
