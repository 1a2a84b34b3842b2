"""What all models of stage 2 and the baselines share: ranking, and RecBole's entry points.

A model reads a `packing.Batch`. RecBole's own batches are turned into one, so that a model also runs under RecBole's
trainer and evaluator (docs/recbole.md).
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Sequence, Tuple, Type, Union

import numpy as np
import torch
from recbole.config import Config
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.nn import functional as F

from common.compute import Compute, Processes
from common.ranking import TOP, Ranking, rank_batches
from common.run import LoopSettings
from common.settings import as_dict, typed
from stage2_sequence_preference_learning.data import EvalLoader, SequenceData, data_of_recbole
from stage2_sequence_preference_learning.losses import cross_entropy, sampled_softmax, with_negatives
from stage2_sequence_preference_learning.packing import Batch, batch_of_rows
from stage2_sequence_preference_learning.settings import HistorySettings, LossSettings

Terms = Dict[str, Tensor]


class RecBoleConfig(Dict[str, Any]):
    """Settings under the names that RecBole's models read; a name that is not there is None, as in RecBole."""

    def __init__(self, settings: HistorySettings) -> None:
        super().__init__(as_dict(settings))
        self.update(
            USER_ID_FIELD="user_id",
            ITEM_ID_FIELD="item_id",
            LIST_SUFFIX="_list",
            ITEM_LIST_LENGTH_FIELD="item_length",
            NEG_PREFIX="neg_",
            MASK_FIELD="mask",
            MAX_ITEM_LIST_LENGTH=settings.max_seq_length,
            loss_type="CE",
            train_neg_sample_args=None,
            device=torch.device("cpu"),
        )

    def __missing__(self, key: str) -> None:
        return None


