"""Ours: SASRec on frozen text, on ID + text, with UniSRec's adapter; nearest contents; the ensemble of two models."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Type

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.device import Compute
from common.errors import UserError
from reproduce.baselines.counted import CountedModel
from reproduce.baselines.neural import SASRec
from stage2_sequence_preference_learning.evaluation import load_model
from stage2_sequence_preference_learning.layers import Dropout
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


def whitened(features: Tensor, width: int) -> Tensor:
    """(n, d) → (n, min(width, d)): principal components with mean 0 and variance 1 over the items; row 0 stays 0."""
    real = features[1:].double()
    centred = real - real.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(real)))
    chosen = slice(max(0, len(values) - width), None)
    out = centred @ vectors[:, chosen] / (values[chosen].clamp(min=0) + 1e-6).sqrt()
    return F.pad(out.float(), (0, 0, 1, 0))


def add_features(model: nn.Module, config: Any, dataset: Any) -> None:
    """Give a model each modality's features, whitened or as unit vectors, as a frozen table of its checkpoint."""
    for modality in config["modalities"]:
        features: Tensor = dataset.item_features(modality)  # (n_items, width), row 0 is padding
        width = config["whiten"]
        features = F.normalize(features, dim=-1) if width is None else whitened(features, width)
        model.add_module(f"plm_{modality}_embedding", nn.Embedding.from_pretrained(features, padding_idx=0))


def features_in(model: nn.Module, modalities: List[str]) -> Tensor:
    """What `add_features` gave it, side by side: (n_items, sum of widths)."""
    tables = [model.get_submodule(f"plm_{modality}_embedding").weight for modality in modalities]
    return torch.cat(tables, dim=1)  # type: ignore[arg-type]


class Lookup(nn.Module):
    """Stands in the place of RecBole's item embedding, over a table that is computed."""

    table: Tensor

    def forward(self, items: Tensor) -> Tensor:
        """(…) → (…, d)."""
        return F.embedding(items, self.table)


class SASRecText(SASRec):
    """SASRec whose items are a linear map of frozen features."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.cosine = config["temperature"] is not None
        self.temperature = config["temperature"] or 1.0
        self.modalities: List[str] = list(config["modalities"])
        add_features(self, config, dataset)
        self.adapter = self.make_adapter(self.features().shape[1], config)
        self.net.item_embedding = Lookup()

    def make_adapter(self, width: int, config: Any) -> nn.Module:
        """Features (n, width) → items (n, d)."""
        linear = nn.Linear(width, config["hidden_size"])
        nn.init.normal_(linear.weight, std=config["initializer_range"])
        nn.init.zeros_(linear.bias)
        return linear

    def features(self) -> Tensor:
        """Frozen features of all items: (n_items, sum of widths)."""
        return features_in(self, self.modalities)

    def items(self) -> Tensor:
        """(n_items, d) as the network reads them."""
        out: Tensor = self.adapter(self.features()).float()
        return out

    def candidates(self) -> Tensor:
        """(n_items, d); the network reads the same table until it is computed again."""
        self.net.item_embedding.table = self.items()
        table: Tensor = self.net.item_embedding.table
        return F.normalize(table, dim=-1) if self.cosine else table

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        u = super().preference(batch)
        return F.normalize(u.float(), dim=-1) if self.cosine else u


class SASRecIDText(SASRecText):
    """An item is the sum of an embedding of its ID and the map of its features."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.id_embedding = nn.Embedding(self.n_items, config["hidden_size"], padding_idx=0)
        nn.init.normal_(self.id_embedding.weight, std=config["initializer_range"])

    def items(self) -> Tensor:
        """(n_items, d)."""
        return super().items() + self.id_embedding.weight


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

    def make_adapter(self, width: int, config: Any) -> nn.Module:
        """The mixture."""
        return MixtureOfExperts(width, config["hidden_size"], config["n_experts"], config["adapter_dropout"])


class NearestContent(CountedModel):
    """Items like the history's last ones, by the cosine of frozen features; nothing is trained, or even counted."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        add_features(self, config, dataset)
        self.modalities, self.window = list(config["modalities"]), config["window"]

    def count(self, config: Any) -> None:
        """There is nothing to count."""

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Cosine with the sum of the last items' vectors, each by 1 / distance; the last item itself comes last."""
        table = F.normalize(features_in(self, self.modalities), dim=1).cpu().numpy()
        rows = np.arange(len(items))
        read = np.zeros((len(items), table.shape[1]), np.float32)
        for distance in range(1, min(self.window, items.shape[1]) + 1):
            inside = lengths >= distance
            read[inside] += table[items[rows[inside], lengths[inside] - distance]] / distance
        found = read @ table.T
        found[rows, items[rows, lengths - 1]] = found.min(axis=1) - 1e-3  # finite, for the ensemble's z-scores
        return np.asarray(found)


class Ensemble(RankingModel):
    """(1 − w) · scores of a model on IDs + w · scores of one on features; w is the best on validation."""

    weight: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        compute = Compute(config["device"], "fp32")
        self.parts = [  # a list: their weights stay in their own checkpoints
            load_model(Path(config[key]), dataset.dataset_name, config["datasets_dir"], compute).model
            for key in ("id_checkpoint", "text_checkpoint")
        ]
        for key, part in zip(("id_checkpoint", "text_checkpoint"), self.parts):
            if part.max_seq_length < self.max_seq_length:
                told = f"reads {part.max_seq_length} items, and the ensemble gives it {self.max_seq_length}"
                raise UserError(f"{key}={config[key]}: {told}; set max_seq_length={part.max_seq_length}")
        self.zscore = config["zscore"]
        self.options = tuple(step / config["weight_steps"] for step in range(config["weight_steps"] + 1))
        self.register_buffer("weight", torch.zeros(()))

    def choose(self, option: float) -> None:
        """Set w."""
        self.weight.fill_(option)

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """Of both models."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.fixed_items())
            yield

    def candidates(self) -> Tensor:
        """Nothing per item."""
        return torch.empty(0)

    def terms(self, batch: Batch) -> Terms:
        """Nothing to train."""
        return {}

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        weighted = [
            share * self._standardised(part.full_sort_scores(batch)[:, 1:])
            for share, part in zip((1 - self.weight, self.weight), self.parts)
        ]
        return F.pad(weighted[0] + weighted[1], (1, 0), value=-torch.inf)

    def _standardised(self, scores: Tensor) -> Tensor:
        if not self.zscore:
            return scores
        return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True).clamp(min=1e-12)


OURS: Dict[str, Type[RankingModel]] = {
    model.__name__: model for model in (NearestContent, SASRecText, SASRecIDText, UniSRec, Ensemble)
}
