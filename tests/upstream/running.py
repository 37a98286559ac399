"""Runs flow-grpo's unmodified scripts under mpirun, watched by observe/sitecustomize.py."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RANKS, UPDATES = 2, 2
# Seconds of one job. On an idle machine none takes a minute; on one that others use too, several.
PATIENCE = int(os.environ.get("UPSTREAM_TIMEOUT", "600"))


def checkout():
    """The flow-grpo checkout to test against, or None."""
    return Path(os.environ["FLOW_GRPO_DIR"]).resolve() if os.environ.get("FLOW_GRPO_DIR") else None


def reason_to_skip(script):
    """Why this script can't be run here; None: it can."""
    if checkout() is None:
        return "FLOW_GRPO_DIR names no flow-grpo checkout"
    if not (checkout() / "scripts" / f"{script.name}.py").is_file():
        return f"FLOW_GRPO_DIR={checkout()} has no scripts/{script.name}.py"
    if not (ROOT / script.environment / ".installed").is_file():
        newer = " --newer" if script.environment.endswith("newer") else ""
        return f"no {script.environment}: run scripts/setup_upstream{newer}"
    if not program(script).is_file():
        return f"grpo-accel is not installed in {script.environment}"
    if shutil.which("mpirun") is None:
        return "mpirun is not installed"
    return None


def python(script):
    return ROOT / script.environment / "bin" / "python"


def program(script):
    return ROOT / script.environment / "bin" / "grpo-accel"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def variables(script, model, out, updates, settings):
    """What the ranks inherit: our prompts, model and outputs, no network, no wandb."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",  # newer versions are distributed without a GPU only if they are told so
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # else each forked data loader worker warns
        "PYTHONPATH": os.pathsep.join(
            [str(HERE / "observe"), str(checkout()), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "UPSTREAM_MODEL": str(model),
        "UPSTREAM_OUT": str(out),
        "UPSTREAM_SETTINGS": json.dumps({**dict(script.settings), **settings}),
        "OBSERVE_DIR": str(out),
        "OBSERVE_UPDATES": str(updates),
        "OBSERVE_STAND_INS": " ".join(script.stand_ins),
    }


def write_model(script, folder):
    """A pipeline folder for the script, by the interpreter that runs it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run([str(python(script)), str(HERE / "models.py"), script.model, str(folder)], env=environment,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


def run(script, model, out, accel=None, updates=UPDATES, settings=None, path=None):
    """Runs the script for some updates in the empty folder ``out`` on two ranks.

    ``accel`` is a configuration file of grpo-accel, which then launches the script; without it the script
    runs by itself. ``settings`` change config.py's; ``path`` is another text of the same script. Returns
    ``Observed`` of each rank.
    """
    path = str(path or checkout() / "scripts" / f"{script.name}.py")
    if accel is None:
        launch = [str(HERE / "with_ranks"), str(python(script)), path]
    else:
        launch = [str(program(script)), "run", "--config", str(accel), "--", path]
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(RANKS), *launch]
    with open(out / "stdout", "w+") as stdout, open(out / "stderr", "w+") as stderr:
        result = subprocess.run(
            [*command, "--config", f"{HERE / 'config.py'}:{script.name}"], cwd=out, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=stderr, env=variables(script, model, out, updates, settings or {}), timeout=PATIENCE,
        )
    assert result.returncode == 0, f"{(out / 'stdout').read_text()[-2000:]}\n{(out / 'stderr').read_text()[-4000:]}"
    return observed(out, updates)


def observed(out, updates=UPDATES):
    return [Observed(out, rank, updates) for rank in range(RANKS)]


class Observed:
    """What one rank's script did.

    ``updates`` holds per update ``prompts`` [N], ``advantages`` [N, T], ``reward_avg`` [N, T], all over the
    whole world, ``latents`` [n, …], the rank's own rows after the last step that trains, ``sampled_rows`` and
    ``scored_rows``; ``trained_rows`` are the rank's rows through the transformer with gradients, per update;
    ``errors`` what the job wrote to standard error.
    """

    def __init__(self, folder, rank, updates):
        files = [np.load(folder / f"rank-{rank}-update-{u}.npz") for u in range(updates)]
        self.folder = folder
        self.rank = rank
        self.updates = [{name: file[name] for name in file.files} for file in files]
        end = json.loads((folder / f"rank-{rank}-end.json").read_text())
        self.weights = end["weights_sha256"]
        before = [int(update["trained_rows_before"]) for update in self.updates]
        self.trained_rows = [*before[1:], end["trained_rows_after_last_update"]]
        self.errors = (folder / "stderr").read_text()

    def own(self, name, update):
        """This rank's rows of something that is over the whole world."""
        values = self.updates[update][name]
        return values.reshape(RANKS, -1, *values.shape[1:])[self.rank]
