"""The loss's terms against the formulas, written out with plain loops."""

import math
from functools import partial

import pytest
import torch

from stage2_sequence_preference_learning import losses
from stage2_sequence_preference_learning.losses import (
    contrastive_loss,
    cross_entropy,
    sampled_softmax,
    table_regularization,
    with_negatives,
)

TEMPERATURE = 0.5


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    u, c = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    return torch.nn.functional.normalize(u, dim=1), torch.nn.functional.normalize(c, dim=1)


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b))


def test_cross_entropy(drawn):
    u, items = drawn
    targets = [3, 0, 4, 1, 1]
    expected = 0.0
    for i, target in enumerate(targets):
        denominator = sum(math.exp(dot(u[i], item) / TEMPERATURE) for item in items)
        expected -= math.log(math.exp(dot(u[i], items[target]) / TEMPERATURE) / denominator) / len(targets)
    assert cross_entropy(u, items, torch.tensor(targets), TEMPERATURE).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_in_blocks_has_the_same_value_and_gradients(dtype, monkeypatch):
    torch.manual_seed(0)
    u, items, targets = torch.randn(300, 8).to(dtype), torch.randn(50, 8), torch.randint(50, (300,))
    found = []
    for large in (losses.LARGE, 0):
        monkeypatch.setattr(losses, "LARGE", large)
        leaves = [u.clone().requires_grad_(), items.clone().requires_grad_()]
        loss = cross_entropy(*leaves, targets, 0.05)
        found.append([loss, *torch.autograd.grad(2 * loss, leaves)])
    for whole, blocks in zip(*found):
        torch.testing.assert_close(blocks, whole)


def softmax_of(u, items, targets, temperature, k, logq=False):
    rows = with_negatives(targets, len(items), k)
    return sampled_softmax(u, items[rows], rows, temperature, len(items) if logq else None)


def test_sampled_softmax(drawn):
    u, items = drawn[0].requires_grad_(), torch.randn(50, 4, dtype=torch.float64).requires_grad_()
    targets = [3, 0, 4, 1, 1]
    torch.manual_seed(1)
    negatives = torch.randint(1, 50, (5, 6))  # rows of one prediction each; row 0 is the padding
    torch.manual_seed(1)
    loss = softmax_of(u, items, torch.tensor(targets), TEMPERATURE, 6)
    expected = 0.0
    for i, target in enumerate(targets):
        scores = [math.exp(dot(u[i], items[j]) / TEMPERATURE) for j in (target, *negatives[i].tolist())]
        expected -= math.log(scores[0] / sum(scores)) / len(targets)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert set(items.grad.abs().sum(dim=1).nonzero().flatten().tolist()) == {*targets, *negatives.flatten().tolist()}


def test_logq_correction(drawn):
    """Against the formula, with draws of the target; with many draws, the loss over all items."""
    u, items = drawn[0], torch.randn(6, 4, dtype=torch.float64)
    targets = torch.tensor([3, 1, 4, 1, 1])
    torch.manual_seed(1)
    negatives = torch.randint(1, 6, (5, 8))
    torch.manual_seed(1)
    loss = softmax_of(u, items, targets, TEMPERATURE, 8, logq=True)
    expected = 0.0
    for i, target in enumerate(targets.tolist()):
        kept = [j for j in negatives[i].tolist() if j != target]
        own = math.exp(dot(u[i], items[target]) / TEMPERATURE)
        others = sum(4 / len(kept) * math.exp(dot(u[i], items[j]) / TEMPERATURE) for j in kept)  # Q' = 1/4
        expected -= math.log(own / (own + others)) / 5
    assert (negatives == targets[:, None]).any() and loss.item() == pytest.approx(expected, abs=1e-6)
    estimate = softmax_of(u, items, targets, 1.0, 100_000, logq=True)
    exact = cross_entropy(u, items[1:], targets - 1)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.01)
    alone = softmax_of(u, items[:2], torch.ones_like(targets), 1.0, 3, logq=True)
    assert alone.item() == 0  # the target is the only item


def test_negatives_are_all_items_but_the_padding():
    items = torch.zeros(4, 2, requires_grad=True)
    softmax_of(torch.ones(9, 2), items, torch.full((9,), 2), 1.0, 100).backward()
    assert (items.grad.abs().sum(dim=1) > 0).tolist() == [False, True, True, True]


@pytest.mark.parametrize("mask_same_target", [True, False])
def test_contrastive_loss_s10(drawn, mask_same_target):
    u, c = drawn
    targets = [7, 2, 7, 9, 7]
    expected = 0.0
    for i in range(5):
        denominator = math.exp(dot(u[i], c[i]) / TEMPERATURE)
        for j in range(5):
            if j == i:
                continue
            if targets[j] == targets[i]:
                denominator += 0.0 if mask_same_target else 1.0
            else:
                denominator += math.exp(dot(u[i], c[j]) / TEMPERATURE)
        expected -= math.log(math.exp(dot(u[i], c[i]) / TEMPERATURE) / denominator) / 5
    found = contrastive_loss(u, c, torch.tensor(targets), torch.arange(5), TEMPERATURE, mask_same_target)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("large", [losses.LARGE, 0])
@pytest.mark.parametrize("loss", [cross_entropy, partial(softmax_of, k=8), partial(softmax_of, k=8, logq=True)])
def test_logits_are_fp32_inside_autocast(loss, large, monkeypatch):
    monkeypatch.setattr(losses, "LARGE", large)
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        u, items, targets = torch.randn(64, 32), torch.randn(50, 32), torch.arange(64) % 50
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(loss(u, items, targets, temperature=0.05))
    assert torch.equal(*found)


def test_rows_of_one_sequence_are_no_negatives_of_each_other(drawn):
    u, c = drawn
    targets, sequences = torch.arange(5), torch.tensor([0, 0, 1, 2, 2])
    expected = 0.0
    for i in range(5):
        seen = [j for j in range(5) if j == i or sequences[j] != sequences[i]]
        denominator = sum(math.exp(dot(u[i], c[j]) / TEMPERATURE) for j in seen)
        expected -= math.log(math.exp(dot(u[i], c[i]) / TEMPERATURE) / denominator) / 5
    found = contrastive_loss(u, c, targets, sequences, TEMPERATURE)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_where_all_rows_share_a_target(drawn):
    u, c = drawn
    loss = contrastive_loss(u.requires_grad_(), c, torch.full((5,), 3), torch.arange(5), TEMPERATURE)
    loss.backward()
    assert loss.item() == 0.0  # nothing is left to tell it from
    assert torch.isfinite(u.grad).all()


def test_table_regularization():
    tables = [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0], [2.0]])]
    assert table_regularization(tables).item() == pytest.approx(5.0 + 3.0)
