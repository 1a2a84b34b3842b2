"""RecBole's networks whose output depends on the padding of a row: every row has the same number of positions."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Dict, Tuple

import numpy as np
import torch
from recbole.model.sequential_recommender.fearec import FEARec as RecBoleFEARec
from recbole.model.sequential_recommender.lightsans import LightSANs as RecBoleLightSANs
from torch import Tensor
from torch.nn import functional as F

from reproduce.baselines.histories import latest, prefixes, train_rows
from reproduce.baselines.networks import RecBoleData, RecBoleModel
from reproduce.baselines.settings import FEARecSettings, LightSANsSettings, PaddedSettings
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RecBoleConfig, Terms


class PaddedModel(RecBoleModel):
    """A network that reads every history as ``padded_length`` positions."""

    settings: PaddedSettings

    def adapt(self, config: RecBoleConfig, data: RecBoleData) -> None:
        """The length of each history."""
        config["MAX_ITEM_LIST_LENGTH"] = self.settings.padded_length

    def padded(self, items: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """(N, L) → (N, padded_length), the last items; lengths (N,)."""
        width = self.settings.padded_length
        items, lengths = latest(items, lengths, width)
        return F.pad(items, (0, width - items.shape[1])), lengths

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        return self.encode(*self.padded(*prefixes(batch)))


class LightSANs(PaddedModel):
    """Fan et al. 2021; RecBole's version attends to padding as well."""

    schema, net_class = LightSANsSettings, RecBoleLightSANs


class QuietFEARec(RecBoleFEARec):
    """RecBole's network without its prints and without its list of rows by target, quadratic in the rows."""

    def __init__(self, config: RecBoleConfig, data: RecBoleData) -> None:
        config.update(dual_domain=False, spatial_ratio=0.0, std=False, sim="dot")  # RecBole's defaults
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(config, data)

    def get_same_item_index(self, dataset: Any) -> Dict[int, np.ndarray]:
        """Empty: `FEARec` draws the rows."""
        return {}


class FEARec(PaddedModel):
    """Du et al. 2023, with the contrastive term of its `calculate_loss`."""

    schema, net_class = FEARecSettings, QuietFEARec
    settings: FEARecSettings

    def __init__(self, settings: FEARecSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s = self.settings
        rows, lengths = train_rows(self.data.train, s.padded_length)
        targets = torch.from_numpy(self.data.train.targets)
        order = targets.argsort(stable=True)
        self.rows, self.row_lengths = rows[order], lengths[order]
        self.counts = torch.bincount(targets, minlength=self.n_items)
        self.starts = self.counts.cumsum(0) - self.counts

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L), (R,) → (R, d), in fp32."""
        with torch.autocast(items.device.type, enabled=False):
            return super().encode(items, lengths)

    def same_target(self, items: Tensor, targets: Tensor) -> Tuple[Tensor, Tensor]:
        """For each row (N, L) a training row with its target, another one if there is: (N, padded_length), (N,)."""
        device = items.device
        items, targets = items.cpu(), targets.cpu()
        counts = self.counts[targets]
        draw = (torch.rand(len(targets)) * counts).long()
        first = self.starts[targets] + draw
        itself = (self.rows[first] == items).all(dim=1)
        chosen = torch.where(itself, self.starts[targets] + (draw + 1) % counts, first)
        return self.rows[chosen].to(device), self.row_lengths[chosen].to(device)

    def of_same_sequence(self, batch: Batch) -> Tensor:
        """Which of the 2N − 2 negatives are of the row's own sequence: (2N, 2N − 2). A batch is grouped by sequence."""
        sequence = batch.sequences.repeat(2)
        same = sequence[:, None] == sequence
        return same[self.net.mask_correlated_samples(len(batch)).to(same.device)].reshape(len(sequence), -1)

    def loss_terms(self, batch: Batch) -> Terms:
        """Recommendation loss and contrastive term, in which rows of one sequence are not negatives of each other."""
        s = self.settings
        items, lengths = self.padded(*prefixes(batch))
        terms = {"rec": self.recommendation_loss(self.encode(items, lengths), self.candidates(), batch.targets)}
        if s.contrast == "us_x":
            again = self.encode(items, lengths)  # with another dropout
            same = self.encode(*self.same_target(items, batch.targets))
            logits, labels = self.net.info_nce(again, same, s.tau, len(batch), "dot")
            logits[:, 1:].masked_fill_(self.of_same_sequence(batch), -torch.inf)
            terms["contrastive"] = s.lmd_sem * F.cross_entropy(logits, labels)
        return terms
