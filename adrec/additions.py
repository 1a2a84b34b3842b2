"""What is ours, not the paper's: additions to the item vectors, and which keys of a queue are negatives.

ADRecSettings has a setting for each; docs/adrec.md has what each brings.
"""

from __future__ import annotations

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.encoders import identity
from common.compute import fp32_product

WHITENED_BY = 100_000  # items


class Adapter(nn.Module):
    """Whitened item vectors through a trained linear layer that starts as the identity.

    Sentence vectors are in a narrow cone, in which all cosines are similar; whitening spreads them.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("whitening", torch.eye(d))
        self.linear = identity(d)

    def fit(self, vectors: Tensor) -> Tensor:
        """Take mean and covariance of the catalogue's vectors (n, d); whitened vectors have lengths near 1.

        The covariance is that of Ledoit and Wolf (2004). The sample covariance of few items has variances near zero in
        most directions, along which new items would become very long. Of a large catalogue it is taken from evenly
        spaced items, `WHITENED_BY` at most.

        Returns:
            (d, d): the principal directions in rows, those of the least variance first.
        """
        mean = vectors.mean(dim=0)
        sample = vectors[:: -(-len(vectors) // WHITENED_BY)]
        centred = (sample - mean).double().cpu().numpy()
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        values, axes = torch.linalg.eigh(torch.from_numpy(covariance))
        whitening = axes @ torch.diag(values.clamp(min=1e-12).rsqrt()) @ axes.T / vectors.shape[1] ** 0.5
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)
        return axes.T

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) → (n, d) float32."""
        whitened = fp32_product(vectors - self.mean, self.whitening)  # which is symmetric
        return self.linear(whitened).float()  # a unit vector in bf16 would not have length 1


class Offsets(nn.Module):
    """A trained vector of each item, added to the vector of its text; items without training data have none.

    Dropped for whole items (DropoutNet, Volkovs et al., NeurIPS 2017), so that the text learns to do without.

    Args:
        n_directions: as in AlphaFuse (Hu et al., SIGIR 2025), offsets are in this many directions; 0: in all.
    """

    directions: Tensor

    def __init__(self, n_items: int, d: int, dropout: float, n_directions: int = 0) -> None:
        super().__init__()
        self.register_buffer("directions", torch.eye(d)[:n_directions], persistent=n_directions > 0)
        self.weight = nn.Parameter(torch.zeros(n_items, len(self.directions) or d))
        self.dropout = dropout

    def forward(self, items: Tensor) -> Tensor:
        """Items' ids (n,) → (n, d)."""
        kept = torch.ones(len(items), 1, device=items.device)
        offsets = self.weight[items] * F.dropout(kept, self.dropout, self.training)
        return fp32_product(offsets, self.directions.T) if len(self.directions) else offsets


def count_items_once(cosines: Tensor, items: Tensor, scale: float) -> Tensor:
    """Let the keys of an item weigh as one negative: subtract log(keys of the item) / s.

    Targets enter the queue as often as they are popular; this is the correction of sampled softmax (Yi et al., RecSys
    2019).

    Args:
        cosines: (…, K) with the keys.
        items: (K,) the keys' items.
    """
    in_order = items.sort().values
    counts = torch.searchsorted(in_order, items, right=True) - torch.searchsorted(in_order, items)
    return cosines - counts.float().log() / scale


def refined_logq(
    cosines: Tensor, items: Tensor, targets: Tensor, shares: Tensor, key_shares: Tensor, scale: float
) -> Tensor:
    """Refined logQ correction (arXiv 2507.09331): add (−log n − log Q') / s to the cosines of a row's n negatives.

    Q'(key) = Q(key) / (1 − Q(target)). The cross entropy then has the paper's gradient, with the positive as it was.

    Args:
        cosines: (…, B, K); those of a row's own target item and of a fresh queue's random vectors become −∞.
        items: (K,) the keys' items, −1 of random vectors; targets: (B,) the rows' target items.
        shares: (n_items,) of the training rows, by target.
        key_shares: (K,) or a scalar: Q of the keys.
    """
    negative = (items != targets[:, None]) & (items >= 0)  # (B, K)
    n = negative.sum(dim=1, keepdim=True).clamp(min=1)
    shift = (1 - shares[targets])[:, None].log() - n.log() - key_shares.log()
    return (cosines + shift / scale).masked_fill(~negative, -torch.inf)
