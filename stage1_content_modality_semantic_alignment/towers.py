"""An encoder split in two: the frozen prefix, and the tail that stage 1 trains.

Text: BERT, prefix = embeddings and all layers but the last, tail = last layer and pooler, out = `pooler_output`.
Image: Swin, prefix = patch embedding and all stages but the last, tail = last stage, final norm (frozen) and
classifier, out = logits. What enters the tail is caught where the model's own forward hands it over, so that
masks and the like are those of the installed transformers version.
"""

from __future__ import annotations

from typing import Any, List, Tuple, cast

import numpy as np
import torch
import transformers
from torch import nn


def _what_enters(module: nn.Module, model: nn.Module, **inputs: torch.Tensor) -> Tuple[Any, ...]:
    """The positional arguments that ``model(**inputs)`` calls ``module`` with."""
    caught: List[Tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments))
    try:
        model(**inputs)
    finally:
        handle.remove()
    return caught[0]


def _first(output: Any) -> torch.Tensor:
    """A layer returns its hidden states, alone or first in a tuple, by version of transformers."""
    return output if isinstance(output, torch.Tensor) else output[0]


class Tower(nn.Module):
    """An encoder with its prefix and its tail; `forward` is both in one, as Hugging Face computes it."""

    modality: str
    width: int  # of an item's vector
    prefix_width: int  # of each row that enters the tail

    def prefix_rows(self, lengths: np.ndarray) -> np.ndarray:
        """How many rows of `prefix` belong to items of these raw lengths."""
        raise NotImplementedError

    def trained_modules(self) -> List[nn.Module]:
        """The modules that stage 1 trains; they lie in the tail."""
        raise NotImplementedError

    def prefix(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Raw inputs (B, …) → what enters the tail, (B, L, H)."""
        raise NotImplementedError

    def tail(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H), mask (B, L) → item vectors (B, width)."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Leave gradients to the trained modules alone."""
        self.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)


class TextTower(Tower):
    """BERT's `pooler_output`."""

    modality = "text"

    def __init__(self, bert: transformers.BertModel) -> None:
        super().__init__()
        self.bert: Any = bert
        self.width = self.prefix_width = int(bert.config.hidden_size)

    def prefix_rows(self, lengths: np.ndarray) -> np.ndarray:
        """One row a token."""
        return lengths

    def trained_modules(self) -> List[nn.Module]:
        """The last layer and the pooler."""
        return [self.bert.encoder.layer[-1], self.bert.pooler]

    def prefix(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids (B, L), mask (B, L), 1 for tokens → (B, L, hidden)."""
        hidden: torch.Tensor = _what_enters(
            self.bert.encoder.layer[-1], self.bert, input_ids=values, attention_mask=mask
        )[0]
        return hidden

    def tail(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, hidden) → (B, hidden).

        The pooler reads [CLS] alone, so the last feed-forward runs for [CLS] alone. The additive mask
        (B, 1, 1, L) serves every attention implementation.
        """
        last = self.bert.encoder.layer[-1]
        additive = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        attended = _first(last.attention(hidden, additive))[:, :1]  # (B, 1, hidden)
        out: torch.Tensor = self.bert.pooler(last.feed_forward_chunk(attended))
        return out

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids (B, L) → (B, hidden)."""
        out: torch.Tensor = self.bert(input_ids=values, attention_mask=mask).pooler_output
        return out


class ImageTower(Tower):
    """Swin's classification logits. Every image has the same number of patches, so masks say nothing."""

    modality = "image"

    def __init__(self, swin: transformers.SwinForImageClassification) -> None:
        super().__init__()
        self.swin: Any = swin
        self.width = cast(int, swin.config.num_labels)
        patches = swin.swin.embeddings.patch_grid
        for _ in range(len(swin.config.depths) - 1):
            patches = tuple((side + 1) // 2 for side in patches)
        self.grid = patches  # the patches that enter the last stage, (rows, columns)
        self.prefix_width = int(swin.swin.num_features)

    def prefix_rows(self, lengths: np.ndarray) -> np.ndarray:
        """One row a patch, for every image."""
        return np.full_like(lengths, self.grid[0] * self.grid[1])

    def trained_modules(self) -> List[nn.Module]:
        """The last stage and the classifier."""
        return [self.swin.swin.encoder.layers[-1], self.swin.classifier]

    def prefix(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, S, S) → (B, rows · columns, channels)."""
        hidden: torch.Tensor = _what_enters(self.swin.swin.encoder.layers[-1], self.swin, pixel_values=values)[0]
        return hidden

    def tail(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, rows · columns, channels) → logits (B, labels)."""
        core = self.swin.swin
        patches = core.layernorm(_first(core.encoder.layers[-1](hidden, self.grid)))
        out: torch.Tensor = self.swin.classifier(core.pooler(patches.transpose(1, 2)).flatten(1))
        return out

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, S, S) → logits (B, labels)."""
        out: torch.Tensor = self.swin(pixel_values=values).logits
        return out
