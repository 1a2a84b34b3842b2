"""ADRec's contrastive loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ANGLE_EPS = 1e-6  # A8: at cos = ±1 the angle's gradient is infinite


def angular_margin_infonce(positive: Tensor, negatives: Tensor, scale: float, margin: float) -> Tensor:
    """−log e^{s cos(θ⁺+m)} / (e^{s cos(θ⁺+m)} + Σ e^{s cos θ⁻}), one value per query.

    Args:
        positive: (B,) cos θ⁺.
        negatives: (B, K) cos θ⁻; −∞ where a key is not a negative of a query.
        scale, margin: s, and m in radians.

    Returns:
        (B,) float32.
    """
    cosine = positive.clamp(-1 + ANGLE_EPS, 1 - ANGLE_EPS)
    # cos(θ + m) = cos θ cos m − sin θ sin m
    with_margin = cosine * math.cos(margin) - (1 - cosine.square()).sqrt() * math.sin(margin)
    logits = scale * torch.cat([with_margin[:, None], negatives], dim=1)  # (B, 1 + K)
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, first, reduction="none")
