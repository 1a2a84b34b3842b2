"""The ensemble of two trained models, and all models of this project by name."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, Type

import torch
from torch import Tensor
from torch.nn import functional as F

from common.compute import pick_compute
from common.errors import UserError
from common.settings import as_dict
from common.splits import check_same_split
from reproduce.baselines.counted import ItemKNN, Markov, Pop, ScoringModel
from reproduce.baselines.esasrec import eSASRec
from reproduce.baselines.features import AlphaFuse, NearestContent, SASRecIDText, SASRecText, UniSRec
from reproduce.baselines.networks import CORE, FDSA, NARM, BERT4Rec, GRU4Rec, SASRec
from reproduce.baselines.padded import FEARec, LightSANs
from reproduce.baselines.settings import EnsembleSettings
from stage2_sequence_preference_learning import models as stage2
from stage2_sequence_preference_learning.checkpoints import load_model
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel


class Ensemble(ScoringModel):
    """(1 − w) · scores of a model on IDs + w · scores of a model on features; w is the best on validation."""

    schema = EnsembleSettings
    settings: EnsembleSettings
    weight: Tensor

    def __init__(self, settings: EnsembleSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s, cpu = self.settings, pick_compute("cpu", "fp32")
        self.members = [  # a list, not modules: their weights are in their own checkpoints
            load_model(path, s.dataset, s.datasets_dir, cpu, models=MODELS) for path in s.checkpoints().values()
        ]
        for (name, path), member in zip(s.checkpoints().items(), self.members):
            check_same_split(s, as_dict(member.settings), f"{name}={path}")
            reads = member.settings.max_seq_length
            if reads < s.max_seq_length:
                both = f"reads {reads} items, but the ensemble {s.max_seq_length}"
                raise UserError(f"{name}={path}: {both}; set max_seq_length={reads}")
        self.options = tuple(step / s.weight_steps for step in range(s.weight_steps + 1))
        self.register_buffer("weight", torch.zeros(()))

    @classmethod
    def parts(cls, settings: EnsembleSettings) -> Dict[str, Path]:
        """Both checkpoints."""
        return settings.checkpoints()

    def choose(self, option: float) -> None:
        """Set w."""
        self.weight.fill_(option)

    def to(self, *args: object, **keywords: object) -> Ensemble:
        """Move both models too."""
        for member in self.members:
            member.to(*args, **keywords)  # type: ignore[arg-type]
        return super().to(*args, **keywords)  # type: ignore[arg-type]

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """Of both models."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.fixed_items())
            yield

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        of_ids, of_features = (self._scaled(member.full_sort_scores(batch)[:, 1:]) for member in self.members)
        return F.pad((1 - self.weight) * of_ids + self.weight * of_features, (1, 0), value=-torch.inf)

    def _scaled(self, scores: Tensor) -> Tensor:
        if not self.settings.zscore:
            return scores
        return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True).clamp(min=1e-12)


OF_RECBOLE = (GRU4Rec, NARM, SASRec, BERT4Rec, CORE, FEARec, LightSANs, FDSA)
OTHERS = (Pop, Markov, ItemKNN, eSASRec, NearestContent, SASRecText, SASRecIDText, UniSRec, AlphaFuse, Ensemble)
MODELS: Dict[str, Type[RankingModel]] = {**stage2.MODELS, **{model.__name__: model for model in (*OF_RECBOLE, *OTHERS)}}
