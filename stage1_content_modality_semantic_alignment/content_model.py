"""The model of stage 1: a tower and an adapter for each modality."""

from __future__ import annotations

from typing import Dict, List, Mapping, Protocol, Sequence, Tuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from stage1_content_modality_semantic_alignment.losses import Vectors
from stage1_content_modality_semantic_alignment.towers import Tower

ADAPTER_HIDDEN, ADAPTER_WIDTH = 128, 64


class ItemVectors(Protocol):
    """Runs a tower on items, by their position in the list of items that occur in pairs."""

    def vectors(self, positions: Sequence[int]) -> torch.Tensor:
        """(len(positions), tower width)."""


class Adapter(nn.Sequential):
    """Linear → 128 → ReLU → 64."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, ADAPTER_HIDDEN), nn.ReLU(), nn.Linear(ADAPTER_HIDDEN, ADAPTER_WIDTH))


class ContentModel(nn.Module):
    """Towers and adapters by modality.

    Args:
        train_adapters: S5. False (released): the adapters keep their random start.
        freeze_in_eval: S6. False (released): the frozen prefix runs in train mode, with dropout.
    """

    def __init__(self, towers: Mapping[str, Tower], train_adapters: bool, freeze_in_eval: bool) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.adapters = nn.ModuleDict({name: Adapter(tower.width) for name, tower in towers.items()})
        self.freeze_in_eval = freeze_in_eval
        for tower in towers.values():
            tower.freeze()
        self.adapters.requires_grad_(train_adapters)

    def train(self, mode: bool = True) -> ContentModel:
        """As usual, but the frozen prefix stays in eval mode where ``freeze_in_eval`` says so (S6)."""
        super().train(mode)
        if mode and self.freeze_in_eval:
            for tower in self._towers():
                tower.eval()
                for module in tower.trained_modules():
                    module.train()
        return self

    def _towers(self) -> List[Tower]:
        return [tower for tower in self.towers.values() if isinstance(tower, Tower)]

    def trained(self) -> Dict[str, nn.Parameter]:
        """The parameters that get gradients, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trained(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set exactly the trained parameters."""
        trained = self.trained()
        assert trained.keys() == weights.keys(), sorted(trained.keys() ^ weights.keys())
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])

    def pair_vectors(self, items: Mapping[str, ItemVectors], pairs: np.ndarray) -> Dict[str, Vectors]:
        """Pairs (B, 2) of positions → modality → adapter outputs of length 1: targets (B, 64), positives (B, 64).

        Each distinct item of the batch is encoded once.
        """
        distinct, place = np.unique(pairs, return_inverse=True)
        place = torch.from_numpy(place.reshape(pairs.shape))  # (B, 2), into distinct
        found = {}
        for name, adapter in self.adapters.items():
            vectors = normalize(adapter(items[name].vectors(distinct.tolist())), dim=-1)
            place = place.to(vectors.device)
            found[name] = (vectors[place[:, 0]], vectors[place[:, 1]])
        return found

    def parameter_table(self) -> List[Tuple[str, int, int]]:
        """(part, trained parameters, frozen parameters) of each tower and adapter."""
        parts = {f"{kind} {name}": m for kind, group in self._groups() for name, m in group.items()}
        table = []
        for part, module in parts.items():
            sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
            table.append((part, sum(n for n, trained in sizes if trained), sum(n for n, t in sizes if not t)))
        return table

    def _groups(self) -> List[Tuple[str, nn.ModuleDict]]:
        return [("encoder", self.towers), ("adapter", self.adapters)]
