"""Ours: what an item's vector may have beside its text: whitening with a trained map, and an offset of its own."""

from __future__ import annotations

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn
from torch.nn import functional as F

from common.device import fp32_product


class Adapter(nn.Module):
    """Ours: whitened item vectors through a trained linear layer that starts as the identity.

    Sentence vectors lie in a narrow cone, where cosines tell little; whitening spreads them.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("whitening", torch.eye(d))
        self.linear = nn.Linear(d, d)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def fit(self, vectors: Tensor) -> None:
        """Take mean and covariance of the catalogue's vectors (n, d); whitened ones have lengths near √d · 1/√d = 1.

        The covariance is Ledoit and Wolf's (2004): that of few items knows nothing of most directions, along which
        items added later would be blown up.
        """
        centred = (vectors - vectors.mean(dim=0)).double().cpu().numpy()
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        values, axes = torch.linalg.eigh(torch.from_numpy(covariance))
        whitening = axes @ torch.diag(values.clamp(min=1e-12).rsqrt()) @ axes.T / vectors.shape[1] ** 0.5
        self.mean.copy_(vectors.mean(dim=0))
        self.whitening.copy_(whitening)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) → (n, d) float32."""
        whitened = fp32_product(vectors - self.mean, self.whitening)  # which is symmetric
        return self.linear(whitened).float()  # a unit vector in bf16 would not be one


class Offsets(nn.Module):
    """Ours: a trained vector of each item, added to that of its text; none for an item that was in no training data.

    Dropped for whole items (DropoutNet, Volkovs et al., NeurIPS 2017), so that the text learns to do without.
    """

    def __init__(self, n_items: int, d: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_items, d))
        self.dropout = dropout

    def forward(self, items: Tensor) -> Tensor:
        """Items' ids (n,) → (n, d)."""
        kept = torch.ones(len(items), 1, device=items.device)
        return self.weight[items] * F.dropout(kept, self.dropout, self.training)
