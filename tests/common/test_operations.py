"""Operations of a training step, counted by hand; the count runs no hook and leaves no gradient."""

import pytest
import torch
from stage2_helpers import make_model
from torch import nn
from torch.nn import functional as F

from common.compute import operations_of_step
from stage2_sequence_preference_learning.data import TrainLoader


def test_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False))
    model[0].weight.register_hook(lambda grad: None)
    ran = []
    model[2].weight.register_post_accumulate_grad_hook(ran.append)
    x = torch.ones(4, 5)
    forward = 2 * 4 * (5 * 7 + 7 * 3)  # a multiplication and an addition each
    backward = 2 * 4 * (7 * 3 + 7 * 3 + 5 * 7)  # to both weights, and to the hidden layer
    assert operations_of_step(model, lambda: model(x).sum()) == forward + backward
    assert not ran and all(p.grad is None for p in model.parameters())


def test_attention_is_counted_whichever_kernel_computes_it():
    model = nn.Linear(8, 8, bias=False)
    x, seen = torch.ones(2, 1, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()

    def by_kernel():
        return F.scaled_dot_product_attention(model(x), x, x, attn_mask=seen).sum()

    def by_hand():
        return ((model(x) @ x.transpose(2, 3)).masked_fill(~seen, -torch.inf).softmax(-1) @ x).sum()

    before = torch.backends.cuda.flash_sdp_enabled()
    assert operations_of_step(model, by_kernel) >= operations_of_step(model, by_hand) > 2 * 2 * 2 * 5 * 8 * 8
    assert torch.backends.cuda.flash_sdp_enabled() is before


def test_a_parameter_may_go_into_a_module():
    """As in CORE, whose item table passes through dropout; torch's own counter fails there."""
    table, drop = nn.Embedding(5, 7), nn.Dropout(0.5)
    model = nn.ModuleList([table, drop])
    x = torch.ones(4, 7)
    assert operations_of_step(model, lambda: (x @ drop(table.weight).T).sum()) == 2 * 2 * 4 * 5 * 7


def test_what_is_frozen_costs_no_backward_pass_to_its_weights():
    model = nn.Linear(5, 7)
    counted = []
    for trained in (True, False):
        model.weight.requires_grad_(trained)
        counted.append(operations_of_step(model, lambda: model(torch.ones(4, 5)).sum()))
    assert counted == [2 * 2 * 4 * 5 * 7, 2 * 4 * 5 * 7]


@pytest.mark.parametrize("changed", [{"branches": "id"}, {"hidden_size": 4}])
def test_a_smaller_model_takes_fewer(datasets_dir, changed):
    def of_step(**values):
        model, _, data = make_model(datasets_dir, "SICSRec", **values)
        loader = TrainLoader(data.train, 16, seed=0)
        batch, _ = loader.load(loader.epoch(0)[0])
        return operations_of_step(model, lambda: sum(model(batch).values()))

    assert 0 < of_step(**changed) < of_step()
