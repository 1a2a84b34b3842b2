"""ADRec's text encoder: the fast path equals BERT on every padded text, and what is not trained stays as it is."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from adrec_helpers import plain_items, plain_sequence, tiny_adrec
from torch.nn import functional as F

from adrec.model import TABLE
from common.compute import pick_compute
from common.errors import UserError
from common.training import make_optimizer

CPU = pick_compute("cpu", "fp32")


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("plm_layer", [1, 2])
def test_fast_path_equals_encoding_every_occurrence_padded(tmp_path: Path, variant: str, plm_layer: int) -> None:
    """A1 to A4: truncated, packed and once per item is the same as BERT on every padded text."""
    tiny = tiny_adrec(tmp_path, variant=variant, plm_layer=plm_layer)
    model, rows = tiny.model.eval(), tiny.loader.rows
    items = plain_items(model, "query", tiny.tokens, released=variant == "released")
    chosen = tiny.loader.epoch(0)[0]
    batch = tiny.loader.batch(chosen)
    assert torch.allclose(model.query.text(batch.texts), items[batch.items], atol=1e-5)
    sequences, found = model.query(batch)
    ordered = chosen[np.argsort(rows.stop[chosen] - rows.start[chosen], kind="stable")]
    for i, row in enumerate(ordered):
        history = torch.from_numpy(rows.items[rows.start[row] : rows.stop[row]])
        expected = F.normalize(plain_sequence(model, "query", items[history]), dim=0)
        assert torch.allclose(sequences[i], expected, atol=1e-5)
        target = F.normalize(items[rows.targets[row]], dim=0)
        assert torch.allclose(found[batch.targets[i]], target, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kept_tokens_train_the_same_as_the_whole_table(tmp_path: Path, variant: str) -> None:
    """Cutting the embedding table to the catalogue's tokens changes no loss and no weight."""
    losses, tables = [], []
    for cut in (False, True):
        tiny = tiny_adrec(tmp_path / str(cut), cut=cut, variant=variant, max_text_tokens=48)
        optimizer = torch.optim.Adam(tiny.model.query.parameters(), lr=0.01)
        torch.manual_seed(1)
        for chosen in tiny.loader.epoch(0)[:4]:
            loss = sum(tiny.model(tiny.loader.batch(chosen)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        tables.append(tiny.model.weights_to_use()[TABLE])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(tables[0], tables[1], atol=1e-6)


def test_fixed_items_equal_the_text_encoder_in_evaluation(tmp_path: Path) -> None:
    trained, fixed = (tiny_adrec(tmp_path / str(t), dropout=0.1, train_text=t) for t in (True, False))
    trained.model.eval()
    fixed.model.compute_constants(fixed.tokens, CPU)
    fixed.model.train()
    batch = fixed.first_batch()
    assert batch.texts is None
    before, after = trained.model.query(trained.first_batch()), fixed.model.query(batch)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after))
    sum(fixed.model(batch).values()).backward()
    assert all(p.grad is None for p in fixed.model.query.text.parameters())


@pytest.mark.parametrize("remembered", [True, False])
def test_frozen_layers_run_without_dropout_and_once_per_item(tmp_path: Path, remembered: bool) -> None:
    plain = tiny_adrec(tmp_path / "plain", plm_layer=2).model
    tiny = tiny_adrec(tmp_path / "frozen", dropout=0.3, plm_layer=2, frozen_text_layers=1)
    text = tiny.model.query.text
    text.load_state_dict(plain.query.text.state_dict())
    tiny.model.train()
    texts = tiny.first_batch().texts
    if remembered:
        tiny.model.compute_constants(tiny.tokens, CPU)
        text.embeddings.word_embeddings.weight.zero_()  # not read again
    else:
        with mock.patch("adrec.model.REMEMBERED", tiny.tokens.ids.size * 16 - 1):  # too many tokens to be remembered
            tiny.model.compute_constants(tiny.tokens, CPU)
        assert not len(text.remembered)
        assert torch.equal(text.frozen_part(texts), text.frozen_part(texts))  # in training mode
    text.eval()  # the trained layer without its dropout
    assert torch.allclose(text(texts), plain.eval().query.text(texts), atol=1e-5)


def test_frozen_layers_stay_as_they_are_and_those_above_are_trained(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path, dropout=0.1, cut=True, plm_layer=2, frozen_text_layers=1, momentum=0.5)
    model = tiny.model
    model.compute_constants(tiny.tokens, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, model.settings)
    model.train()
    for _ in range(2):  # the key side follows the query side's last step
        optimizer.zero_grad()
        sum(model(tiny.first_batch()).values()).backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    for side in ("query", "key"):
        of_text = {name for name in before if name.startswith(f"{side}.text.")}
        assert of_text & moved == {name for name in of_text if name.startswith(f"{side}.text.layers.1.")}


def test_a_frozen_part_must_leave_a_layer_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="frozen_text_layers=2: no layer of plm_layer=2 is left to train; use at most"):
        tiny_adrec(tmp_path, plm_layer=2, frozen_text_layers=2)