class RankingModel(SequentialRecommender):
    """A model that ranks all items after a history.

    A subclass defines `preference`, (N, d) at the places that a batch predicts, and `candidates`, (n_items, d); where
    the loss is not that of the next item alone, `loss_terms` too.

    Args:
        settings: of the class ``schema``, or RecBole's config.
        data: the splits, or RecBole's data set.
    """

    schema: ClassVar[Type[HistorySettings]] = HistorySettings
    options: Sequence[float] = (0.0,)  # what `choose` takes; only read of a model without trained parameters
    input_type = InputType.POINTWISE

    def __init__(self, settings: Union[HistorySettings, Config], data: Any) -> None:
        if isinstance(settings, Config):
            settings = settings_of_recbole(self.schema, settings)
            data = data_of_recbole(data, settings)
        super().__init__(RecBoleConfig(settings), data)
        self.settings: Any = settings
        self.data: SequenceData = data
        self._fixed_candidates: Optional[Tensor] = None

    @classmethod
    def parts(cls, settings: Any) -> Dict[str, Path]:
        """Files beside the weights that the model is rebuilt from, by meaning."""
        return {}

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        raise NotImplementedError

    def candidates(self) -> Tensor:
        """(n_items, d), the padding item included."""
        raise NotImplementedError

    def loss_terms(self, batch: Batch) -> Terms:
        """The weighted terms of the loss by name; the loss is their sum."""
        items = self.candidates()
        return {"rec": self.recommendation_loss(self.preference(batch), items, batch.targets)}

    def recommendation_loss(
        self,
        preference: Tensor,
        items: Union[Tensor, Callable[..., Tensor]],
        targets: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """Cross entropy over all items, or sampled softmax, as the settings say.

        Args:
            preference: (N, d); targets: (N,).
            items: (n_items, d), or a function of rows of the item table, (…) → (…, d), which without rows gives all.
        """
        s = self.settings
        if not isinstance(s, LossSettings) or s.loss == "cross_entropy":
            return cross_entropy(preference, items if isinstance(items, Tensor) else items(), targets, temperature)
        rows = with_negatives(targets, self.n_items, s.n_negatives)
        if not isinstance(items, Tensor) and self.n_items <= rows.numel():
            items = items()  # each vector once
        candidates = F.embedding(rows, items) if isinstance(items, Tensor) else items(rows)
        logq_of = self.n_items if s.loss == "sampled_softmax_logq" else None
        return sampled_softmax(preference, candidates, rows, temperature, logq_of)

    def choose(self, option: float) -> None:
        """Take one of the model's ``options``."""

    def forward(self, batch: Batch) -> Terms:
        """`loss_terms`, as `common.training.fit` calls it."""
        return self.loss_terms(batch)

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """A context in which weights do not change, so that candidates are computed once for all batches."""
        self._fixed_candidates = self.candidates()
        try:
            yield
        finally:
            self._fixed_candidates = None

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items) scores, the higher the better; the padding item has ``-inf``."""
        candidates = self.candidates() if self._fixed_candidates is None else self._fixed_candidates
        scores = self.preference(batch).float() @ candidates.float().T
        scores[:, 0] = -torch.inf
        return scores

    # What the training loop and the tests ask for

    def scored(self, split: EvalLoader, compute: Compute) -> Iterator[Tuple[np.ndarray, Tensor, Tensor]]:
        """Rows of a split in batches, their scores (B, n_items) in fp32, and their targets (B,)."""
        self.eval()
        with self.fixed_items():
            for rows, batch in split:
                batch = batch.to(compute.device)
                yield rows, self.full_sort_scores(batch), batch.targets

    def rank(self, split: EvalLoader, compute: Compute, processes: Processes) -> np.ndarray:
        """The target's rank for each row of a split: (N,) float64."""
        ranks, _, _ = rank_batches(self.scored(split, compute), len(split.sequences), processes)
        return ranks

    def test(self, split: EvalLoader, compute: Compute, processes: Processes) -> Ranking:
        """Rank a split with the history unmasked and masked."""
        batches, top = self.scored(split, compute), min(TOP, self.n_items - 1)
        ranks, masked, best = rank_batches(batches, len(split.sequences), processes, split.history, top)
        targets = self.data.item_of_row[split.sequences.targets]
        return Ranking(split.sequences.users, targets, ranks, masked, self.data.item_of_row[best])

    def weights_to_continue(self) -> Dict[str, Tensor]:
        """All weights."""
        return dict(self.state_dict())

    def weights_to_use(self) -> Dict[str, Tensor]:
        """All weights."""
        return dict(self.state_dict())

    # What RecBole asks for

    def as_batch(self, interaction: Any, with_targets: bool = True) -> Batch:
        """RecBole's interaction as a `Batch`."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        targets = interaction[self.ITEM_ID] if with_targets else torch.zeros_like(lengths)
        return batch_of_rows(items, lengths, targets)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The loss of RecBole's batch, a scalar."""
        return torch.stack(list(self.loss_terms(self.as_batch(interaction)).values())).sum()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """RecBole's full ranking: (B, n_items)."""
        return self.full_sort_scores(self.as_batch(interaction, with_targets=False))

    def predict(self, interaction: Any) -> Tensor:
        """RecBole's score of one item a row: (B,)."""
        batch, candidates = self.as_batch(interaction), self.candidates()
        return (self.preference(batch).float() * candidates.float()[batch.targets]).sum(dim=-1)


def settings_of_recbole(schema: Type[HistorySettings], config: Config) -> HistorySettings:
    """A model's settings from RecBole's config; the settings of our training loop keep their defaults."""
    names = {f.name for f in dataclasses.fields(schema)} - {f.name for f in dataclasses.fields(LoopSettings)}
    given = {name: config[name] for name in names if config[name] is not None}
    given.update(dataset=config["dataset"], max_seq_length=config["MAX_ITEM_LIST_LENGTH"])
    given.update({"datasets_dir": config["datasets_dir"]} if config["datasets_dir"] else {})
    return schema(**typed(schema, given, "RecBole's config"))
