"""grpo-accel doctor: what it finds, how it says it, what it makes of a script, and ranks that differ."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import test_command_line as command_line  # noqa: E402
import written_record  # noqa: E402, F401  (its path is set up there)

PYTHON = {"GRPO_ACCEL_PYTHON": sys.executable}
QUICK = {"GRPO_ACCEL_PYTHON": "/bin/true"}  # an interpreter that says nothing: everything else is examined


def checks_of(found):
    return {check["name"]: check for check in found["checks"]}


def answer(*arguments, code=0, **variables):
    return json.loads(command_line.must(code, "doctor", "--json", *arguments, **variables).stdout)


def examined(*arguments, code=0, **variables):
    return checks_of(answer(*arguments, code=code, **variables))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One call with everything in it: the real interpreter, a configuration and a script."""
    folder = tmp_path_factory.mktemp("whole")
    config = folder / "accel.yaml"
    config.write_text(f"version: 1\nmode: shadow\nrun_dir: {folder}/a/b\n")
    path = folder / "train.py"
    path.write_text(SD3)
    found = answer("--config", config, "--", path, "--config", "x", **PYTHON)
    return folder, found


SD3 = """
import flow_grpo.rewards
import flow_grpo.prompts
from flow_grpo.stat_tracking import PerPromptStatTracker
from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob
raise SystemExit("a script that doctor must not run")
def main(samples):
    mask = (samples["advantages"].abs().sum(dim=1) != 0)
"""


def test_everything_that_a_run_needs_has_a_line(whole):
    folder, found = whole
    checks = checks_of(found)
    assert found["ready"] is True
    expected = {"grpo-accel", "launcher", "libyaml", "HDF5", "MPI", "MPI threads", "cores", "open files", "locked memory",
                "address space", "shared memory", "configuration", "record", "free space", "Python", "library", "torch",
                "operators", "GPU", "NCCL", "numpy", "diffusers", "transformers", "peft", "accelerate", "torch provider"}
    assert expected <= set(checks), sorted(expected - set(checks))
    assert checks["MPI threads"]["text"] in ("single", "funneled", "serialized", "multiple")
    assert re.match(r"\d+ of \d+ functions", checks["torch provider"]["text"])
    assert sys.executable in checks["Python"]["text"]
    assert checks["record"]["text"] == f"{folder}: write, fsync and rename work; there a run makes {folder}/a/b/record"
    assert sorted(path.name for path in folder.iterdir()) == ["accel.yaml", "train.py"]


