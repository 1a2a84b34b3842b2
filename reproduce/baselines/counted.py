"""Baselines that count: popularity, transitions, neighbours. They are made from the training split, not trained."""

from __future__ import annotations

from typing import Any, Dict, Type

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from reproduce.baselines.neural import prefixes
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


class CountedModel(RankingModel):
    """Scores of a history, from counts over the training rows (user, history, target)."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        inter = dataset.inter_feat
        self.users, self.targets = (inter[field].numpy() for field in (dataset.uid_field, self.ITEM_ID))
        self.histories, self.lengths = (inter[field].numpy() for field in (self.ITEM_SEQ, self.ITEM_SEQ_LEN))
        self.n_users = dataset.user_num
        self.count(config)

    def count(self, config: Any) -> None:
        """Make what `scores` needs."""
        raise NotImplementedError

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(N, L), (N,) → (N, n_items)."""
        raise NotImplementedError

    def popularity(self) -> np.ndarray:
        """Users who have an item in their training part, by item: (n_items,)."""
        return np.asarray(self.seen().sum(axis=0), dtype=np.float64).ravel()

    def seen(self) -> sparse.csr_matrix:
        """(n_users, n_items) 1 where a user has an item in the training part."""
        inside = self.histories > 0
        users = np.concatenate([np.repeat(self.users, inside.sum(axis=1)), self.users])
        items = np.concatenate([self.histories[inside], self.targets])
        ones = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), (self.n_users, self.n_items))
        ones.data[:] = 1.0
        return ones

    def candidates(self) -> Tensor:
        """Nothing per item."""
        return torch.empty(0)

    def terms(self, batch: Batch) -> Terms:
        """Nothing to train."""
        return {}

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        items, lengths = (t.cpu().numpy() for t in prefixes(batch))
        scores = torch.from_numpy(self.scores(items, lengths)).to(batch.targets.device)
        scores[:, 0] = -torch.inf
        return scores


class Pop(CountedModel):
    """The more users have an item, the higher it ranks."""

    def count(self, config: Any) -> None:
        """Popularity."""
        self.counts = self.popularity()

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same for each history."""
        return np.tile(self.counts, (len(items), 1))


class Markov(CountedModel):
    """How often an item followed the last one."""

    def count(self, config: Any) -> None:
        """(n_items, n_items) share of what followed, and popularity as a probability."""
        follows = sparse.csr_matrix((self.n_items, self.n_items), dtype=np.float64)
        for distance in range(1, config["window"] + 1):
            rows = np.flatnonzero(self.lengths >= distance)
            before = self.histories[rows, self.lengths[rows] - distance]
            weight = np.full(len(rows), 1.0 / distance)
            follows += sparse.csr_matrix((weight, (before, self.targets[rows])), follows.shape)
        totals = np.asarray(follows.sum(axis=1)).ravel()
        self.follows = (sparse.diags(1.0 / np.maximum(totals, 1e-12)) @ follows).tocsr()
        popularity = self.popularity()
        self.backoff = config["backoff"] * popularity / popularity.sum()

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """P(next | last) + backoff · P(next)."""
        last = items[np.arange(len(items)), lengths - 1]
        return np.asarray(self.follows[last].toarray() + self.backoff)


class ItemKNN(CountedModel):
    """Sum of the cosines to the history's items, each item's k neighbours alone.

    RecBole's own cannot be imported without kmeans_pytorch, and scores users, not histories.
    """

    def count(self, config: Any) -> None:
        """(n_items, n_items) similarity."""
        self.similar = nearest_items(self.seen(), config["k"], config["shrink"])

    def scores(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Histories as sets."""
        inside = items > 0
        rows = np.repeat(np.arange(len(items)), inside.sum(axis=1))
        have = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, items[inside])), (len(items), self.n_items))
        have.data[:] = 1.0
        return np.asarray((have @ self.similar).toarray())


def nearest_items(seen: sparse.csr_matrix, k: int, shrink: float) -> sparse.csr_matrix:
    """Cosine of the columns of (users, n), the k highest of each column: (n, n), diagonal 0."""
    norms = np.sqrt(np.asarray(seen.multiply(seen).sum(axis=0)).ravel())
    both = (seen.T @ seen).tocsc()
    both.setdiag(0.0)
    both.eliminate_zeros()
    columns = np.repeat(np.arange(both.shape[1]), np.diff(both.indptr))
    values = both.data / (norms[both.indices] * norms[columns] + shrink + 1e-6)
    order = np.lexsort((both.indices, -values, columns))  # ties go to the lower item
    kept = order[np.arange(len(order)) - both.indptr[columns[order]] < k]
    return sparse.csr_matrix((values[kept], (both.indices[kept], columns[kept])), both.shape)


COUNTED: Dict[str, Type[RankingModel]] = {model.__name__: model for model in (Pop, Markov, ItemKNN)}
