"""Ranks and recommended lists of test users: gains, groups of users and targets, coverage and Gini."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd

from common.dataset import Dataset
from common.errors import UserError

METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")


@dataclass(frozen=True)
class Ranks:
    """Users (U,), their test items (U,), and the items' ranks in each run (seeds, U); sorted by user."""

    users: np.ndarray
    items: np.ndarray
    ranks: np.ndarray

    def gains(self, metric: str) -> np.ndarray:
        """What each user contributes to ``hit@k``, ``ndcg@k`` or ``mrr``, whose mean is the metric: (seeds, U)."""
        if metric == "mrr":
            return np.asarray(1.0 / self.ranks)
        name, k = metric.split("@")
        gain = 1.0 / np.log2(self.ranks + 1.0) if name == "ndcg" else 1.0
        return np.where(self.ranks <= int(k), gain, 0.0)


def read_ranks(rows: Mapping[str, Sequence[Path]], masked: bool) -> Dict[str, Ranks]:
    """Read ranks.csv in the run folders of each row.

    Raises:
        UserError: two runs were tested on different users or items.
    """
    found = {}
    first: Optional[Tuple[Path, pd.DataFrame]] = None
    for name, folders in rows.items():
        tables = [pd.read_csv(folder / "ranks.csv").sort_values("user", kind="stable") for folder in folders]
        for folder, table in zip(folders, tables):
            first = first or (folder, table)
            if not np.array_equal(table[["user", "item"]], first[1][["user", "item"]]):
                raise UserError(f"{folder} and {first[0]} were tested on different users or items; run the suite again")
        ranks = np.stack([table["rank_masked" if masked else "rank"].to_numpy(float) for table in tables])
        found[name] = Ranks(tables[0]["user"].to_numpy(), tables[0]["item"].to_numpy(), ranks)
    return found


def groups(dataset: Dataset, ranks: Ranks) -> Dict[str, np.ndarray]:
    """Masks (U,) by popularity of the target (thirds of the training interactions) and by length of the history.

    Raises:
        UserError: the data set has other users or test items.
    """
    from common.ranking import train_counts

    of_user = dict(zip(dataset.users, dataset.sequences))
    for user, item in zip(ranks.users.tolist(), ranks.items.tolist()):
        if user not in of_user or of_user[user][-1] != item:
            raise UserError(
                f"{dataset.folder}: the runs were tested on other data (user {user}); run the suite again, or correct "
                "datasets_dir"
            )
    counts = train_counts(dataset.sequences, dataset.n_items)
    order = np.argsort(-counts, kind="stable")
    before = np.empty(dataset.n_items)
    before[order] = (np.cumsum(counts[order]) - counts[order]) / counts.sum()  # share of more popular items
    share = before[ranks.items]
    lengths = np.array([len(of_user[user]) - 1 for user in ranks.users.tolist()])
    return {
        "popular targets": share < 1 / 3,
        "medium targets": (share >= 1 / 3) & (share < 2 / 3),
        "rare targets": share >= 2 / 3,
        "history 1-5": lengths <= 5,
        "history 6-10": (lengths > 5) & (lengths <= 10),
        "history > 10": lengths > 10,
    }


def coverage_and_gini(top: np.ndarray, n_items: int) -> Tuple[float, float]:
    """Share of all items that lists (U, k) recommend at all, and the Gini coefficient of how often they do."""
    shown = np.sort(np.bincount(top.ravel(), minlength=n_items)).astype(np.float64)
    places = np.arange(1, n_items + 1)
    gini = float(((2 * places - n_items - 1) * shown).sum() / (n_items * shown.sum()))
    return float(np.mean(shown > 0)), gini
