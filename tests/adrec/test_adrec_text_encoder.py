"""ADRec's text encoder: the fast path equals BERT on every padded text, and what is not trained stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adrec_helpers import first_batch, plain_items, plain_sequence, tiny_adrec
from torch.nn import functional as F

from adrec.data import epoch_batches
from adrec.evaluation import remember_frozen
from adrec.training import make_optimizer
from common.device import pick_compute
from common.errors import UserError

CPU = pick_compute("cpu", "fp32")


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("plm_layer", [1, 2])
def test_fast_path_equals_encoding_every_occurrence_padded(tmp_path: Path, variant: str, plm_layer: int) -> None:
    """A1 to A4: truncated, packed and once per item is the same as BERT on every padded text."""
    model, batches, rows, tokens, _ = tiny_adrec(tmp_path, variant=variant, plm_layer=plm_layer)
    model.eval()
    items = plain_items(model, "query", tokens, released=variant == "released")
    chosen = epoch_batches(rows, model.settings, 0)[0]
    batch = batches.of(chosen)
    assert torch.allclose(model.query.text(batch.texts()), items[batch.items], atol=1e-5)
    sequences, found = model.query(batch)
    ordered = chosen[np.argsort(rows.stop[chosen] - rows.start[chosen], kind="stable")]
    for i, row in enumerate(ordered):
        history = torch.from_numpy(rows.items[rows.start[row] : rows.stop[row]])
        expected = F.normalize(plain_sequence(model, "query", items[history]), dim=0)
        assert torch.allclose(sequences[i], expected, atol=1e-5)
        target = F.normalize(items[rows.targets[row]], dim=0)
        assert torch.allclose(found[batch.targets[i]], target, atol=1e-5)


def test_released_mean_sums_padding_too(tmp_path: Path) -> None:
    """A2: the two variants differ wherever a text is shorter than max_text_tokens."""
    model, batches, rows, _, _ = tiny_adrec(tmp_path, variant="paper")
    model.eval()
    mean_over_real = model.query.text(first_batch(batches, rows, model).texts())
    batches.padded_to = 48
    assert not torch.allclose(mean_over_real, model.query.text(first_batch(batches, rows, model).texts()), atol=1e-2)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kept_tokens_train_the_same_as_the_whole_table(tmp_path: Path, variant: str) -> None:
    """Cutting the embedding table to the catalogue's tokens changes no loss and no weight."""
    losses, tables = [], []
    for cut in (False, True):
        model, batches, rows, tokens, tokenizer = tiny_adrec(tmp_path / str(cut), variant=variant, max_text_tokens=48)
        vocabulary = None
        if cut:
            used = tokens.vocabulary(tokenizer.pad_token_id)
            vocabulary = model.query.text.keep_tokens(used)
            model.key.text.keep_tokens(used)
            batches.tokens, batches.pad = tokens.renumbered(used), int(used.searchsorted(tokenizer.pad_token_id))
        optimizer = torch.optim.Adam(model.query.parameters(), lr=0.01)
        torch.manual_seed(1)
        for chosen in epoch_batches(rows, model.settings, 0)[:4]:
            loss, _ = model(batches.of(chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        table = model.query.text.embeddings.word_embeddings.weight.detach()
        tables.append(table if vocabulary is None else vocabulary.whole(table))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(tables[0], tables[1], atol=1e-6)


def test_fixed_items_equal_the_text_encoder_in_evaluation(tmp_path: Path) -> None:
    model, batches, rows, tokens, _ = tiny_adrec(tmp_path, dropout=0.1)
    model.eval()
    batch = first_batch(batches, rows, model)
    before = model.query(batch)
    model.take_vectors(plain_items(model, "query", tokens, released=False).detach(), fixed=True)
    model.train()
    after = model.query(batch)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after))
    model(batch)[0].backward()
    assert all(p.grad is None for p in model.query.text.parameters())


@pytest.mark.parametrize("remembered", [True, False])
def test_frozen_layers_run_without_dropout_and_once_per_item(tmp_path: Path, remembered: bool) -> None:
    plain, batches, rows, tokens, _ = tiny_adrec(tmp_path / "plain", plm_layer=2)
    model, *_ = tiny_adrec(tmp_path / "frozen", dropout=0.3, plm_layer=2, frozen_text_layers=1)
    model.query.text.load_state_dict(plain.query.text.state_dict())
    model.train()
    texts = first_batch(batches, rows, model).texts()
    if remembered:
        remember_frozen(model, tokens, CPU)
        model.query.text.embeddings.word_embeddings.weight.zero_()  # not read again
    hidden = model.query.text.frozen_part
    if not remembered:
        assert torch.equal(hidden(texts), hidden(texts))  # in training mode
    model.query.text.eval()  # the trained layer without its dropout
    assert torch.allclose(model.query.text(texts), plain.query.text(texts), atol=1e-5)


def test_frozen_layers_stay_as_they_are_and_those_above_are_trained(tmp_path: Path) -> None:
    model, batches, rows, tokens, tokenizer = tiny_adrec(
        tmp_path, dropout=0.1, plm_layer=2, frozen_text_layers=1, momentum=0.5
    )
    used = tokens.vocabulary(tokenizer.pad_token_id)
    for side in (model.query, model.key):
        side.text.keep_tokens(used)
    batches.tokens = tokens.renumbered(used)
    remember_frozen(model, batches.tokens, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, model.settings)
    model.train()
    for _ in range(2):  # the key side follows the query side's last step
        optimizer.zero_grad()
        model(first_batch(batches, rows, model))[0].backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    for side in ("query", "key"):
        of_text = {name for name in before if name.startswith(f"{side}.text.")}
        assert of_text & moved == {name for name in of_text if name.startswith(f"{side}.text.layers.1.")}


def test_a_frozen_part_must_leave_a_layer_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="frozen_text_layers=2: of plm_layer=2 none is left to train; at most 1, or"):
        tiny_adrec(tmp_path, plm_layer=2, frozen_text_layers=2)
