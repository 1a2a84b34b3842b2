"""Floating-point operations of a training, counted by torch on one step."""

from __future__ import annotations

from typing import Callable, List

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def operations_of_step(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Operations of one forward and backward pass of what ``loss`` computes; for when the training is over.

    torch counts matrix products, convolutions and attention, a multiplication and an addition as two; what runs
    element by element is not counted, and neither is what a fused recurrent kernel does inside.
    """
    trained: List[Tensor] = [p for p in model.parameters() if p.requires_grad]
    model.train()
    with FlopCounterMode(display=False) as counter:
        # not backward(): it would run the hooks by which processes wait for each other
        torch.autograd.grad(loss(), trained, allow_unused=True)
    return int(counter.get_total_flops())
