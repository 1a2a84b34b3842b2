"""Ranks and metrics against hand arithmetic, and against RecBole's where nothing is tied."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.evaluator import NDCG, Hit

from common.ranking import NotFinite, metrics, target_ranks


def test_rank_counts_what_is_better_and_half_of_what_is_tied():
    scores = torch.tensor([[-torch.inf, 3.0, 1.0, 2.0], [-torch.inf, 1.0, 1.0, 1.0], [-torch.inf, 0.0, 5.0, 5.0]])
    assert target_ranks(scores, torch.tensor([3, 1, 2]))[0].tolist() == [2.0, 2.0, 1.5]


def test_history_is_left_out_but_never_the_target():
    scores = torch.tensor([[-torch.inf, 3.0, 1.0, 2.0, 1.0]])
    history = [1, 2, 1, 4]  # an item may be there twice
    ranks, masked = target_ranks(scores, torch.tensor([2]), (torch.zeros(4, dtype=torch.int64), torch.tensor(history)))
    assert ranks.item() == 3.5
    assert masked.item() == 2
    assert scores[0, 1] == 3.0  # the caller's scores stay as they were


def test_nan_is_refused():
    with pytest.raises(NotFinite, match="NaN"):
        target_ranks(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))


def test_metrics_by_hand():
    found = metrics(np.array([1.0, 3.0, 5.5, 11.0]))
    assert found["hit@5"] == 2 / 4
    assert found["hit@10"] == 3 / 4
    assert found["ndcg@5"] == pytest.approx((1 / math.log2(2) + 1 / math.log2(4)) / 4)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(6.5)) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 5.5 + 1 / 11) / 4)


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 20))
@pytest.mark.parametrize("columns_at_once", [2**16, 7])
def test_ranks_agree_with_sorting(columns_at_once, seed, n_items, n_users):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (n_users, n_items)).astype(np.float32)  # ties are common
    targets = random.integers(0, n_items, n_users)
    with patch("common.ranking.COLUMNS_AT_ONCE", columns_at_once):
        ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets))[0].numpy()
    for row, (target, rank) in enumerate(zip(targets, ranks)):
        tied = [place + 1 for place, s in enumerate(np.sort(scores[row])[::-1]) if s == scores[row, target]]
        assert rank == np.mean(tied)


def test_agrees_with_recbole_where_nothing_is_tied():
    Config.compatibility_settings(None)  # RecBole's metrics use names that numpy has dropped
    torch.manual_seed(0)
    scores, targets = torch.rand(50, 30), torch.randint(0, 30, (50,))
    ranks = target_ranks(scores, targets)[0].numpy()
    hits = scores.topk(10, dim=1).indices == targets[:, None]
    lengths = np.ones(50, dtype=int)
    ours = metrics(ranks)
    hit = Hit.metric_info(None, hits.numpy()).mean(axis=0)
    ndcg = NDCG.metric_info(None, hits.numpy(), lengths).mean(axis=0)
    assert [ours["hit@5"], ours["hit@10"]] == pytest.approx([hit[4], hit[9]])
    assert [ours["ndcg@5"], ours["ndcg@10"]] == pytest.approx([ndcg[4], ndcg[9]])
