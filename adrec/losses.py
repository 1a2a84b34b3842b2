"""ADRec's contrastive loss, and what tells how well vectors are spread."""

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
        negatives: (B, K) cos θ⁻; −∞ where a negative does not count for a query.
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


def log_counts(items: Tensor) -> Tensor:
    """log of how often each of these items stands among them: (K,) ids → (K,) float32.

    Targets come to the queue as often as they are popular. Subtracted from the logits, this lets an item count
    once (the correction of sampled softmax; Yi et al., RecSys 2019).
    """
    _, place, counts = items.unique(return_inverse=True, return_counts=True)
    return counts.float().log()[place]


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of positive pairs of unit vectors (Wang and Isola 2020); x, y: (B, d)."""
    return (x - y).square().sum(dim=1).mean()


def uniformity(x: Tensor) -> Tensor:
    """log mean e^{−2 ‖xᵢ − xⱼ‖²} over pairs of different rows (Wang and Isola 2020); x: (B, d), B ≥ 2."""
    return torch.pdist(x.float()).square().mul(-2).exp().mean().log()
