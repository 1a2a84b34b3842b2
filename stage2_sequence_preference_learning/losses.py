"""The terms of SICSRec's loss (paper, section on training; switch S10)."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.compute import fp32_product


def recommendation_loss(
    preference: Tensor,
    items: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    loss: str = "cross_entropy",
    n_negatives: int = 256,
) -> Tensor:
    """Cross entropy of each target over all items, or sampled softmax.

    Sampled softmax as in eSASRec (arXiv 2508.06450): negatives are uniform over all items but the padding, drawn with
    replacement and for each prediction anew. One may be the target or in the history. With the logQ correction of
    arXiv 2507.09331 the loss estimates that over all items but the padding: draws of the target are left out, and with
    m draws left log((n - 2) / m) is added to their logits.

    Args:
        preference: (N, d); items: (n, d), row 0 is padding; targets: (N,).
        loss: cross_entropy, sampled_softmax or sampled_softmax_logq.
        n_negatives: k of both sampled softmaxes.
    """
    if loss == "cross_entropy":
        logits, labels = fp32_product(preference, items), targets
    else:
        drawn = torch.randint(1, len(items), (len(targets), n_negatives), device=targets.device)
        candidates = F.embedding(torch.cat([targets[:, None], drawn], dim=1), items)  # (N, 1 + k, d), the target first
        with torch.autocast(preference.device.type, enabled=False):
            logits = (candidates.float() @ preference.float()[:, :, None]).squeeze(-1)
        labels = torch.zeros_like(targets)
    logits = logits if temperature == 1.0 else logits / temperature
    if loss == "sampled_softmax_logq":
        hits = drawn == targets[:, None]
        left = (~hits).sum(dim=1, keepdim=True).clamp(min=1)
        negatives = (logits[:, 1:] + torch.log((len(items) - 2) / left)).masked_fill(hits, -torch.inf)
        logits = torch.cat([logits[:, :1], negatives], dim=1)
    return F.cross_entropy(logits, labels)


def contrastive_loss(
    preference: Tensor,
    contents: Tensor,
    targets: Tensor,
    sequences: Tensor,
    temperature: float,
    mask_same_target: bool = True,
) -> Tensor:
    """Content-aware contrastive task: a preference against its own target's content among the batch's.

    Rows of one sequence are not negatives of each other. In a batch of random rows they hardly ever meet; in a batch
    grouped by user they always would, although the preference should be near to the user's own items.

    Args:
        preference: (N, d) u; contents: (N, d) c⁺ of the same rows; targets: (N,);
        sequences: (N,) number of the sequence that a row is a prefix of.
        mask_same_target: S10. True: other rows with the same target are left out. False: as released, their logit is 0,
            so that each adds 1 to the sum.
    """
    logits = fp32_product(preference, contents) / temperature
    others = ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    same_target = (targets[:, None] == targets) & others
    logits = logits.masked_fill(same_target, -torch.inf if mask_same_target else 0.0)
    logits = logits.masked_fill((sequences[:, None] == sequences) & others, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(targets), device=targets.device))


def table_regularization(tables: Sequence[Tensor]) -> Tensor:
    """Σ ‖table‖₂ over the embedding tables."""
    return torch.stack([torch.linalg.vector_norm(table) for table in tables]).sum()
