"""The other ranks, asked through torch.distributed once an update: only where every rank comes by.

A gloo group of our own with a deadline: a rank that stays away costs its peers a wait and this signal, never the job.
"""

from __future__ import annotations

from datetime import timedelta

import torch

WAIT_SECONDS_MAX = 120


class Peers:
    """Collective from the first call on; alone (one rank, or no process group) everything is this rank's own."""

    def __init__(self, world_size: int):
        self._world_size = world_size
        self._group = None
        self.count = 1

    def _join(self) -> None:
        distributed = torch.distributed
        if self._group is not None or self._world_size < 2:
            return
        if not distributed.is_available() or not distributed.is_initialized():
            return
        if distributed.get_world_size() != self._world_size:
            return
        self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_SECONDS_MAX))
        self.count = self._world_size

    def tell(self, *numbers: int) -> list:
        """These numbers of every rank, a tuple each. Collective; what comes after it must only need what it said."""
        self._join()
        if self._group is None:
            return [numbers]
        own = torch.tensor(numbers, dtype=torch.int64)
        parts = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(parts, own, group=self._group)
        return [tuple(part.tolist()) for part in parts]

    def gather(self, values):
        """float32 [n, …] of every rank → [ranks · n, …] in the order of ranks. Collective.

        The same n everywhere: gloo ends the process otherwise, so ask `tell` first.
        """
        self._join()
        if self._group is None:
            return values
        parts = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(parts, values.contiguous(), group=self._group)
        return torch.cat(parts)

    def average(self, tensors: list, weight: float) -> bool:
        """Replaces tensors by their weighted mean over the ranks; False if no rank has any weight. Collective."""
        self._join()
        if self._group is None:
            return weight > 0
        parts = [tensor.detach().float().cpu().flatten() * weight for tensor in tensors]
        parts = parts if weight > 0 else [torch.zeros_like(part) for part in parts]  # 0 times NaN is not 0
        flat = torch.cat([*parts, torch.tensor([float(weight)])])
        torch.distributed.all_reduce(flat, group=self._group)
        total = float(flat[-1])
        if total <= 0:
            return False
        start = 0
        for tensor in tensors:
            mean = flat[start: start + tensor.numel()] / total
            tensor.data.copy_(mean.view(tensor.shape))
            start += tensor.numel()
        return True
