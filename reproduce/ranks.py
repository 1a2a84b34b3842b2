"""What a run's ranks and lists tell: each user's gain, groups of users and targets, coverage and Gini."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Sequence, Tuple

import numpy as np

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_text
from common.ranking import train_counts


@dataclass(frozen=True)
class Ranks:
    """ranks.csv of a run: users, targets and ranks, (U,) each, by user."""

    users: np.ndarray
    items: np.ndarray
    ranks: np.ndarray


def read_ranks(folder: Path, masked: bool = False) -> Ranks:
    """Read a run's ranks.csv."""
    rows = list(csv.DictReader(io.StringIO(read_text(folder / "ranks.csv"))))
    column = "rank_masked" if masked else "rank"
    table = np.array([(int(r["user"]), int(r["item"]), float(r[column])) for r in rows])
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Ranks(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2])


def same_targets(runs: Sequence[Tuple[str, Ranks]]) -> None:
    """Whether runs, each with the name of its row, can be paired by user.

    Raises:
        UserError: two rows were tested on other users or other targets.
    """
    (first, known), *others = runs
    for name, one in others:
        if not (np.array_equal(one.users, known.users) and np.array_equal(one.items, known.items)):
            raise UserError(f"'{first}' and '{name}' were tested on other users or targets; run them on the same data")


def gain(ranks: np.ndarray, metric: str) -> np.ndarray:
    """A user's share in ``hit@k``, ``ndcg@k`` or ``mrr``: (U,); its mean is the metric."""
    if metric == "mrr":
        return np.asarray(1.0 / ranks)
    name, k = metric.split("@")
    inside = ranks <= int(k)
    return np.where(inside, 1.0 / np.log2(ranks + 1.0) if name == "ndcg" else 1.0, 0.0)


def gains(runs: Sequence[Ranks], metric: str) -> np.ndarray:
    """Each user's gain in each run: (seeds, U)."""
    return np.stack([gain(run.ranks, metric) for run in runs])


def groups(dataset: Dataset, ranks: Ranks) -> Dict[str, np.ndarray]:
    """Masks (U,) over users: targets in thirds of the training interactions by popularity, and lengths of histories.

    Raises:
        UserError: the ranks are of other users or targets than those of the data set.
    """
    of_user = dict(zip(dataset.users, dataset.sequences))
    for user, item in zip(ranks.users.tolist(), ranks.items.tolist()):
        if user not in of_user or of_user[user][-1] != item:
            raise UserError(
                f"user {user}: tested on other data than lie in {dataset.folder}; python -m reproduce.run with --check "
                "runs the suite again, or correct datasets_dir"
            )
    counts = train_counts(dataset.sequences, dataset.n_items)
    order = np.argsort(-counts, kind="stable")
    before = np.empty(dataset.n_items)
    before[order] = (np.cumsum(counts[order]) - counts[order]) / counts.sum()  # share of more popular items
    share = before[ranks.items]
    lengths = np.array([len(of_user[user]) - 1 for user in ranks.users.tolist()])
    return {
        "popular targets": share < 1 / 3,
        "middling targets": (share >= 1 / 3) & (share < 2 / 3),
        "rare targets": share >= 2 / 3,
        "history ≤ 5": lengths <= 5,
        "history 6–10": (lengths > 5) & (lengths <= 10),
        "history > 10": lengths > 10,
    }


def coverage_and_gini(top: np.ndarray, n_items: int) -> Tuple[float, float]:
    """Share of the catalogue that (U, k) lists show at all, and the Gini coefficient of how often they show an item."""
    shown = np.sort(np.bincount(top.ravel(), minlength=n_items)).astype(np.float64)
    places = np.arange(1, n_items + 1)
    gini = float(((2 * places - n_items - 1) * shown).sum() / (n_items * shown.sum()))
    return float(np.mean(shown > 0)), gini
