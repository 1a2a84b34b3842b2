"""Baselines that count: popularity, transitions, neighbours. They read the users' train items; nothing is trained."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from common.arrays import ranges, starts_of
from common.dataset import load_dataset
from common.splits import split_dataset
from reproduce.baselines.histories import prefixes
from reproduce.baselines.settings import ItemKNNSettings, MarkovSettings, PopSettings, RankingSettings
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


class TrainItems:
    """The train items of all users who have two or more, in rows of the item tables.

    Attributes:
        items: (n,) end to end, in time order.
        lengths: (users,).
    """

    def __init__(self, settings: RankingSettings, data: SequenceData) -> None:
        dataset = load_dataset(settings.dataset_dir, settings.dataset)
        kept = split_dataset(dataset, settings).train_parts(dataset)
        self.items = data.row_of_item()[kept.flat]
        self.lengths = np.diff(kept.starts)
        self.n_items = data.n_items

    def seen(self) -> sparse.csr_matrix:
        """(users, n_items) 1 where a user has an item."""
        users = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return sets(users, self.items, (len(self.lengths), self.n_items))

    def popularity(self) -> np.ndarray:
        """(n_items,) number of users who have an item."""
        return np.asarray(self.seen().sum(axis=0), dtype=np.float64).ravel()

    def pairs(self, distance: int) -> sparse.csr_matrix:
        """(n_items, n_items) sum of 1 / distance over the times that an item came ``distance`` places after another."""
        first = ranges(starts_of(self.lengths)[:-1], np.maximum(self.lengths - distance, 0))
        weights = np.full(len(first), 1.0 / distance)
        return sparse.csr_matrix((weights, (self.items[first], self.items[first + distance])), (self.n_items,) * 2)


def sets(rows: np.ndarray, items: np.ndarray, shape: Tuple[int, int]) -> sparse.csr_matrix:
    """1 where a row has an item, however often."""
    found = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, items)), shape)
    found.data[:] = 1.0
    return found


class ScoringModel(RankingModel):
    """A model that defines `full_sort_scores` itself; without a loss it is not trained."""

    def candidates(self) -> Tensor:
        """None: `full_sort_scores` needs no item vectors."""
        return torch.empty(0)

    def loss_terms(self, batch: Batch) -> Terms:
        """None."""
        return {}


class HistoryModel(ScoringModel):
    """An untrained model whose scores follow from a history, computed in numpy."""

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Right-padded histories (N, L), lengths (N,) → (N, n_items)."""
        raise NotImplementedError

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        items, lengths = (t.cpu().numpy() for t in prefixes(batch))
        scores = torch.from_numpy(self.scores(items, lengths)).to(batch.targets.device)
        scores[:, 0] = -torch.inf
        return scores


class Pop(HistoryModel):
    """Items by the number of users who have them."""

    schema = PopSettings

    def __init__(self, settings: PopSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.counts = TrainItems(self.settings, self.data).popularity()

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same for each history."""
        return np.tile(self.counts, (len(items), 1))


class Markov(HistoryModel):
    """Items by how often they followed the last one."""

    schema = MarkovSettings
    settings: MarkovSettings

    def __init__(self, settings: MarkovSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        train = TrainItems(self.settings, self.data)
        follows = sparse.csr_matrix((self.n_items, self.n_items), dtype=np.float64)
        for distance in range(1, min(self.settings.window, self.settings.max_seq_length) + 1):
            follows += train.pairs(distance)
        totals = np.asarray(follows.sum(axis=1)).ravel()
        self.follows = (sparse.diags(1.0 / np.maximum(totals, 1e-12)) @ follows).tocsr()
        popularity = train.popularity()
        self.backoff = self.settings.backoff * popularity / popularity.sum()

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """P(next | last) + backoff · P(next)."""
        last = items[np.arange(len(items)), lengths - 1]
        return np.asarray(self.follows[last].toarray() + self.backoff)


class ItemKNN(HistoryModel):
    """Items by the sum of their cosines to the history's items, of which each counts for its k neighbours.

    RecBole's own ItemKNN scores users, not histories.
    """

    schema = ItemKNNSettings
    settings: ItemKNNSettings

    def __init__(self, settings: ItemKNNSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        seen = TrainItems(self.settings, self.data).seen()
        self.similar = nearest_items(seen, self.settings.k, self.settings.shrink)

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Histories as sets."""
        inside = items > 0
        rows = np.repeat(np.arange(len(items)), inside.sum(axis=1))
        have = sets(rows, items[inside], (len(items), self.n_items))
        return np.asarray((have @ self.similar).toarray())


def nearest_items(seen: sparse.csr_matrix, k: int, shrink: float) -> sparse.csr_matrix:
    """Cosine of the columns of (users, n), the k highest of each column: (n, n), diagonal 0."""
    norms = np.sqrt(np.asarray(seen.multiply(seen).sum(axis=0)).ravel())
    both = (seen.T @ seen).tocsc()
    both.setdiag(0.0)
    both.eliminate_zeros()
    columns = np.repeat(np.arange(both.shape[1]), np.diff(both.indptr))
    values = both.data / (norms[both.indices] * norms[columns] + shrink + 1e-6)
    order = np.lexsort((both.indices, -values, columns))  # of equal values the lower item first
    kept = order[np.arange(len(order)) - both.indptr[columns[order]] < k]
    return sparse.csr_matrix((values[kept], (both.indices[kept], columns[kept])), both.shape)
