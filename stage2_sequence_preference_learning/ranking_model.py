"""What the trainer and the evaluation ask of a model, over RecBole's `SequentialRecommender`.

A model reads a `packing.Batch`; RecBole's own batches are turned into one, so that the models also run under RecBole's
trainer.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, Optional, Tuple

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from stage2_sequence_preference_learning.packing import Batch, batch_of_rows

Terms = Dict[str, Tensor]


class RankingModel(SequentialRecommender):
    """What the trainer and the evaluation ask of a model, and RecBole's three entry points.

    A subclass gives `preference` (N, d) at the places that a batch predicts, `candidates` (n_items, d)
    to score it against, and the loss's `terms`.
    """

    input_type = InputType.POINTWISE
    options: Tuple[float, ...] = (0.0,)  # of a model that nothing trains by gradient: it validates each
    source: ClassVar[Optional[Path]] = None  # of a user's model: its file, which belongs to what makes a run

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self._fixed_candidates: Optional[Tensor] = None

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        raise NotImplementedError

    def candidates(self) -> Tensor:
        """(n_items, d) to rank by, the padding item included."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> Terms:
        """The weighted terms of the loss, by name; the loss is their sum."""
        raise NotImplementedError

    def choose(self, option: float) -> None:
        """Take one of ``options``; of one alone there is nothing to choose."""

    def as_batch(self, interaction: Any, with_targets: bool = True) -> Batch:
        """RecBole's interaction as a `Batch`."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        targets = interaction[self.ITEM_ID] if with_targets else torch.zeros_like(lengths)
        return batch_of_rows(items, lengths, targets)

    def forward(self, batch: Batch) -> Terms:
        """The loss's terms; the forward that data-parallel training wraps."""
        return self.terms(batch)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """RecBole's loss of a batch, a scalar."""
        return torch.stack(list(self.terms(self.as_batch(interaction)).values())).sum()

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """Weights stay as they are inside: what is computed per item is computed once for all batches."""
        self._fixed_candidates = self.candidates()
        try:
            yield
        finally:
            self._fixed_candidates = None

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items) scores, of which higher is better; the padding item has ``-inf``."""
        candidates = self.candidates() if self._fixed_candidates is None else self._fixed_candidates
        scores = self.preference(batch).float() @ candidates.float().T
        scores[:, 0] = -torch.inf
        return scores

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """RecBole's full ranking: (B, n_items)."""
        return self.full_sort_scores(self.as_batch(interaction, with_targets=False))

    def predict(self, interaction: Any) -> Tensor:
        """RecBole's score of one item a row: (B,)."""
        batch, candidates = self.as_batch(interaction), self.candidates()
        return (self.preference(batch).float() * candidates.float()[batch.targets]).sum(dim=-1)
