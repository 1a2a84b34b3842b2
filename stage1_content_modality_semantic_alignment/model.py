"""The model of stage 1: for each modality an encoder (a tower) and an adapter.

A tower is an encoder split in two: the frozen prefix, and the tail that stage 1 trains.
Text: BERT, prefix = embeddings and all layers but the last, tail = last layer and pooler, output = `pooler_output`.
Image: Swin, prefix = patch embedding and all stages but the last, tail = last stage, final norm (frozen) and
classifier, output = logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Protocol, Sequence, Union

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import normalize

from common.checkpoints import full_disk_is_an_error
from common.compute import to_device
from common.dataset import Dataset
from common.features import MODALITIES
from common.files import atomic_folder
from common.text_encoders import load_bert, text_model_path
from stage1_content_modality_semantic_alignment.image_encoders import (
    image_model_path,
    load_swin,
    write_processor_config,
)
from stage1_content_modality_semantic_alignment.losses import Vectors, alignment_losses

if TYPE_CHECKING:
    from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings

ADAPTER_HIDDEN, ADAPTER_WIDTH = 128, 64


@dataclass(frozen=True)
class PairBatch:
    """B pairs of items, with each distinct item once; made on the CPU, so that a GPU does not wait."""

    distinct: List[int]  # positions in the list of items, ascending
    places: Tensor  # (B, 2) place of each pair's items in ``distinct``

    @classmethod
    def of(cls, pairs: Tensor) -> PairBatch:
        """From pairs of positions (B, 2)."""
        distinct, places = torch.unique(pairs, return_inverse=True)
        return cls(distinct.tolist(), places)

    def __len__(self) -> int:
        return len(self.places)

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on a device."""
        return PairBatch(self.distinct, to_device(self.places, device))


class ItemVectors(Protocol):
    """Runs a tower on items, by their position in the list of items that occur in pairs."""

    def vectors(self, positions: Sequence[int]) -> Tensor:
        """(len(positions), tower width)."""


class Adapter(nn.Sequential):
    """Linear → 128 → ReLU → 64."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, ADAPTER_HIDDEN), nn.ReLU(), nn.Linear(ADAPTER_HIDDEN, ADAPTER_WIDTH))


class ContentModel(nn.Module):
    """Towers and adapters by modality.

    Args:
        items: what each tower computes the items' vectors from.
        settings: ``train_adapters`` (S5): false (released) keeps the adapters' random start; ``freeze_in_eval`` (S6):
            false (released) runs the frozen prefix in train mode, with dropout.
    """

    def __init__(self, towers: Mapping[str, Tower], items: Mapping[str, ItemVectors], settings: Settings) -> None:
        super().__init__()
        self.items, self.settings = items, settings
        self.towers = nn.ModuleDict(towers)
        self.adapters = nn.ModuleDict({name: Adapter(tower.width) for name, tower in towers.items()})
        for tower in towers.values():
            tower.requires_grad_(False)
            for module in tower.trained_modules():
                module.requires_grad_(True)
        self.adapters.requires_grad_(bool(settings.train_adapters))

    def forward(self, batch: PairBatch) -> Dict[str, Tensor]:
        """The terms of the loss by name; stage 1 minimises their sum."""
        s = self.settings
        return alignment_losses(self.pair_vectors(batch), s.temperature, s.losses, mean=bool(s.cosine_losses))

    def pair_vectors(self, batch: PairBatch) -> Dict[str, Vectors]:
        """B pairs → modality → adapter outputs: targets (B, 64), positives (B, 64).

        The outputs have length 1, unless S15 is released.
        """
        found = {}
        for name, adapter in self.adapters.items():
            vectors = adapter(self.items[name].vectors(batch.distinct))
            if self.settings.cosine_losses:
                vectors = normalize(vectors, dim=-1)
            found[name] = (vectors[batch.places[:, 0]], vectors[batch.places[:, 1]])
        return found

    def train(self, mode: bool = True) -> ContentModel:
        """As usual, but with ``freeze_in_eval`` the frozen prefix stays in eval mode (S6)."""
        super().train(mode)
        if mode and self.settings.freeze_in_eval:
            for tower in self.towers.values():
                assert isinstance(tower, (TextTower, ImageTower))
                tower.eval()
                for module in tower.trained_modules():
                    module.train()
        return self

    def weights_to_continue(self) -> Dict[str, Tensor]:
        """The trained parameters by name; the frozen ones are those of the pretrained encoders."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}


