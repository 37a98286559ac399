"""The program grpo-accel as a user meets it: exit codes, messages, --json, --help."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import written_record  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "configs").glob("*.yaml"))
COMMANDS = (
    "run", "train", "relabel", "evaluate", "select-seeds", "optimize-prompt", "rollback", "inspect", "verify", "replay", "simulate",
    "config dump", "config check", "config schema", "config docs", "doctor",
)


def find_program():
    named = os.environ.get("GRPO_ACCEL_PROGRAM")
    candidates = [Path(named)] if named else [Path(sys.executable).parent / "grpo-accel", ROOT / "build/grpo_accel/command/grpo-accel"]
    for candidate in candidates:
        if candidate.exists():
            return str(candidate)
    pytest.fail(f"grpo-accel is not built (looked at {', '.join(map(str, candidates))})")


PROGRAM = find_program()
CLEAN = {name: value for name, value in os.environ.items()
         if name == "GRPO_ACCEL_LIBRARY" or not name.startswith(("GRPO_ACCEL_", "OMPI_", "PMIX_", "SLURM_"))}
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    CLEAN.pop(name, None)


def call(*arguments, cwd=None, **variables):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd, env=CLEAN | variables)


def must(code, *arguments, **settings):
    done = call(*arguments, **settings)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def answer(*arguments, code=0, **settings):
    """The JSON document of a call; nothing else may be on standard output."""
    return json.loads(must(code, *arguments, "--json", **settings).stdout)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "accel.yaml"
    path.write_text(f"version: 1\nmode: shadow\nrun_dir: {tmp_path}/run\n")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return written_record.write_record(tmp_path_factory.mktemp("recorded"))


def fake_python(folder, body):
    """A program that stands in for the interpreter, so that what `run` starts can be seen."""
    path = folder / "interpreter"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# ---- usage


def test_without_a_command_it_shows_them_all():
    done = must(2)
    assert done.stdout == ""
    for name in COMMANDS:
        assert f"  {name} " in done.stderr
    assert must(0, "--help").stdout == done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name):
    done = must(0, *name.split(), "--help")
    assert done.stdout.startswith(f"usage: grpo-accel {name} ")
    assert done.stderr == ""
    for option in ("--json", "--quiet", "--help"):
        assert f"  {option} " in done.stdout
    assert "Exit codes: 0 done" in done.stdout
    assert must(0, *name.split(), "-h").stdout == done.stdout


def test_version_is_that_of_the_project():
    text = (ROOT / "meson.build").read_text()
    version = text.split("version: '")[1].split("'")[0]
    assert must(0, "--version").stdout == f"grpo-accel {version}\n"


def test_unknown_commands_name_the_known():
    done = must(2, "xyzzy")
    assert done.stderr == f"grpo-accel: unknown command 'xyzzy'; known: {', '.join(COMMANDS)}\n"
    assert "did you mean 'doctor'?" in must(2, "docter").stderr
    assert answer("xyzzy", code=2)["error"]["status"] == "argument"
    assert "which of these?" in must(2, "config").stderr
    assert "config dump" in must(0, "config", "--help").stdout


@pytest.mark.parametrize("arguments, message", [
    (("config", "dump", "--confg", "x"), "unknown option '--confg', did you mean '--config'?"),
    (("config", "dump", "-x"), "unknown option '-x'; --help shows all"),
    (("config", "dump", "--config"), "option '--config' needs a value: --config FILE"),
    (("config", "dump", "--json=yes"), "option '--json' takes no value"),
    (("config", "dump", "more"), "config dump: 'more' is one argument too many: grpo-accel config dump [--config FILE] [--set KEY=VALUE]..."),
    (("config", "check"), "config check: an argument is missing: grpo-accel config check FILE [--set KEY=VALUE]..."),
    (("config", "dump", "--", "x"), "config dump: nothing may follow --"),
    (("run", "--config", "x", "train.py"), "run: put -- before 'train.py': grpo-accel run --config FILE [--set KEY=VALUE]... [--dry-run] -- SCRIPT ARGS..."),
    (("run", "--config", "x", "--"), "run: the script is missing: grpo-accel run --config FILE [--set KEY=VALUE]... [--dry-run] -- SCRIPT ARGS..."),
    (("run", "--", "x.py"), "run: --config FILE is missing: grpo-accel run --config FILE [--set KEY=VALUE]... [--dry-run] -- SCRIPT ARGS..."),
    (("train", "--out", "x"), "train: --data FOLDER is missing"),
    (("train", "--data", "x"), "train: --out FILE is missing"),
    (("train", "--data", "x", "--out", "y", "--seed", "1.5"), "option '--seed': expected a whole number from 0 to 9007199254740992; found '1.5'"),
    (("train", "--data", "x", "--out", "y", "--seconds-max", "0,5"), "option '--seconds-max': expected a number from 0 to 1e+09; found '0,5'"),
    (("evaluate", "--data", "x"), "evaluate: --probe FILE is missing"),
])
def test_wrong_usage_is_explained(arguments, message):
    done = must(2, *arguments)
    assert done.stderr == f"grpo-accel: {message}\n"
    assert done.stdout == ""


# ---- config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_loads_and_dumps_back(path, tmp_path):
    first = must(0, "config", "dump", "--config", path).stdout
    again = tmp_path / "again.yaml"
    again.write_text(first)
    assert answer("config", "dump", "--config", path)["values"] == answer("config", "dump", "--config", again)["values"]
    assert must(0, "config", "check", path).stdout.startswith(f"{path}: valid, fingerprint ")
    assert f"`{path.name}`" in (ROOT / "configs/README.md").read_text()


def test_every_example_is_there():
    assert {path.stem for path in EXAMPLES} >= {"minimal", "shadow", "extremes", "topk_paper", "retrain", "sd3"}


def test_other_yaml_readers_see_the_same_values(tmp_path):
    yaml = pytest.importorskip("yaml")
    for path in EXAMPLES:
        dumped = must(0, "config", "dump", "--config", path).stdout
        assert yaml.safe_load(dumped) == answer("config", "dump", "--config", path)["values"] | {
            "metrics": yaml.safe_load(dumped)["metrics"]}


def test_a_wrong_key_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("version: 1\ndescision:\n  keep: 0.5\n")
    message = f"{path}:2:1: unknown key 'descision.keep', did you mean 'decision.keep'?"
    for arguments in (("config", "check", path), ("config", "dump", "--config", path), ("run", "--config", path, "--", "x.py")):
        done = must(2, *arguments)
        assert done.stderr == f"grpo-accel: {message}\n"
        assert done.stdout == ""
    assert answer("config", "check", path, code=2) == {
        "error": {"status": "config", "message": message, "exit_code": 2}}


def test_a_missing_configuration_is_an_input_error(tmp_path):
    done = must(3, "config", "check", tmp_path / "none.yaml")
    assert done.stderr == f"grpo-accel: {tmp_path}/none.yaml: can't open the configuration: No such file or directory\n"


def test_set_and_environment_override(config):
    given = answer(
        "config", "dump", "--config", config, "--set", "decision.keep=0.25", "--set=seed=7", GRPO_ACCEL_DECISION__KEEP="0.75",
        GRPO_ACCEL_DECISION__AUDIT="0.5")
    assert given["values"]["decision"]["keep"] == 0.25
    assert given["values"]["decision"]["audit"] == 0.5
    assert given["values"]["seed"] == 7
    assert given["origins"]["decision.keep"] == "--set"
    assert given["origins"]["decision.audit"] == "GRPO_ACCEL_DECISION__AUDIT"
    assert given["origins"]["mode"] == f"{config}:2"
    assert given["origins"]["decision.step"] == "default"


def leaves(properties, prefix=""):
    for name, what in properties.items():
        if "properties" in what:
            yield from leaves(what["properties"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", what


def test_the_schema_describes_every_key():
    schema = json.loads(must(0, "config", "schema").stdout)
    described = dict(leaves(schema["properties"]))
    given = answer("config", "dump")
    assert list(described) == list(given["origins"])
    for path, what in described.items():
        value = given["values"]
        for part in path.split("."):
            value = value[part]
        assert what["default"] == value, path
        assert what["description"] and what["anyOf"], path
    assert schema["additionalProperties"] is False
    assert schema["properties"]["decision"]["additionalProperties"] is False


def test_the_documentation_page_is_current():
    page = must(0, "config", "docs").stdout
    assert (ROOT / "docs/configuration.md").read_text() == page, "renew it: grpo-accel config docs > docs/configuration.md"
    assert answer("config", "docs")["markdown"] == page


def test_a_full_disk_below_standard_output_is_an_error():
    with open("/dev/full", "w") as full:
        done = subprocess.run([PROGRAM, "config", "dump"], stdout=full, stderr=subprocess.PIPE, text=True, env=CLEAN, timeout=60)
    assert done.returncode == 3
    assert done.stderr == "grpo-accel: can't write to standard output\n"


def waits_in_write(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"


def test_a_crash_of_ours_has_its_own_exit_code():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ: the smallest pipe, filled up
    try:
        while True:
            os.write(writing, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(writing, True)
    process = subprocess.Popen([PROGRAM, "config", "docs"], stdout=writing, stderr=subprocess.PIPE, text=True, env=CLEAN)
    try:
        until = time.monotonic() + 60
        while not waits_in_write(process) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGSEGV)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)
    assert process.returncode == 70
    assert "This is a defect of grpo-accel" in errors


# ---- run


def test_run_gives_the_script_s_own_exit_code(config, tmp_path):
    python = fake_python(tmp_path, 'echo "$@"; echo "$GRPO_ACCEL_CONFIG"; echo "$GRPO_ACCEL_OVERRIDES"; exit 43')
    os.symlink(config, tmp_path / "link.yaml")
    done = must(
        43, "run", "--config", "link.yaml", "--set", "seed=3", "--set", "decision.keep=0.25", "--", "train.py", "--json", "a b",
        cwd=tmp_path, GRPO_ACCEL_PYTHON=python)
    assert done.stdout.splitlines() == [
        "-m grpo_accel.launch train.py --json a b", str(config.resolve()), "seed=3", "decision.keep=0.25"]


def test_run_maps_the_launcher_s_environment(config, tmp_path):
    python = fake_python(tmp_path, 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR"')
    place = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
             "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    done = must(0, "run", "--config", config, "--", "x.py", GRPO_ACCEL_PYTHON=python, **place)
    assert done.stdout.split()[:4] == ["1", "2", "1", "2"]
    assert len(done.stdout.split()) == 5
    must(2, "run", "--config", config, "--", "x.py", GRPO_ACCEL_PYTHON=python, **place | {"WORLD_SIZE": "3", "RANK": "1"})


def test_only_rank_0_explains_a_wrong_configuration(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("mode: prnue\n")
    place = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    python = fake_python(tmp_path, "echo started")
    said = {}
    for rank in ("0", "1"):
        done = must(2, "run", "--config", path, "--", "x.py", GRPO_ACCEL_PYTHON=python, OMPI_COMM_WORLD_RANK=rank,
                    OMPI_COMM_WORLD_LOCAL_RANK=rank, **place)
        assert done.stdout == ""
        said[rank] = done.stderr
    assert "did you mean 'prune'?" in said["0"]
    assert said["1"] == ""


def test_disabled_means_not_installed(tmp_path):
    python = fake_python(tmp_path, 'echo "$@"; echo "[$GRPO_ACCEL_CONFIG]"')
    done = must(0, "run", "--config", tmp_path / "none.yaml", "--", "x.py", "1", GRPO_ACCEL_PYTHON=python, GRPO_ACCEL_DISABLE="1")
    assert done.stdout.splitlines() == ["x.py 1", "[]"]


def test_mode_off_still_runs_the_script(config, tmp_path):
    python = fake_python(tmp_path, 'echo "$@"')
    done = must(0, "run", "--config", config, "--set", "mode=off", "--", "x.py", GRPO_ACCEL_PYTHON=python)
    assert done.stdout == "-m grpo_accel.launch x.py\n"


def test_the_interpreter_beside_the_program_is_taken(config, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    os.symlink(Path(PROGRAM).resolve(), folder / "grpo-accel")
    os.rename(fake_python(tmp_path, "echo beside"), folder / "python")
    by_path = [str(folder / "grpo-accel"), "run", "--config", str(config), "--", "x.py"]
    by_name = ["grpo-accel", *by_path[1:]]
    for words in (by_path, by_name):
        environment = CLEAN | {"PATH": f"{folder}:{CLEAN['PATH']}"}
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
        assert (done.returncode, done.stdout) == (0, "beside\n"), done.stderr


def test_a_missing_interpreter_is_a_missing_component(config):
    done = must(4, "run", "--config", config, "--", "x.py", GRPO_ACCEL_PYTHON="/nowhere/python")
    assert "/nowhere/python" in done.stderr and "GRPO_ACCEL_PYTHON names another" in done.stderr


def test_a_dry_run_hands_its_plan_on(config, tmp_path):
    """Not the script but the rehearsal is started (test_dry_run has what it does), and told what would be."""
    python = fake_python(tmp_path, 'echo "$@" >&2; echo "$GRPO_ACCEL_DRY_RUN"')
    done = must(0, "run", "--config", config, "--dry-run", "--json", "--", "x.py", "1", GRPO_ACCEL_PYTHON=python)
    plan = json.loads(done.stdout)
    assert done.stderr == "-m grpo_accel.dry_run --json\n"
    assert plan["command"] == [python, "-m", "grpo_accel.launch", "x.py", "1"]
    assert plan["mode"] == "shadow"
    assert plan["environment"]["GRPO_ACCEL_CONFIG"] == str(config)
    assert plan["fingerprint"] == answer("config", "check", config)["fingerprint"]
    assert plan["rehearsal"]["run_dir"] == f"{tmp_path}/run" and plan["rehearsal"]["limit_seconds"] == 240
    assert "option '--timeout'" in must(2, "run", "--config", config, "--dry-run", "--timeout", "0", "--", "x.py").stderr


# ---- the record


def test_inspect_counts_what_was_written(run_folder):
    found = answer("inspect", run_folder)
    assert (found["run_id"], found["model"], found["config_fingerprint"]) == ("run-1", "sd3", "0000000000000abc")
    assert (found["rows"], found["ranks"], found["segments"], found["updates"], found["batches"]) == (576, 2, 12, 6, 6)
    assert (found["kept"], found["pruned"], found["audited"], found["with_reward"]) == (552, 24, 288, 552)
    assert (found["first_update"], found["last_update"]) == (0, 5)
    assert found["bytes"] == sum(path.stat().st_size for path in run_folder.rglob("*.h5"))
    assert found["columns"]["features/attention"] == {"type": "f16", "shape": [576, 1, 2, 4, 4]}
    assert found["columns"]["features/preview"] == {"type": "f16", "shape": [576, 1, 1]}
    assert found["columns"]["prompt_hash"] == {"type": "u8", "shape": [576, 16]}
    assert found["reward"]["combined"]["rows"] == 552
    text = must(0, "inspect", run_folder / "record").stdout
    assert "576 rows of 2 ranks (world size 2) in 12 segments" in text
    assert "kept 552, pruned 24, audited 288, with reward 552" in text


def test_inspect_agrees_with_numpy(run_folder):
    h5py = pytest.importorskip("h5py")
    numpy = pytest.importorskip("numpy")
    rewards = numpy.concatenate([h5py.File(path)["reward/combined"][:] for path in sorted(run_folder.rglob("*.h5"))])
    found = answer("inspect", run_folder)["reward"]["combined"]
    for name, expected in (("mean", numpy.nanmean(rewards.astype("f8"))), ("std", numpy.nanstd(rewards.astype("f8"))),
                           ("min", numpy.nanmin(rewards)), ("max", numpy.nanmax(rewards))):
        assert found[name] == pytest.approx(float(expected), rel=1e-6)


def test_verify_finds_damage(tmp_path):
    run = written_record.write_record(tmp_path / "run", ranks=1, updates=2)
    whole = answer("verify", run)
    assert whole["verified"] is True and whole["rows"] == 96
    assert must(0, "verify", "--quiet", run).stdout == ""
    segment = run / "record/rank-00000/segment-000001.h5"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(bytes(content[: len(content) - 100]))
    damaged = answer("verify", run, code=1)
    assert damaged["verified"] is False and damaged["damages"] >= 1
    assert any(finding["file"].endswith("segment-000001.h5") for finding in damaged["findings"])
    assert "damage: " in must(1, "verify", "--quiet", run).stdout
    assert "NOT whole" in must(1, "verify", run).stdout
    assert "1 segments were refused" in must(0, "inspect", run).stderr


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_no_record_is_an_input_error(command, tmp_path):
    assert "No such file" in must(3, command, tmp_path / "none").stderr
    must(3, command, tmp_path)
    assert answer(command, tmp_path / "none", code=3)["error"]["status"] == "file"


# ---- the probe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = written_record.write_record(folder / "run", updates=24, skill=0.8, seed=1)
    report = answer("train", "--data", data, "--out", folder / "probe.safetensors", "--seed", "3", "--seconds-max", "60")
    return data, folder / "probe.safetensors", report


def test_train_writes_a_probe_and_says_how_good_it_is(trained):
    _, probe, report = trained
    assert probe.stat().st_size > 100
    assert list(probe.parent.glob("*.tmp*")) == []
    assert report["chosen"] in report["candidates"]
    assert (report["model"], report["steps"], report["steps_total"], report["seed"]) == ("sd3", [3], 10, 3)
    figure = report["candidates"][report["chosen"]]["report"]
    assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]
    assert 0.5 < figure["value"] < 1


def test_evaluate_follows_the_contract(trained, tmp_path):
    data, probe, report = trained
    ours = answer("evaluate", "--probe", probe, "--data", data)  # rows that the probe has not learned from
    assert ours["in_sample"] is False and 0 < ours["n_groups"] < 12 * 2 * written_record.GROUPS
    found = answer("evaluate", "--probe", probe, "--data", data, "--all-rows", "--report", tmp_path / "report")
    assert found["in_sample"] is True
    assert {"n_rows", "n_groups", "within", "pooled", "baselines", "kept_energy", "calibration", "by_step", "by_input"} <= set(found)
    assert set(found["within"]) == {"spearman", "pearson", "kendall", "auc_top_quarter", "auc_above_median", "pairwise_accuracy"}
    assert set(found["pooled"]) == {"spearman", "pearson", "auc"}
    assert set(found["baselines"]) == {"prompt_mean", "ridge", "random"}
    assert set(found["kept_energy"]) == {"0.25", "0.5"}
    assert set(found["calibration"]) == {"slope", "coverage90"}
    assert set(found["by_step"]) == {"3"} and set(found["by_input"]) == {"preview"}
    assert found["audited_only"] is True  # rows were pruned
    assert found["n_groups"] == 12 * 2 * written_record.GROUPS
    assert 0.6 < found["within"]["spearman"]["value"] < 1
    assert found["above_gate"] is True
    assert found["training"]["held_out_spearman"]["value"] == pytest.approx(
        report["candidates"][report["chosen"]]["report"]["value"], abs=0.05)
    assert json.loads((tmp_path / "report/metrics.json").read_text()) == found


def test_evaluate_says_no_below_the_gate(trained):
    data, probe, _ = trained
    assert answer("evaluate", "--probe", probe, "--data", data, "--gate", "0.99", code=1)["above_gate"] is False
    text = must(1, "evaluate", "--probe", probe, "--data", data, "--gate", "0.99").stdout
    assert "pooled over prompts (how well prompts are told apart)" in text
    assert must(0, "evaluate", "--probe", probe, "--data", data, "--quiet").stdout == ""


def test_a_refused_probe_is_an_input_error(trained, tmp_path):
    data, probe, _ = trained
    must(3, "evaluate", "--probe", tmp_path / "none.safetensors", "--data", data)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(probe.read_bytes()[:-7])
    assert "broken.safetensors" in must(3, "evaluate", "--probe", broken, "--data", data).stderr
    must(3, "evaluate", "--probe", probe, "--data", tmp_path / "none")
    must(3, "train", "--data", tmp_path / "none", "--out", tmp_path / "out.safetensors")
    must(3, "train", "--data", data, "--out", tmp_path / "none/out.safetensors")


def test_the_same_seed_trains_the_same_probe(trained, tmp_path):
    data, probe, _ = trained
    small = ("--set", "retrain.window_rows=512")
    for name in ("a", "b"):
        must(0, "train", "--data", data, "--out", tmp_path / name, "--seed", "5", *small)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
