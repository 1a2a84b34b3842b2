"""Dropout that is cheap on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _CpuDropout(torch.autograd.Function):
    """Dropout that cuts its random numbers out of 64-bit draws.

    torch's own dropout draws one float per element on the CPU and takes 40 % of a training epoch here
    (benchmarks/stage2.py). Kept with probability 1 − k/256 or 1 − k/65536, nearest to 1 − p, and
    scaled by the inverse of exactly that, in bf16 rounded as all else is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        bits, dtype = (8, torch.int8) if (p * 256).is_integer() else (16, torch.int16)
        dropped = round(p * 2**bits)
        words = torch.empty(-(-x.numel() * bits // 64), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(dtype)[: x.numel()].view(x.shape)
        multiplier = (draws >= dropped - 2 ** (bits - 1)).to(x.dtype).mul_(2**bits / (2**bits - dropped))
        ctx.save_for_backward(multiplier)
        return x * multiplier

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (multiplier,) = ctx.saved_tensors
        return gradients[0] * multiplier, None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability ``p`` and scale the rest by 1 / (1 − p); any shape."""
    if not training or p == 0.0:
        return x
    if x.device.type == "cpu" and x.numel() > 0:
        out: Tensor = _CpuDropout.apply(x, p)  # type: ignore[no-untyped-call]
        return out
    return F.dropout(x, p)


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p, self.training)