class TextTower(nn.Module):
    """BERT's `pooler_output`; `forward` is prefix and tail in one, as Hugging Face computes it."""

    part = "bert"  # name of the encoder's folder

    def __init__(self, bert: transformers.BertModel, tokenizer: Any = None) -> None:
        super().__init__()
        self.bert: Any = bert
        self.tokenizer = tokenizer
        self.width = self.prefix_width = int(bert.config.hidden_size)  # of item vectors; of rows that enter the tail

    def prefix_rows(self, lengths: np.ndarray) -> np.ndarray:
        """How many rows of `prefix` belong to items of these raw lengths: one per token."""
        return lengths

    def trained_modules(self) -> List[nn.Module]:
        """The last layer and the pooler."""
        return [self.bert.encoder.layer[-1], self.bert.pooler]

    def prefix(self, values: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L), mask (B, L), 1 for tokens → (B, L, hidden)."""
        return _what_enters(self.bert.encoder.layer[-1], self.bert, input_ids=values, attention_mask=mask)

    def tail(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, L, hidden) → (B, hidden).

        The pooler reads [CLS] alone, so the last feed-forward runs for [CLS] alone. The additive mask
        (B, 1, 1, L) serves every attention implementation.
        """
        last = self.bert.encoder.layer[-1]
        additive = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        attended = _first(last.attention(hidden, additive))[:, :1]  # (B, 1, hidden)
        out: Tensor = self.bert.pooler(last.feed_forward_chunk(attended))
        return out

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L) → (B, hidden)."""
        out: Tensor = self.bert(input_ids=values, attention_mask=mask).pooler_output
        return out

    def save(self, folder: Path) -> None:
        """Write BERT and its tokenizer."""
        self.bert.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class ImageTower(nn.Module):
    """Swin's classification logits. Every image has the same number of patches, so masks are ignored."""

    part = "swin"

    def __init__(self, swin: transformers.SwinForImageClassification) -> None:
        super().__init__()
        self.swin: Any = swin
        self.width = int(swin.config.num_labels or 0)
        rows, columns = swin.swin.embeddings.patch_grid
        for _ in range(len(swin.config.depths) - 1):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.grid = (rows, columns)  # the patches that enter the last stage
        self.prefix_width = int(swin.swin.num_features)

    def prefix_rows(self, lengths: np.ndarray) -> np.ndarray:
        """One row per patch, for every image."""
        return np.full_like(lengths, self.grid[0] * self.grid[1])

    def trained_modules(self) -> List[nn.Module]:
        """The last stage and the classifier."""
        return [self.swin.swin.encoder.layers[-1], self.swin.classifier]

    def prefix(self, values: Tensor, mask: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) → (B, rows · columns, channels)."""
        return _what_enters(self.swin.swin.encoder.layers[-1], self.swin, pixel_values=values)

    def tail(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, rows · columns, channels) → logits (B, labels)."""
        core = self.swin.swin
        patches = core.layernorm(_first(core.encoder.layers[-1](hidden, self.grid)))
        out: Tensor = self.swin.classifier(core.pooler(patches.transpose(1, 2)).flatten(1))
        return out

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) → logits (B, labels)."""
        out: Tensor = self.swin(pixel_values=values).logits
        return out

    def save(self, folder: Path) -> None:
        """Write Swin and its image processor."""
        self.swin.save_pretrained(folder)
        write_processor_config(folder, self.swin.config)


Tower = Union[TextTower, ImageTower]


def load_towers(settings: Settings, dataset: Dataset) -> Dict[str, Tower]:
    """Modality → its pretrained encoder, text first whatever the order in the settings."""
    towers: Dict[str, Tower] = {}
    if "image" in settings.modalities:
        towers["image"] = ImageTower(load_swin(image_model_path(settings.image_model, dataset, settings.seed)))
    if "text" in settings.modalities:
        path = text_model_path(str(settings.text_model), dataset, settings.title_language, settings.seed)
        towers["text"] = TextTower(*load_bert(path, settings.max_text_tokens))
    return {name: towers[name] for name in MODALITIES if name in towers}


def save_encoders(towers: Mapping[str, Tower], folder: Path) -> Dict[str, Path]:
    """Write the encoders; returns their folders by name."""
    folders = {tower.part: folder / tower.part for tower in towers.values()}
    for tower in towers.values():
        with atomic_folder(folders[tower.part]) as part, full_disk_is_an_error(folders[tower.part]):
            tower.save(part)
    return folders


def _what_enters(module: nn.Module, model: nn.Module, **inputs: Tensor) -> Tensor:
    """The hidden states that ``model(**inputs)`` passes to ``module``, with the masks of the installed transformers."""
    caught: List[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        model(**inputs)
    finally:
        handle.remove()
    return caught[0]


def _first(output: Any) -> Tensor:
    """A layer returns its hidden states, alone or first in a tuple, depending on the version of transformers."""
    return output if isinstance(output, Tensor) else output[0]
