"""The bootstrap over users and seeds, against known cases and by simulation; Holm's correction."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest
from scipy import stats

from reproduce.significance import RESAMPLES, Comparison, compare_means, holm, resampled_means


def simulated(generator: np.random.Generator, n_seeds: int, seed_std: float, shift: float) -> Tuple[np.ndarray, ...]:
    """Two models, (seeds, 200 users) each, whose true difference is ``shift``."""
    users = generator.random(200)
    noise = [
        seed_std * generator.standard_normal((n_seeds, 1)) + 0.3 * generator.standard_normal((n_seeds, 200))
        for _ in range(2)
    ]
    return users + shift + noise[0], users + noise[1]


def compare(ours: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two models by the gains of the same users, (seeds, users) each."""
    return compare_means(float(ours.mean() - theirs.mean()), *resampled_means([ours, theirs], resamples, seed))


def test_equal_models_and_a_constant_shift() -> None:
    ours = np.random.default_rng(0).random((3, 100))
    assert compare(ours, ours).p > 0.9  # the seeds of both sides are drawn independently
    same = np.random.default_rng(0).random((1, 100)).repeat(6, 0) / 3  # means over 6 and 5 seeds round differently
    found = compare(same, same[:5])
    assert found.p == 1.0 and abs(found.difference) < 1e-12 and found.low == found.high == 0.0
    shifted = compare(same + 0.01, same)
    assert shifted.p == pytest.approx(2 / (RESAMPLES + 1))
    assert shifted.low == pytest.approx(shifted.difference) == pytest.approx(shifted.high) == pytest.approx(0.01)


def test_one_seed_gives_the_interval_and_p_of_a_paired_test() -> None:
    generator = np.random.default_rng(0)
    theirs = generator.random(400)
    ours = theirs + 0.01 + 0.1 * generator.standard_normal(400)
    found = compare(ours[None], theirs[None])
    paired = stats.ttest_rel(ours, theirs)
    low, high = paired.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found.p == pytest.approx(paired.pvalue, abs=0.01)


def test_the_variance_over_seeds_alone_is_unbiased() -> None:
    means = np.array([0.1, 0.2, 0.6])
    (drawn,) = resampled_means([np.tile(means[:, None], 50)])  # all users alike
    assert drawn.var() == pytest.approx(means.var(ddof=1) / 3, rel=0.05)


def test_models_share_drawn_users_and_draws_repeat_with_the_seed() -> None:
    gains = np.random.default_rng(0).random((1, 300))
    first = resampled_means([gains, gains + 1], seed=1)
    assert np.allclose(first[1] - first[0], 1)
    assert np.array_equal(first, resampled_means([gains, gains + 1], seed=1))
    assert not np.array_equal(first, resampled_means([gains, gains + 1], seed=2))


@pytest.mark.parametrize(
    ("n_seeds", "seed_std", "least"), [(1, 0.0, 0.9), (3, 0.0, 0.95), (3, 0.05, 0.85), (5, 0.05, 0.9)]
)
def test_the_interval_covers_the_true_difference(n_seeds: int, seed_std: float, least: float) -> None:
    generator = np.random.default_rng(0)
    covered, significant = 0, 0
    for number in range(200):
        found = compare(*simulated(generator, n_seeds, seed_std, 0.03), resamples=500, seed=number)
        covered += found.low <= 0.03 <= found.high
        significant += compare(*simulated(generator, n_seeds, seed_std, 0.0), resamples=500, seed=number).p < 0.05
    assert covered / 200 >= least and significant / 200 <= 1 - least


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
