"""Ranks and recommended lists of test users: gains, groups of users and targets, coverage, Gini and novelty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd

from common.dataset import Dataset
from common.errors import UserError
from common.splits import Splits, targets_of

SHOWN = "shown.npz"
METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")


@dataclass(frozen=True)
class Ranks:
    """Users (U,), their test items (U,), and the items' ranks in each run (seeds, U); sorted by user.

    The items are -1 in an archive, which does not hold them (reproduce/archive.py).
    """

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
        tables = [table if "item" in table else table.assign(item=-1) for table in tables]
        for folder, table in zip(folders, tables):
            first = first or (folder, table)
            if not np.array_equal(table[["user", "item"]], first[1][["user", "item"]]):
                raise UserError(f"{folder} and {first[0]} were tested on different users or items; run the suite again")
        ranks = np.stack([table["rank_masked" if masked else "rank"].to_numpy(float) for table in tables])
        found[name] = Ranks(tables[0]["user"].to_numpy(), tables[0]["item"].to_numpy(), ranks)
    return found


@dataclass(frozen=True)
class Catalogue:
    """What tables need of a data set."""

    counts: np.ndarray  # (n,) training interactions of each item
    thirds: np.ndarray  # (U,) 0, 1, 2: the third of the training interactions that the user's test item is in
    lengths: np.ndarray  # (U,) of the histories

    def groups(self) -> Dict[str, np.ndarray]:
        """Masks (U,) by popularity of the target and by length of the history."""
        return {
            "popular targets": self.thirds == 0,
            "medium targets": self.thirds == 1,
            "rare targets": self.thirds == 2,
            "history 1-5": self.lengths <= 5,
            "history 6-10": (self.lengths > 5) & (self.lengths <= 10),
            "history > 10": self.lengths > 10,
        }

    def spread(self, shown: np.ndarray) -> List[float]:
        """Coverage, Gini and novelty of recommendations; ``shown`` (n,) is how often each item is recommended.

        Coverage is the share of all items that are recommended at all, Gini the coefficient of how often they are.
        Novelty is the mean of -log2((c + 1) / (C + n)) over the recommended items, the self-information of an item
        with c of all C training interactions (Zhou et al., PNAS 2010); items without any have a finite one.
        """
        n_items, total = len(shown), shown.sum()
        places = np.arange(1, n_items + 1)
        gini = ((2 * places - n_items - 1) * np.sort(shown)).sum() / (n_items * total)
        information = -np.log2((self.counts + 1) / (self.counts.sum() + n_items))
        return [float(np.mean(shown > 0)), float(gini), float((shown * information).sum() / total)]


def catalogue_of(dataset: Dataset, splits: Splits, ranks: Ranks) -> Catalogue:
    """What tables need of a data set and its test users; the most popular items make the first third.

    Raises:
        UserError: the data set has other users or test items.
    """
    from common.ranking import train_counts

    users = dataset.users[splits.test.users]
    by_user = np.argsort(users, kind="stable")
    if not (
        np.array_equal(ranks.users, users[by_user])
        and np.array_equal(ranks.items, targets_of(dataset, splits.test)[by_user])
    ):
        raise UserError(
            f"{dataset.folder}: the runs were tested on other data; run the suite again, or correct datasets_dir"
        )
    counts = train_counts(dataset, splits)
    order = np.argsort(-counts, kind="stable")
    before = np.empty(dataset.n_items)
    before[order] = (np.cumsum(counts[order]) - counts[order]) / counts.sum()  # share of more popular items
    thirds = np.minimum(before[ranks.items] * 3, 2).astype(np.int8)
    return Catalogue(counts, thirds, splits.test.places[by_user])


def times_shown(folder: Path, n_items: int) -> Optional[np.ndarray]:
    """How often a run recommends each item (n,), in the ten items of each user; None if the run has no lists."""
    if (folder / SHOWN).is_file():  # in an archive
        return np.asarray(np.load(folder / SHOWN, allow_pickle=False)["shown"])
    if not (folder / "top.npy").is_file():
        return None
    return np.bincount(np.load(folder / "top.npy", allow_pickle=False).ravel(), minlength=n_items)
