"""The probe's network by each provider against PyTorch's autograd and optimiser, from the same start."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from experiments.probe_throughput.network import Network, Options, Trainer

PROGRAM = os.environ.get("GA_NETWORK_PROGRAM", "")
TORCH = Path(torch.__file__).parent / "lib"
GROUP = 16
ROWS = 2 * GROUP
STEPS = 200

pytestmark = pytest.mark.skipif(not PROGRAM, reason="GA_NETWORK_PROGRAM does not name tests/providers/network_program")

CASES = {
    "joined": Options(channels=(16, 24, 32), maps=6, side=8, scalars=3, prompt=20),
    "joined in the blocks": Options(condition="blocks", channels=(16, 24, 32), maps=6, side=8, scalars=3, prompt=20),
    "joined, two targets, deep": Options(
        channels=(12, 18, 20), blocks_per_level=2, maps=4, side=8, scalars=0, prompt=0, targets=2
    ),
    "joined in the blocks, two targets, deep": Options(
        condition="blocks", channels=(12, 18, 20), blocks_per_level=2, maps=4, side=8, scalars=0, prompt=0, targets=2
    ),
    "paper": Options(architecture="paper", channels=(16, 24, 32), maps=20, side=8, scalars=2, prompt=5),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
            arrays[name] = torch.tensor(values, dtype=torch.float32).reshape(entry["shape"])
    return arrays


@cache
def run_program(options: Options, provider: str) -> dict[str, Tensor]:
    arguments = {
        "provider": provider,
        "torch": TORCH,
        "architecture": options.architecture,
        "condition": options.condition,
        "channels": ",".join(map(str, options.channels)),
        "blocks": options.blocks_per_level,
        "maps": options.maps,
        "side": options.side,
        "scalars": options.scalars,
        "prompt": options.prompt,
        "targets": options.targets,
        "rows": ROWS,
        "group": GROUP,
        "batches": 3,
        "steps": STEPS,
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        run_with(arguments | {"out": path})
        return read_safetensors(path)


def run_with(arguments: dict[str, object]) -> None:
    command = [PROGRAM, *(text for name, value in arguments.items() for text in (f"--{name}", str(value)))]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr


def batch_of(arrays: dict[str, Tensor], number: int, options: Options) -> dict[str, Tensor]:
    batch = {name: arrays[f"batch{number}.{name}"] for name in ("maps", "scalars", "prompt", "target")}
    batch["maps"] = batch["maps"].reshape(-1, options.maps, options.side, options.side)
    return batch | {name: arrays[f"batch{number}.{name}"].flatten() for name in ("log_sigma", "weight")}


def network_from(arrays: dict[str, Tensor], options: Options) -> Network:
    network = Network(options)
    start = {name.removeprefix("start."): values for name, values in arrays.items() if name.startswith("start.")}
    assert start.keys() == dict(network.named_parameters()).keys()
    network.load_state_dict(start)
    return network


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    """Within `tolerance` of the largest value of the array: what single precision can promise of sums."""
    scale = theirs.abs().max().clamp_min(1e-6)
    worst = ((ours - theirs).abs().max() / scale).item()
    assert worst < tolerance, f"{what}: {worst:.2e} of its largest value, allowed {tolerance:.0e}"


@pytest.mark.parametrize("provider", ["native", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_forward_gradients_and_training_agree_with_autograd(case: str, provider: str) -> None:
    options = CASES[case]
    arrays = run_program(options, provider)
    network = network_from(arrays, options)
    batches = [batch_of(arrays, number, options) for number in range(3)]
    first = batches[0]
    answer = network(first["maps"], first["scalars"], first["prompt"], first["log_sigma"])
    assert_close(arrays["answer"], answer.detach(), 1e-5, "answers")

    gradient = 0.5 + torch.arange(answer.numel()).remainder(3).float()
    answer.backward(gradient.reshape(answer.shape))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert_close(arrays[f"gradient.{name}"], parameter.grad, 1e-4, f"gradient of {name}")

    network = network_from(arrays, options)
    trainer = Trainer(network, GROUP)
    losses = torch.stack([trainer.step(batches[step % 3]) for step in range(STEPS)])
    assert losses[-3:].mean() < 0.7 * losses[:3].mean()  # it has learned: agreement is not that of standing still
    assert_close(arrays["losses"].flatten(), losses, 1e-3, "losses")
    with torch.no_grad():
        trained = network(first["maps"], first["scalars"], first["prompt"], first["log_sigma"])
    assert_close(arrays["trained_answer"], trained, 1e-3, f"answers after {STEPS} steps")


@pytest.mark.parametrize("case", CASES)
def test_providers_stay_together(case: str) -> None:
    native = run_program(CASES[case], "native")
    other = run_program(CASES[case], "torch")
    assert_close(other["answer"], native["answer"], 1e-5, "answers")
    for name in native:
        if name.startswith("gradient."):
            assert_close(other[name], native[name], 1e-4, name)
    assert_close(other["trained_answer"], native["trained_answer"], 1e-3, f"answers after {STEPS} steps")
