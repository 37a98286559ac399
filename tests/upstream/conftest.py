"""Runs of flow-grpo's scripts, each made once a session; UPSTREAM_RUNS, a folder, keeps them over sessions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import running  # noqa: E402
from scripts import SCRIPTS  # noqa: E402

STEP = 2  # after which the tests stop half of each rank's rows
# Without a probe only chance can choose; what is tested here is the seam, not the choice.
PRUNE = "version: 1\nmode: prune\nrun_dir: {run_dir}\ndecision: {{step: 2, keep: 0.5, policy: random}}\n"
MODES = {
    "off": "version: 1\nmode: off\n",
    "shadow": "version: 1\nmode: shadow\nrun_dir: {run_dir}\ndecision: {{step: 2, keep: 0.5}}\n",
    "prune": PRUNE,
    "preview": "version: 1\nmode: prune\nrun_dir: {run_dir}\ndecision: {{step: 2, keep: 0.5}}\nprobe: {{direct: preview}}\n",
    "drop": PRUNE + "advantage: {{drop_stopped_rows: true}}\n",
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    kept = os.environ.get("UPSTREAM_RUNS")
    return Path(kept) if kept else tmp_path_factory.mktemp("upstream")


@pytest.fixture(scope="session")
def differs(folders):
    """``differs(script)``: by how much kept rows may differ from the same rows among all; 0 unless kernels.py finds, with
    no grpo-accel in sight, that this machine's kernels depend on the number of rows."""
    found = {}

    def get(script):
        if script.model != "sd3":
            return 0.0
        if script.model not in found:
            command = [running.python(script), running.HERE / "kernels.py", folders / "model-sd3", "SD3Transformer2DModel"]
            asked = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                                   timeout=running.PATIENCE, check=False)
            assert asked.returncode in (0, 1) and "largest difference" in asked.stdout, asked.stderr[-2000:]
            found[script.model] = 1e-5 * asked.returncode
            print(f"kernels.py: {asked.stdout.strip()}")
        return found[script.model]

    return get


@pytest.fixture(scope="session")
def runs(folders):
    """``runs(script, mode, …)``: the ranks' ``Observed``; ``mode`` None runs the script alone.

    ``name`` tells runs of one script and mode apart; ``settings`` change config.py's, ``edit(text)`` the script's text,
    ``run_dir`` is grpo-accel's, ``updates`` how many the script makes.
    """

    def model(script):
        folder = folders / f"model-{script.model}"
        return folder if (folder / "model_index.json").is_file() else running.write_model(script, folder)

    def get(name, mode=None, label="", settings=None, edit=None, run_dir=None, updates=running.UPDATES):
        script = SCRIPTS[name]
        reason = running.reason_to_skip(script)
        if reason is not None:
            pytest.skip(reason)
        out = folders / "-".join(filter(None, [name, mode or "alone", label]))
        if not all((out / f"rank-{rank}-end.json").is_file() for rank in range(running.RANKS)):
            folder = model(script)
            shutil.rmtree(out, ignore_errors=True)  # of a run that was broken off
            out.mkdir()
            accel, path = None, None
            if mode is not None:
                accel = out / "accel.yaml"
                accel.write_text(MODES[mode].format(run_dir=run_dir or out / "accel"))
            if edit is not None:
                path = out / f"{name}.py"
                path.write_text(edit((running.checkout() / "scripts" / f"{name}.py").read_text()))
            running.run(script, folder, out, accel, updates, settings, path)
        return running.observed(out, updates)

    return get
