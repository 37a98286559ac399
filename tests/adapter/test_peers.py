"""Ranks that ask each other through torch.distributed, and one that does not come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("grpo_accel")
sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402
import torch  # noqa: E402
from grpo_accel.peers import Peers  # noqa: E402

PROGRAM = """
import json, math, os, sys
import torch
from grpo_accel import peers

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
ours = peers.Peers(size)
gathered = ours.gather(torch.tensor([[rank, 1.0], [rank, float("nan")]]))
tensors = [torch.full((2,), 1.0 + rank), torch.tensor([[10.0 * rank]])]
some = ours.average(tensors, weight=1 + 2 * rank)
failed = [torch.tensor([float("nan") if rank == 0 else 4.0])]
without_one = ours.average(failed, weight=rank)
nobody = ours.average([torch.ones(1)], weight=0)
means = [tensor.flatten().tolist() for tensor in tensors]
print(json.dumps([gathered[:, 0].tolist(), some, means, without_one, failed[0].item(), nobody]))
if sys.argv[1] == "leave" and rank == 1:
    torch.distributed.barrier()
    sys.exit()
if sys.argv[1] == "leave":
    try:
        ours.gather(torch.ones(1))
    except RuntimeError as error:
        print("left alone")
    torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def run(argument, program=PROGRAM):
    port = str(mini_flow_grpo.free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, argument], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), answers
    return [output.splitlines() for output, _ in answers]


def test_two_ranks_gather_and_average():
    # weights 1 and 3: (1·1 + 3·2)/4, (1·0 + 3·10)/4; then the rank with weight alone counts, then nobody does
    wanted = '[[0.0, 0.0, 1.0, 1.0], true, [[1.75, 1.75], [7.5]], true, 4.0, false]'
    assert [lines[0] for lines in run("stay")] == [wanted, wanted]


def test_a_rank_that_stays_away_costs_a_wait_and_not_the_job():
    impatient = PROGRAM.replace("ours = peers", "peers.WAIT_SECONDS_MAX = 3\nours = peers")
    (_, left), stayed = run("leave", impatient)
    assert left == "left alone" and len(stayed) == 1


def test_alone_everything_is_this_ranks_own():
    alone = Peers(1)
    values = torch.arange(4.0)
    assert alone.gather(values) is values
    assert alone.average([values], weight=2) and not alone.average([values], weight=0)
    assert Peers(4).gather(values) is values, "without a process group the others can't be asked"
