"""Baselines on stage 1's features: nearest contents; SASRec on frozen text, on ID + text, as UniSRec and AlphaFuse."""

from __future__ import annotations

from typing import ClassVar, Type

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.dropout import Dropout
from reproduce.baselines.counted import HistoryModel
from reproduce.baselines.networks import SASRec
from reproduce.baselines.settings import (
    AlphaFuseSettings,
    ContentSettings,
    NearestContentSettings,
    TextSettings,
    UniSRecSettings,
)
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel
from stage2_sequence_preference_learning.settings import HistorySettings


def whitened(features: Tensor, width: int) -> Tensor:
    """(n, d) → (n, min(width, d)): principal components with mean 0 and variance 1 over the items, the least first.

    Row 0 stays 0.
    """
    real = features[1:].double()
    centred = real - real.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(real)))
    chosen = slice(max(0, len(values) - width), None)
    out = centred @ vectors[:, chosen] / (values[chosen].clamp(min=0) + 1e-6).sqrt()
    return F.pad(out.float(), (0, 0, 1, 0))


def add_features(model: RankingModel, settings: ContentSettings) -> None:
    """Give a model each modality's features, whitened or as unit vectors, as a frozen table of its checkpoint."""
    for modality in settings.modalities:
        features = model.data.features[modality]  # (n_items, width), row 0 is padding
        features = F.normalize(features, dim=-1) if settings.whiten is None else whitened(features, settings.whiten)
        model.add_module(f"plm_{modality}_embedding", nn.Embedding.from_pretrained(features, padding_idx=0))


def features_in(model: RankingModel, settings: ContentSettings) -> Tensor:
    """What `add_features` gave it, side by side: (n_items, sum of widths)."""
    tables = [model.get_submodule(f"plm_{modality}_embedding").weight for modality in settings.modalities]
    return torch.cat(tables, dim=1)  # type: ignore[arg-type]


class NearestContent(HistoryModel):
    """Items by the cosine of their features to those of the history's last items."""

    schema = NearestContentSettings
    settings: NearestContentSettings

    def __init__(self, settings: NearestContentSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        add_features(self, self.settings)

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Cosine to the sum of the last items' vectors, each weighted 1 / distance; the last item itself comes last."""
        table = F.normalize(features_in(self, self.settings), dim=1).cpu().numpy()
        rows = np.arange(len(items))
        read = np.zeros((len(items), table.shape[1]), np.float32)
        for distance in range(1, min(self.settings.window, items.shape[1]) + 1):
            inside = lengths >= distance
            read[inside] += table[items[rows[inside], lengths[inside] - distance]] / distance
        found = read @ table.T
        found[rows, items[rows, lengths - 1]] = found.min(axis=1) - 1e-3  # finite, for the ensemble's z-scores
        return np.asarray(found)


class Lookup(nn.Module):
    """An embedding over a computed table, in place of RecBole's item embedding."""

    table: Tensor

    def forward(self, items: Tensor) -> Tensor:
        """(…) → (…, d)."""
        return F.embedding(items, self.table)


class SASRecText(SASRec):
    """SASRec whose items are a linear map of frozen features."""

    schema: ClassVar[Type[HistorySettings]] = TextSettings
    settings: TextSettings

    def __init__(self, settings: TextSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.cosine = self.settings.temperature is not None
        self.temperature = self.settings.temperature or 1.0
        add_features(self, self.settings)
        self.adapter = self.make_adapter(features_in(self, self.settings).shape[1])
        self.net.item_embedding = Lookup()

    def make_adapter(self, width: int) -> nn.Module:
        """Features (n, width) → items (n, d)."""
        linear = nn.Linear(width, self.settings.hidden_size)
        nn.init.normal_(linear.weight, std=self.settings.initializer_range)
        nn.init.zeros_(linear.bias)
        return linear

    def items(self) -> Tensor:
        """(n_items, d) as the network reads them."""
        out: Tensor = self.adapter(features_in(self, self.settings)).float()
        return out

    def candidates(self) -> Tensor:
        """(n_items, d); the network reads the same table until the next call."""
        self.net.item_embedding.table = table = self.items()
        return F.normalize(table, dim=-1) if self.cosine else table

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        u = super().preference(batch)
        return F.normalize(u.float(), dim=-1) if self.cosine else u


class SASRecIDText(SASRecText):
    """An item is the sum of an embedding of its ID and the map of its features."""

    def __init__(self, settings: TextSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.id_embedding = nn.Embedding(self.n_items, self.settings.hidden_size, padding_idx=0)
        nn.init.normal_(self.id_embedding.weight, std=self.settings.initializer_range)

    def items(self) -> Tensor:
        """(n_items, d)."""
        return super().items() + self.id_embedding.weight


class AlphaFuse(SASRecText):
    """AlphaFuse (Hu et al., SIGIR 2025): an item is its frozen whitened features, plus an ID where they vary least.

    The features keep their first ``whiten`` principal directions; a trained ID vector, from zero, is added to the last
    ``null_dim`` of d dimensions. With ``whiten`` = d (as published by default) both share these dimensions; with
    ``whiten`` = d − ``null_dim`` the vectors are side by side. Of several modalities the sum is taken.

    Unlike the authors' training, ours is that of the other baselines: RecBole's SASRec, cross entropy over all items,
    no weight decay; the cosine ranks, as in training.
    """

    schema = AlphaFuseSettings
    settings: AlphaFuseSettings

    def make_adapter(self, width: int) -> nn.Module:
        """Features are not mapped."""
        self.id_embedding = nn.Embedding(self.n_items, self.settings.null_dim, padding_idx=0)
        nn.init.zeros_(self.id_embedding.weight)
        return nn.Identity()

    def items(self) -> Tensor:
        """(n_items, d), the direction of least variance first; row 0 is 0."""
        s = self.settings
        out = F.pad(self.id_embedding.weight[1:], (0, s.hidden_size - s.null_dim, 1, 0))
        for modality in s.modalities:
            features: Tensor = self.get_submodule(f"plm_{modality}_embedding").weight  # type: ignore[assignment]
            out = out + F.pad(features, (s.hidden_size - features.shape[1], 0))
        return out


class MixtureOfExperts(nn.Module):
    """UniSRec's adapter: parametric whitenings (x − b) W, mixed by a gate that is noisy in training."""

    def __init__(self, width: int, d: int, n_experts: int, dropout: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_experts, 1, width))
        self.map = nn.Parameter(torch.randn(n_experts, width, d) * 0.02)
        self.gate = nn.Parameter(torch.zeros(width, n_experts))
        self.noise = nn.Parameter(torch.zeros(width, n_experts))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) → (n, d)."""
        logits = x @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.noise) + 0.01)
        n_experts, width, d = self.map.shape
        side_by_side = self.map.transpose(0, 1).reshape(width, n_experts * d)  # one product; no copy of x per expert
        experts = (self.dropout(x) @ side_by_side).view(-1, n_experts, d) - (self.shift @ self.map).transpose(0, 1)
        return torch.einsum("ne,ned->nd", logits.softmax(dim=-1).to(experts.dtype), experts)


class UniSRec(SASRecText):
    """UniSRec (Hou et al. 2022) on one data set, without its pre-training: adapter, SASRec, cosine."""

    schema = UniSRecSettings
    settings: UniSRecSettings

    def make_adapter(self, width: int) -> nn.Module:
        """The mixture."""
        s = self.settings
        return MixtureOfExperts(width, s.hidden_size, s.n_experts, s.adapter_dropout)
