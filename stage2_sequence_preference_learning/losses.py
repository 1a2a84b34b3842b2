"""The terms of SICSRec's loss (paper, section on training; switch S10)."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.compute import fp32_product

LARGE = 2**13  # with more items, `cross_entropy` computes the logits of so many predictions at once:
ROWS_AT_ONCE = 128


def cross_entropy(preference: Tensor, items: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of each target over all items, in fp32.

    With more than `LARGE` items, only the logits of `ROWS_AT_ONCE` predictions are in memory.

    Args:
        preference: (N, d); items: (n, d); targets: (N,).
    """
    if len(items) <= LARGE:
        logits = fp32_product(preference, items)
        return F.cross_entropy(logits if temperature == 1.0 else logits / temperature, targets)
    with torch.autocast(preference.device.type, enabled=False):
        loss: Tensor = _BlockwiseCrossEntropy.apply(  # type: ignore[no-untyped-call]
            preference.float() / temperature, items.float(), targets
        )
        return loss


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """The gradients of a block of rows are computed in the forward pass, so that its logits are needed only once."""

    @staticmethod
    def forward(ctx: Any, preference: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        own = items[targets]
        of_preference, of_items = torch.empty_like(preference), torch.zeros_like(items)
        total = -(preference * own).sum()
        logits = preference.new_empty(min(ROWS_AT_ONCE, len(targets)), len(items))
        for rows, out in zip(preference.split(ROWS_AT_ONCE), of_preference.split(ROWS_AT_ONCE)):
            exponentials = torch.mm(rows, items.T, out=logits[: len(rows)])
            highest = exponentials.amax(dim=1, keepdim=True)
            norm = exponentials.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += (norm.log() + highest).sum()
            torch.mm(exponentials, items, out=out).div_(norm)
            of_items.addmm_(exponentials.T, rows / norm)
        of_preference -= own
        of_items.index_add_(0, targets, preference, alpha=-1)
        ctx.save_for_backward(of_preference, of_items)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tuple[Tensor, Tensor, None]:
        scale = gradients[0] / len(ctx.saved_tensors[0])
        of_preference, of_items = ctx.saved_tensors
        return of_preference * scale, of_items * scale, None


def with_negatives(targets: Tensor, n_items: int, n_negatives: int) -> Tensor:
    """Each target and its k negatives as rows of the item table: (N,) → (N, 1 + k).

    Negatives are uniform over all items but the padding, drawn with replacement and for each prediction anew. One may
    be the target or in the history.
    """
    drawn = torch.randint(1, n_items, (len(targets), n_negatives), device=targets.device)
    return torch.cat([targets[:, None], drawn], dim=1)


def sampled_softmax(
    preference: Tensor, candidates: Tensor, rows: Tensor, temperature: float = 1.0, logq_of: Optional[int] = None
) -> Tensor:
    """Cross entropy of each target over itself and its negatives, in fp32, as in eSASRec (arXiv 2508.06450).

    Args:
        preference: (N, d); candidates: (N, 1 + k, d), the vectors of ``rows``, (N, 1 + k) of `with_negatives`.
        logq_of: rows n of the item table, for the logQ correction of arXiv 2507.09331: the loss estimates that over
            all items but the padding. Draws of the target are left out, and with m draws left log((n - 2) / m) is added
            to their logits.
    """
    with torch.autocast(preference.device.type, enabled=False):
        logits = (candidates.float() @ preference.float()[:, :, None]).squeeze(-1)
    logits = logits if temperature == 1.0 else logits / temperature
    if logq_of is not None:
        hits = rows[:, 1:] == rows[:, :1]
        left = (~hits).sum(dim=1, keepdim=True).clamp(min=1)
        negatives = (logits[:, 1:] + torch.log((logq_of - 2) / left)).masked_fill(hits, -torch.inf)
        logits = torch.cat([logits[:, :1], negatives], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(rows[:, 0]))


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
