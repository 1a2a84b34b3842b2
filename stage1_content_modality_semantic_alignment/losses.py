"""The three losses of stage 1, over outputs of the adapters. They have length 1 (S15), so products are cosines.

x_i are the targets, x_i+ the items chosen as similar; B pairs in a batch, D = 64.
"""

from __future__ import annotations

from typing import Dict, Iterable, Mapping, Tuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.compute import fp32_product
from stage1_content_modality_semantic_alignment.settings import LOSSES

Vectors = Tuple[Tensor, Tensor]  # targets (B, D), positives (B, D)


def pair_loss(targets: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """InfoNCE within one modality (t2t, i2i): x_i against [all positives; all targets], label: its own positive.

    The 2B columns contain x_i itself too, with cosine 1, as the paper describes.
    """
    logits = fp32_product(targets, torch.cat([positives, targets])) / temperature  # (B, 2B)
    return cross_entropy(logits, torch.arange(len(targets), device=targets.device))


def cross_modal_loss(text: Tensor, image: Tensor, temperature: float, mean: bool = True) -> Tensor:
    """t2i: symmetric cross entropy of the targets' texts (B, D) against their images (B, D), as in CLIP.

    Args:
        mean: of both directions; false (S15 released): their sum.
    """
    logits = fp32_product(text, image) / temperature  # (B, B)
    own = torch.arange(len(text), device=text.device)
    both = cross_entropy(logits, own) + cross_entropy(logits.T, own)
    return both / 2 if mean else both


def alignment_losses(
    vectors: Mapping[str, Vectors], temperature: float, losses: Iterable[str] = tuple(LOSSES), mean: bool = True
) -> Dict[str, Tensor]:
    """Modality → vectors; returns the terms of ``losses`` that the modalities allow. Stage 1 minimises their sum."""
    terms: Dict[str, Tensor] = {}
    if "t2t" in losses and "text" in vectors:
        terms["t2t"] = pair_loss(*vectors["text"], temperature)
    if "i2i" in losses and "image" in vectors:
        terms["i2i"] = pair_loss(*vectors["image"], temperature)
    if "t2i" in losses and "text" in vectors and "image" in vectors:
        terms["t2i"] = cross_modal_loss(vectors["text"][0], vectors["image"][0], temperature, mean)
    return terms
