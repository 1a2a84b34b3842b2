"""The loss's terms against the formulas, written out with plain loops."""

import math

import pytest
import torch

from stage2_sequence_preference_learning.losses import contrastive_loss, recommendation_loss, table_regularization

TEMPERATURE = 0.5


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    u, c = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    return torch.nn.functional.normalize(u, dim=1), torch.nn.functional.normalize(c, dim=1)


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b))


def test_recommendation_loss(drawn):
    u, items = drawn
    targets = [3, 0, 4, 1, 1]
    expected = 0.0
    for i, target in enumerate(targets):
        denominator = sum(math.exp(dot(u[i], item) / TEMPERATURE) for item in items)
        expected -= math.log(math.exp(dot(u[i], items[target]) / TEMPERATURE) / denominator) / len(targets)
    assert recommendation_loss(u, items, torch.tensor(targets), TEMPERATURE).item() == pytest.approx(expected, abs=1e-6)


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


def test_logits_are_fp32_inside_autocast():
    torch.manual_seed(0)
    u, items = torch.randn(64, 32), torch.randn(50, 32)
    targets = torch.arange(64) % 50
    plain = recommendation_loss(u, items, targets, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(recommendation_loss(u, items, targets, 0.05), plain)


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
