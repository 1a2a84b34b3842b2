"""The three losses of stage 1. All vectors are adapter outputs of length 1, so products are cosines.

x_i are the targets, x_i+ the items chosen as similar; B pairs in a batch, D = 64.
"""

from __future__ import annotations

from typing import Dict, Tuple

import torch
from torch.nn.functional import cross_entropy

from common.device import fp32_product

Vectors = Tuple[torch.Tensor, torch.Tensor]  # targets (B, D), positives (B, D)


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


def alignment_losses(vectors: Dict[str, Vectors], temperature: float) -> Dict[str, torch.Tensor]:
    """The terms that the modalities at hand allow; stage 1 minimises their sum.

    Args:
        vectors: ``text`` and/or ``image`` → targets and positives.
    """
    terms = {}
    if "text" in vectors:
        terms["t2t"] = pair_loss(*vectors["text"], temperature)
    if "image" in vectors:
        terms["i2i"] = pair_loss(*vectors["image"], temperature)
    if "text" in vectors and "image" in vectors:
        terms["t2i"] = cross_modal_loss(vectors["text"][0], vectors["image"][0], temperature)
    return terms
