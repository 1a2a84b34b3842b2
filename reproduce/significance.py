"""What differs between two models, over users and over seeds: intervals, tests, Holm's correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np
from scipy import optimize, special, stats

RESAMPLES = 2000
ROUNDING = 1e-12  # smaller differences of gains are none
# shares of the values of a chi square, finest where a Student t has its tails
SHARES = np.concatenate([[0.0], np.logspace(-12, -2, 80), np.linspace(0.01, 1.0, 121)[1:]])


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
