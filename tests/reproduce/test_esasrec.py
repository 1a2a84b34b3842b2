"""eSASRec against plain formulas, and sampled softmax in all models that have it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
import torch
from stage2_helpers import read_metrics
from test_baselines import SIZES
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from common.training import make_optimizer
from reproduce import baseline
from reproduce.baselines import esasrec
from reproduce.baselines.ensemble import MODELS
from reproduce.baselines.esasrec import LiGRBlock, positions_from_the_end
from reproduce.baselines.settings import AttentionSettings, ESASRecSettings
from stage2_sequence_preference_learning.data import SequenceData, load_splits
from stage2_sequence_preference_learning.packing import Batch, distinct_items, pack
from stage2_sequence_preference_learning.settings import LossSettings

SAMPLED = [name for name, model in MODELS.items() if issubclass(model.schema, LossSettings)]


def make(name: str, datasets_dir: Path, **values: Any) -> Tuple[Any, SequenceData]:
    """A tiny model with sampled softmax, and its data."""
    schema: Any = MODELS[name].schema
    sizes = {f.name: SIZES[f.name] for f in dataclasses.fields(schema) if f.name in SIZES}
    given = {**sizes, "dataset": "Tiny", "datasets_dir": str(datasets_dir), "loss": "sampled_softmax", "n_negatives": 5}
    settings = schema(**{**given, **values})
    data = load_splits(settings)
    torch.manual_seed(0)
    return MODELS[name](settings, data).eval(), data


def with_padding(batch: Batch) -> Batch:
    """The same batch with one more row."""
    values = {"items": 0, "positions": 0, "segments": -1}
    padded = {key: F.pad(getattr(batch, key), (0, 0, 0, 1), value=value) for key, value in values.items()}
    padded["distinct"], padded["places"] = distinct_items(padded["items"], batch.targets)
    return dataclasses.replace(batch, **padded)


@pytest.mark.parametrize("loss", ["sampled_softmax", "cross_entropy"])
def test_item_dropout_is_one_mask_for_histories_and_candidates(loss, datasets_dir, monkeypatch) -> None:
    """With "dropout" that doubles the table, the loss is that of a table twice as large."""
    found = []
    for doubled in (False, True):
        model, data = make("eSASRec", datasets_dir, loss=loss, item_dropout=0.5)
        monkeypatch.setattr(esasrec, "dropout", lambda table, p, training: table if doubled else 2 * table)  # noqa: B023
        if doubled:
            model.item_embedding.weight.data *= 2
        torch.manual_seed(1)
        found.append(model.loss_terms(pack(data.train, np.arange(len(data.train))))["rec"])
    assert torch.equal(*found)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_softmax_is_used_and_padding_does_not_change_it(name: str, datasets_dir: Path) -> None:
    losses = []
    for loss, pads in (("sampled_softmax", False), ("sampled_softmax", True), ("cross_entropy", False)):
        model, data = make(name, datasets_dir, loss=loss)
        batch = pack(data.train, np.arange(len(data.train)))
        torch.manual_seed(1)
        losses.append(model.loss_terms(with_padding(batch) if pads else batch)["rec"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 0.1  # 5 negatives, 15 items


@pytest.mark.parametrize("heads", [1, 2])
def test_block_is_the_formula(heads: int) -> None:
    torch.manual_seed(0)
    block = LiGRBlock(ESASRecSettings(hidden_size=8, inner_size=12, n_heads=heads, dropout_prob=0.5)).eval()
    for parameter in block.parameters():
        parameter.data.normal_(std=0.5)
    x, causal = torch.randn(3, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()
    found = block(x, causal.expand(3, 1, 5, 5))

    mha = nn.MultiheadAttention(8, heads, batch_first=True).eval()
    mha.in_proj_weight.data, mha.in_proj_bias.data = block.query_key_value.weight, block.query_key_value.bias
    mha.out_proj.load_state_dict(block.attention_out.state_dict())
    norm = block.attention_norm(x)
    a, _ = mha(norm, norm, norm, attn_mask=~causal)
    x = x + torch.sigmoid(x @ block.attention_gate.weight.T + block.attention_gate.bias) * a
    z = F.layer_norm(x, (8,), block.feed_forward_norm.weight, block.feed_forward_norm.bias, eps=1e-5)
    swish = z @ block.swish.weight.T
    f = (swish * torch.sigmoid(swish) * (z @ block.linear.weight.T)) @ block.feed_forward_out.weight.T
    expected = x + torch.sigmoid(x @ block.feed_forward_gate.weight.T + block.feed_forward_gate.bias) * f
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert block.swish.bias is None and block.linear.bias is None and block.feed_forward_out.bias is None


def test_each_sequence_gives_the_same_alone_as_packed(datasets_dir: Path) -> None:
    model, data = make("eSASRec", datasets_dir, n_layers=2, max_seq_length=4)
    together = model.preference(pack(data.train, np.arange(len(data.train))))
    alone = torch.cat([model.preference(pack(data.train, np.array([i]))) for i in range(len(data.train))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_positions_count_from_the_end() -> None:
    segments = torch.tensor([[0, 0, 0, 2, 2], [1, 1, -1, -1, -1]])
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]])
    none, lengths = torch.zeros(0, dtype=torch.int64), torch.tensor([3, 2, 2])
    found = positions_from_the_end(Batch(segments, positions, segments, *[none] * 4, lengths, none, none))
    assert found.tolist() == [[2, 1, 0, 1, 0], [1, 0, 0, 0, 0]]


def test_initial_weights(datasets_dir: Path) -> None:
    model, data = make("eSASRec", datasets_dir, hidden_size=64)
    block = model.blocks[0]
    for weight in (model.item_embedding.weight, model.position_embedding.weight, block.query_key_value.weight):
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.1)  # Xavier
    assert not block.query_key_value.bias.any() and not block.attention_out.bias.any()
    model.loss_terms(pack(data.train, np.arange(len(data.train))))["rec"].backward()
    assert not model.item_embedding.weight.grad[0].any()


def test_adam_has_the_settings_betas() -> None:
    parameter = nn.Linear(1, 1)
    assert make_optimizer(parameter, ESASRecSettings()).defaults["betas"] == (0.9, 0.98)
    assert make_optimizer(parameter, AttentionSettings()).defaults["betas"] == (0.9, 0.999)


def test_esasrec_from_command_line_to_ranks(datasets_dir: Path, tmp_path: Path) -> None:
    words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path}", "device=cpu", "epochs=2"]
    baseline.main(["eSASRec", *words])
    (folder,) = (tmp_path / "eSASRec" / "Tiny").iterdir()
    assert 0 < read_metrics(folder)["test"]["mrr"] <= 1
    assert "loss: sampled_softmax" in (folder / "settings.yaml").read_text()
    with pytest.raises(UserError, match="hidden_size=64 is not a multiple of n_heads=3"):
        baseline.main(["eSASRec", *words, "n_heads=3"])
