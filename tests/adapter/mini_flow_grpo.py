"""What the tests of experiments/mini_flow_grpo share: its modules, a model folder and a way to run it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / "experiments" / "mini_flow_grpo"


def use_its_modules():
    """Makes ``flow_grpo`` and ``experiments`` importable."""
    for folder in (str(ROOT), str(TRAINER)):
        if folder not in sys.path:
            sys.path.insert(0, folder)


@lru_cache(maxsize=None)
def load(name):
    """A file of the trainer's folder as a module."""
    use_its_modules()
    spec = importlib.util.spec_from_file_location(f"mini_flow_grpo_{name}", TRAINER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_model(folder, family="sd3"):
    """Writes the shapes world's untrained folder of a family."""
    use_its_modules()
    from experiments.shapes import build

    build.write_untrained(family, folder)
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def under_mpi(command, ranks=2):
    """``command`` as an mpirun of ``ranks``, its ranks' environment set as torch.distributed wants it."""
    return [
        *("mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)),
        str(ROOT / "tests" / "upstream" / "with_ranks"),
        *command,
    ]


def mpi_environment(**variables):
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(free_port()),
        **variables,
    }


def train(model, save_dir, name, *overrides, ranks=0, **variables):
    """Runs the trainer to its end, in one process or under mpirun; the lines of its progress.jsonl."""
    command = [
        *(sys.executable, str(TRAINER / "train_sd3.py")),
        *("--config", f"{TRAINER / 'config.py'}:{name}"),
        f"--config.pretrained.model={model}",
        f"--config.save_dir={save_dir}",
        *overrides,
    ]
    result = subprocess.run(
        under_mpi(command, ranks) if ranks else command,
        env=mpi_environment(**variables),
        cwd=save_dir.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in (save_dir / "progress.jsonl").read_text().splitlines()]
