"""What one way of computing takes, measured, and the table of it."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.compute import Compute
from common.training import Loader

HEADER = "| seconds | faster | 10¹² operations | fewer | peak GB |\n|---|---|---|---|---|---|"


@dataclass
class Measured:
    """What one way of computing takes."""

    name: str
    seconds: float
    operations: float
    gigabytes: float  # the most memory that the process has held so far

    def row(self, baseline: Optional[Measured] = None) -> str:
        """As Markdown, with the ratios to the baseline."""
        times = f"{baseline.seconds / self.seconds:.0f}×" if baseline else ""
        fewer = f"{baseline.operations / self.operations:.0f}×" if baseline else ""
        numbers = (f"{self.seconds:.2f}", times, f"{self.operations / 1e12:.3f}", fewer, f"{self.gigabytes:.1f}")
        return f"| {self.name} | {' | '.join(numbers)} |"


def measure(name: str, step: Callable[[], None], repeats: int, scale: float = 1.0) -> Measured:
    """Median seconds and operations of a step, times ``scale``.

    It is called ``repeats`` + 2 times: the first call warms up, operations are counted in the last one.
    """
    step()
    seconds = [timed(step) for _ in range(repeats)]
    with FlopCounterMode(display=False) as counter:
        step()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Measured(name, statistics.median(seconds) * scale, counter.get_total_flops() * scale, memory)


def timed(step: Callable[[], object]) -> float:
    """The seconds of a call."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def update(optimizer: torch.optim.Optimizer, terms: Dict[str, Tensor], scaler: Any = None) -> None:
    """One update of the weights by the sum of the terms."""
    optimizer.zero_grad(set_to_none=True)
    loss = torch.stack(list(terms.values())).sum()
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def train_step(
    model: Callable[..., Dict[str, Tensor]],
    loader: Loader,
    rows: np.ndarray,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    compute: Compute,
) -> None:
    """One step of this code's training on some rows of a loader, the making of the batch included."""
    batch = loader.load(rows)[0].to(compute.device)
    with compute.autocast():
        terms = model(batch)
    update(optimizer, terms, scaler)


def print_table(what: str, where: str, rows: List[str]) -> None:
    """Print the table under what it was measured on."""
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"| {what} {HEADER}")
    print("\n".join(rows))
