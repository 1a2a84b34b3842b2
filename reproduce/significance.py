"""What differs between two models, over users and over seeds: intervals, tests, Holm's correction; groups of users."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy import optimize, special, stats

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_text
from common.ranking import train_counts

RESAMPLES = 2000
ROUNDING = 1e-12  # smaller differences of gains are none
# shares of the values of a chi square, finest where a Student t has its tails
SHARES = np.concatenate([[0.0], np.logspace(-12, -2, 80), np.linspace(0.01, 1.0, 121)[1:]])


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


@dataclass(frozen=True)
class Comparison:
    """Mean difference per user, its 95 % interval, and the p of a test that it is none."""

    difference: float
    low: float
    high: float
    p: float


def _differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Each user's difference of means over seeds: (U,); what rounding leaves of none is none."""
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    return np.where(np.abs(differences) < ROUNDING, 0.0, differences)


def over_users(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Comparison:
    """Gains of the same users in two models' runs, (seeds, U) each: seeds as they are, other users drawn.

    A bootstrap over users, and a paired t-test, of each user's mean over seeds.
    """
    differences = _differences(ours, theirs)
    if not differences.any() or len(differences) < 2:
        difference = float(differences.mean())
        return Comparison(difference, difference, difference, 1.0)
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, len(differences), len(differences))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Comparison(float(differences.mean()), float(low), float(high), p)


@dataclass(frozen=True)
class SeedVariance:
    """Variance of a metric over a row's seeds, as the rows of a table have it on the average; of no row, 0 freedom."""

    variance: float
    freedom: int


def variance_over_seeds(rows: Sequence[Sequence[float]]) -> SeedVariance:
    """Of each row the metric's value by run; rows that only count, and those of one run, tell nothing."""
    found = [(float(np.var(values, ddof=1)), len(values) - 1) for values in rows if len(values) > 1]
    varying = [(variance, freedom) for variance, freedom in found if np.sqrt(variance) > ROUNDING]
    freedom = sum(own for _, own in varying)
    return SeedVariance(sum(v * own for v, own in varying) / freedom if freedom else 0.0, freedom)


def over_users_and_seeds(ours: np.ndarray, theirs: np.ndarray, table: SeedVariance) -> Optional[Comparison]:
    """Likewise, other users and other seeds drawn.

    What is known of the true difference is a normal of the users' part (the variance of their paired differences, over
    U), plus a Student t, of the table's degrees of freedom, of the seeds' part: for each row the larger of its own
    variance over seeds and the table's, over its runs; none for a row that only counts. Two or three runs alone do not
    tell a variance: their own chance would pass for significance, or hide all.

    Returns:
        None where a model has one run and no row of the table has more.
    """
    if not table.freedom and min(len(ours), len(theirs)) < 2:
        return None
    differences = _differences(ours, theirs)
    difference = float(differences.mean())
    of_users = float(differences.var(ddof=1)) / len(differences) if len(differences) > 1 else 0.0
    of_seeds = sum(_of_seeds(runs.mean(axis=1), table) for runs in (ours, theirs))
    # a Student t is a normal whose variance is multiplied by the degrees of freedom over a chi square
    chi_square = stats.chi2.ppf((SHARES[1:] + SHARES[:-1]) / 2, max(1, table.freedom))
    deviations = np.sqrt(of_users + of_seeds * table.freedom / chi_square)
    if not deviations.any():
        return Comparison(difference, difference, difference, float(difference == 0))

    def beyond(distance: float) -> float:  # probability that the true one is farther than this from what was seen
        return float(2 * (np.diff(SHARES) * special.ndtr(-distance / deviations)).sum())

    half = float(optimize.brentq(lambda distance: beyond(distance) - 0.05, 0.0, 10 * deviations.max(), xtol=1e-7))
    return Comparison(difference, difference - half, difference + half, min(1.0, beyond(abs(difference))))


def _of_seeds(means: np.ndarray, table: SeedVariance) -> float:
    """The variance of a row's mean over its runs (S,)."""
    if len(means) < 2:
        return table.variance
    own = float(means.var(ddof=1))
    only_counts = np.sqrt(own) <= ROUNDING
    return 0.0 if only_counts else max(own, table.variance) / len(means)


def holm(p_values: Sequence[float]) -> List[float]:
    """Holm's step-down correction of a family of tests, in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return [float(p) for p in corrected]


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
