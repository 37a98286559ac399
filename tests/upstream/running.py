"""Runs flow-grpo's unmodified scripts under mpirun, watched by observe/sitecustomize.py."""

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = ROOT / ".venv-upstream"


def checkout():
    """The flow-grpo checkout to test against, or None."""
    return Path(os.environ["FLOW_GRPO_DIR"]).resolve() if os.environ.get("FLOW_GRPO_DIR") else None


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(model, out, updates):
    """What the ranks inherit: our prompts, model and outputs, no network, no wandb."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(free_port()),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # else each forked data loader worker warns
        "PYTHONPATH": os.pathsep.join([str(HERE / "observe"), str(checkout())]),
        "UPSTREAM_MODEL": str(model),
        "UPSTREAM_OUT": str(out),
        "OBSERVE_DIR": str(out),
        "OBSERVE_UPDATES": str(updates),
    }


def run(script, model, out, accel=None, ranks=2, updates=2, timeout=420):
    """Runs ``scripts/<script>.py`` for some updates in the empty folder ``out``.

    ``accel`` is a configuration file of grpo-accel, which then launches the script; without it the script
    runs by itself. Returns the ``Observed`` of each rank.
    """
    path = str(checkout() / "scripts" / f"{script}.py")
    if accel is None:
        launch = [str(HERE / "with_ranks"), str(VENV / "bin" / "python"), path]
    else:
        launch = [str(VENV / "bin" / "grpo-accel"), "run", "--config", str(accel), "--", path]
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *launch]
    result = subprocess.run(
        [*command, "--config", f"{HERE / 'config.py'}:{script}"],
        cwd=out,
        env=environment(model, out, updates),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return [Observed(out, rank, updates) for rank in range(ranks)]


class Observed:
    """What one rank's script did.

    ``updates`` holds per update ``prompts`` [N], ``advantages`` [N, T], ``reward_avg`` [N, T], all over the
    whole world, and ``sampled_rows``; ``trained_rows`` are the rank's rows through the transformer with
    gradients, per update.
    """

    def __init__(self, folder, rank, updates):
        files = [np.load(folder / f"rank-{rank}-update-{u}.npz") for u in range(updates)]
        self.updates = [{name: file[name] for name in file.files} for file in files]
        end = json.loads((folder / f"rank-{rank}-end.json").read_text())
        self.weights = end["weights_sha256"]
        before = [int(update["trained_rows_before"]) for update in self.updates]
        self.trained_rows = [*before[1:], end["trained_rows_after_last_update"]]
