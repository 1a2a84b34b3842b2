"""One process or several: started by ``torchrun``, or alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, List

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process's place among ``size`` of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The device setting of this process: of several on GPUs, each takes its own."""
        return f"cuda:{self.local_rank}" if self.size > 1 and _on_cuda(asked) else asked

    def sum(self, tensor: torch.Tensor) -> None:
        """Sum a CPU tensor over all processes, in place."""
        if self.size > 1:
            moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
            dist.all_reduce(moved)
            tensor.copy_(moved)

    def gather(self, value: Any) -> List[Any]:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values: List[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """All processes' rows, end to end in the order of the ranks; each may have another number of them."""
        if self.size == 1:
            return rows
        counts: List[int] = self.gather(len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    def agree(self, value: Any) -> Any:
        """The first process's value, on all."""
        return self.gather(value)[0]


def _on_cuda(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def start_processes(device: str) -> Processes:
    """Join torchrun's group (gloo on CPUs, nccl on GPUs), once; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Processes()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if _on_cuda(device):
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if _on_cuda(device) else "gloo")
    return Processes(dist.get_rank(), size, local_rank)