def test_what_is_wrong_is_said_and_the_answer_is_no(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("mode: of\n")
    done = command_line.must(1, "doctor", "--folder", tmp_path / "none", "--config", wrong, **QUICK)
    assert f"FAIL    folder         {tmp_path}/none: can't create a file: No such file or directory\n" in done.stdout
    assert f"FAIL    configuration  {wrong}:1:7: mode: expected one of" in done.stdout
    assert "\033" not in done.stdout
    contradiction = examined(code=1, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2", WORLD_SIZE="3", **QUICK)
    assert contradiction["launcher"]["verdict"] == "FAIL" and "MPI threads" not in contradiction
    said = command_line.must(1, "doctor", "--quiet", "--folder", tmp_path / "none", **QUICK).stdout.splitlines()
    assert said and all(not line.startswith("OK") for line in said)


def test_a_script_is_read_and_not_run(whole):
    checks = checks_of(whole[1])
    assert "replaced are sd3_pipeline_with_logprob, rewards, stat_tracking" in checks["script"]["text"].replace(
        "train_dreambooth_lora_sd3, ", "")
    assert checks["script others"]["text"] == "left alone: prompts"
    assert checks["script saves"]["verdict"] == "OK"
    assert "rollout, reward, training" in checks["script saves"]["text"]


@pytest.mark.parametrize("change, verdict, words", [
    (("abs().sum(dim=1) != 0", "abs().mean()"), "WARNING", "saves rollout, reward; not training"),
    (("!= 0)", "!= 0)\n    tracker.update(p, r, type='sft')"), "WARNING", "nothing: the tracker is asked for another type"),
    (("!= 0)", "!= 0)\n    tracker.update(p, r, type='grpo')"), "OK", "rollout, reward, training"),
    (("flow_grpo.rewards", "os"), "WARNING", ""),
    (("sd3_pipeline_with", "sd9_pipeline_with"), "WARNING", "nothing: no rollout of this script is watched"),
])
def test_what_a_script_saves(change, verdict, words, tmp_path):
    from grpo_accel import doctor, script, seams

    path = tmp_path / "train.py"
    path.write_text(SD3.replace(*change))
    found = script.examine(path, seams.SEAM_MODULES)
    if change[0] == "flow_grpo.rewards":
        assert (found.saves_rollout, found.saves_reward) == (True, False)
        return
    said = doctor._savings(found)
    assert said[0] == verdict and words in said[1], said


def test_scripts_that_are_not_of_flow_grpo(tmp_path):
    from grpo_accel import script

    path = tmp_path / "plain.py"
    path.write_text("from diffusers import StableDiffusion3Pipeline, Other\nimport torch\n")
    found = script.examine(path, (), ("StableDiffusion3Pipeline", "FluxPipeline"))
    assert found.plain_pipelines == ["StableDiffusion3Pipeline"] and not found.replaced and not found.saves_rollout
    path.write_text("def broken(:\n")
    with pytest.raises(SyntaxError):
        script.examine(path, ())
    assert examined("--", tmp_path / "none.py", code=1, **PYTHON)["script"]["verdict"] == "FAIL"


def test_a_python_without_torch_is_a_line_and_no_crash(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nPYTHONPATH={Path(command_line.ROOT, 'build/pythonpath')} exec {sys.base_prefix}/bin/python3 -S \"$@\"\n")
    bare.chmod(0o755)
    found = examined(code=1, GRPO_ACCEL_PYTHON=str(bare))
    assert found["torch"]["verdict"] in ("FAIL", "WARNING") and "without it nothing attaches" in found["torch"]["text"]
    assert found["numpy"]["verdict"] == "FAIL"
    assert "torch provider" not in found


@pytest.mark.parametrize("body, words", [
    ("echo 'no module here' >&2; exit 1", "no module here"),
    ("echo '{\"name\": 3}'; exit 0", "it said nothing"),
    ("kill -SEGV $$", "it crashed: Segmentation fault"),
    ("head -c 400000 /dev/zero | tr '\\0' a", "it said nothing"),
])
def test_an_interpreter_that_fails_is_one_line(body, words, tmp_path):
    python = command_line.fake_python(tmp_path, body)
    found = examined(code=1, GRPO_ACCEL_PYTHON=python)
    assert found["Python"]["verdict"] == "FAIL" and words in found["Python"]["text"], found["Python"]


def test_a_long_line_is_cut_between_characters(tmp_path):
    line = json.dumps({"name": "long", "verdict": "OK", "text": "a" + "…" * 400, "more": "x"}, ensure_ascii=False)
    (tmp_path / "said").write_text(line + "\n")
    python = command_line.fake_python(tmp_path, f"cat {tmp_path}/said")
    assert examined(GRPO_ACCEL_PYTHON=python)["long"]["text"] == "a" + "…" * 212  # 639 bytes, and whole


def test_the_launcher_s_traps():
    found = examined(code=1, RANK="0", WORLD_SIZE="2", **QUICK)
    assert found["launcher"]["verdict"] == "WARNING" and "torchrun or accelerate" in found["launcher"]["text"]
    assert found["LOCAL_RANK"]["verdict"] == "WARNING" and "trains on the CPU" in found["LOCAL_RANK"]["text"]
    foreign = examined(code=1, PMI_RANK="0", PMI_SIZE="1", **QUICK)
    assert foreign["MPI"]["verdict"] == "WARNING" and "another's (PMI)" in foreign["MPI"]["text"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core only")
def test_one_core_of_several_is_a_warning():
    words = ["taskset", "-c", str(min(os.sched_getaffinity(0))), command_line.PROGRAM, "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, env=command_line.CLEAN | QUICK, timeout=60)
    assert "WARNING cores" in done.stdout and "mpirun --bind-to none" in done.stdout


def on_terminal(*arguments, **variables):
    """What a call prints on a terminal."""
    leader, follower = pty.openpty()
    environment = command_line.CLEAN | QUICK | variables
    process = subprocess.Popen([command_line.PROGRAM, *arguments], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    text = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:
            break
        if not block:
            break
        text += block
    os.close(leader)
    process.wait(timeout=60)
    return text.decode()


def test_colours_only_on_a_terminal_and_not_where_they_are_unwanted(tmp_path):
    assert "\033[32mOK" in on_terminal("doctor", "--folder", str(tmp_path))
    assert "\033" not in on_terminal("doctor", "--folder", str(tmp_path), NO_COLOR="1")
    assert "\033" not in on_terminal("doctor", "--issue", "--folder", str(tmp_path))


def test_a_block_for_an_issue_names_no_home(tmp_path):
    text = command_line.must(1, "doctor", "--issue", "--folder", tmp_path, HOME=str(tmp_path), **QUICK).stdout
    lines = text.splitlines()
    assert lines[0].startswith("<details><summary>grpo-accel ") and lines[0].endswith("doctor: NOT ready</summary>")
    assert lines[2] == "```text" and lines[-1] == "</details>" and lines.count("```") == 1
    assert str(tmp_path) not in text and "folder         ~: write, fsync and rename work" in text


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_ranks_print_once_and_what_differs(tmp_path):
    """Rank 1 has another number of open files."""
    script = tmp_path / "rank"
    script.write_text(
        '#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && ulimit -n 200\n'
        f'exec {command_line.PROGRAM} doctor --json --folder {tmp_path}\n')
    script.chmod(0o755)
    environment = command_line.CLEAN | QUICK | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", str(script)],
                          capture_output=True, text=True, env=environment, timeout=120)
    found = json.loads(done.stdout)
    assert checks_of(found)["ranks"]["text"] == "all 2 answered, by mpi"
    assert checks_of(found)["MPI threads"]["text"] in ("funneled", "serialized", "multiple")
    assert [rank["rank"] for rank in found["ranks"]] == [1]
    assert [check["name"] for check in found["ranks"][0]["differs"]] == ["open files"]
    assert "raise it with ulimit" in found["ranks"][0]["differs"][0]["text"]
