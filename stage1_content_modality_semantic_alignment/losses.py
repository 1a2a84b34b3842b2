"""The three losses of stage 1. All vectors are adapter outputs of length 1, so products are cosines.

x_i are the targets, x_i+ the items chosen as similar; B pairs in a batch, D = 64.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

import torch
from torch.nn.functional import cross_entropy

from common.device import fp32_product

Vectors = Tuple[torch.Tensor, torch.Tensor]  # targets (B, D), positives (B, D)
LOSSES = ("t2t", "i2i", "t2i")


def pair_loss(targets: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE within one modality (t2t, i2i): x_i against [all positives; all targets], label: its own positive.

    The 2B columns hold x_i itself too, with cosine 1, as in the method's description.
    """
    logits = fp32_product(targets, torch.cat([positives, targets])) / temperature  # (B, 2B)
    return cross_entropy(logits, torch.arange(len(targets), device=targets.device))


def cross_modal_loss(text: torch.Tensor, image: torch.Tensor, temperature: float) -> torch.Tensor:
    """t2i: symmetric cross entropy of the targets' texts (B, D) against their images (B, D), as in CLIP."""
    logits = fp32_product(text, image) / temperature  # (B, B)
    own = torch.arange(len(text), device=text.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def terms_of(modalities: Iterable[str], losses: Sequence[str]) -> List[str]:
    """Those of ``losses`` that the modalities allow, in the order of `LOSSES`."""
    needs = {"t2t": {"text"}, "i2i": {"image"}, "t2i": {"text", "image"}}
    return [term for term in LOSSES if term in losses and needs[term] <= set(modalities)]


def alignment_losses(
    vectors: Mapping[str, Vectors], temperature: float, losses: Sequence[str] = LOSSES
) -> Dict[str, torch.Tensor]:
    """The terms of ``losses`` that the modalities at hand allow; stage 1 minimises their sum.

    Args:
        vectors: ``text`` and/or ``image`` → targets and positives.
    """
    terms: Dict[str, Callable[[], torch.Tensor]] = {
        "t2t": lambda: pair_loss(*vectors["text"], temperature),
        "i2i": lambda: pair_loss(*vectors["image"], temperature),
        "t2i": lambda: cross_modal_loss(vectors["text"][0], vectors["image"][0], temperature),
    }
    return {term: terms[term]() for term in terms_of(vectors, losses)}
