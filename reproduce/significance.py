"""Differences between models: a bootstrap over users and seeds, with Holm's correction.

A model's result varies with the users that were tested and with the seeds that it was trained with. Both are resampled
with replacement, independently (the pigeonhole bootstrap: A. B. Owen, The Annals of Applied Statistics, 2007). Two
models are compared on the same drawn users (paired); their seeds are drawn independently. Of S seeds S - 1 are drawn,
which makes the variance over a few seeds unbiased (J. N. K. Rao and C. F. J. Wu, JASA, 1988). With one seed, only the
users are resampled. The interval is the percentile interval, and p the two-sided p-value of the bootstrap distribution
(B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np

RESAMPLES = 10_000
CHUNK = 4_000_000  # drawn users at a time, which bounds the memory
ROUNDING = 1e-12  # differences of means below this are rounding errors


@dataclass(frozen=True)
class Comparison:
    """Difference of two means, its 95 % interval, and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def resampled_means(models: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Mean of each model in each bootstrap sample.

    Args:
        models: gains of the same users, (seeds, users) each; the number of seeds may differ.
        resamples: number of bootstrap samples B.

    Returns:
        (models, B). A column has the same drawn users for all models.
    """
    generator = np.random.default_rng(seed)
    gains = np.concatenate(models)  # (all seeds of all models, users)
    n_users = gains.shape[1]
    by_seed = np.empty((len(gains), resamples))
    size = max(1, CHUNK // n_users)
    for start in range(0, resamples, size):
        n = min(size, resamples - start)
        drawn = generator.integers(0, n_users, (n, n_users)) + n_users * np.arange(n)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users)
        by_seed[:, start : start + n] = gains @ counts.T.astype(np.float64) / n_users
    means = np.empty((len(models), resamples))
    for place, rows in enumerate(np.split(by_seed, np.cumsum([len(model) for model in models])[:-1])):
        n_seeds = len(rows)
        drawn = generator.integers(0, n_seeds, (max(1, n_seeds - 1), resamples))
        means[place] = np.take_along_axis(rows, drawn, axis=0).mean(axis=0)
    return means


def interval(means: np.ndarray) -> Tuple[float, float]:
    """95 % percentile interval of bootstrap means (B,)."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def compare_means(difference: float, ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    """Compare two rows of `resampled_means`, (B,) each; ``difference`` is the observed one."""
    drawn = ours - theirs
    drawn[np.abs(drawn) < ROUNDING] = 0.0
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p = min(1.0, 2.0 * (tail + 1) / (len(drawn) + 1))
    return Comparison(difference, *interval(drawn), p)


def holm(p_values: Sequence[float]) -> List[float]:
    """Adjusted p-values of a family of tests, in the given order (S. Holm, Scandinavian J. of Statistics, 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * np.asarray(p_values)[order]))
    return [float(p) for p in adjusted]
