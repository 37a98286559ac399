"""What the tests of attached runs share: a run of the small trainer under mpirun through `grpo-accel run`."""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402

ROOT = mini_flow_grpo.ROOT
COMMAND = Path(sys.executable).parent / "grpo-accel"
# Noise in the first two of four steps: the tests decide after them, where the rest is certain.
EARLY_NOISE = "--config.sample.sde_window_range=(0, 2)"


def write_config(path, **sections):
    """YAML with one line a section; values are YAML flow texts."""
    lines = ["version: 1"] + [f"{name}: {value}" for name, value in sections.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(folder, config, model, *overrides, ranks=2, name="test_window", timeout=300, **variables):
    """Runs the trainer attached; returns the finished process and the lines of progress.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *("mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)),
        *(str(COMMAND), "run", "--config", str(config), "--set", f"run_dir={folder}", "--"),
        str(mini_flow_grpo.TRAINER / "train_sd3.py"),
        *("--config", f"{mini_flow_grpo.TRAINER / 'config.py'}:{name}"),
        f"--config.pretrained.model={model}",
        f"--config.save_dir={folder}",
        EARLY_NOISE,
        *overrides,
    ]
    environment = mini_flow_grpo.mpi_environment(**variables)
    environment.pop("MASTER_PORT", None)  # the launcher's own choice is under test
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    progress = folder / "progress.jsonl"
    lines = [json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else []
    return process, lines


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def warnings_in(text):
    """Warnings of ours, but for the guard's verdict on seconds: that is the machine's and changes with its load."""
    found = [line for line in text.splitlines() if "grpo_accel" in line and "warning" in line]
    return [line for line in found if "does not pay" not in line]


def warnings(process):
    return warnings_in(process.stderr)
