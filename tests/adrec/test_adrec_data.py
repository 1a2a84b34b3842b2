"""ADRec's item texts, rows and batches."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from adrec_helpers import tiny_adrec, tiny_adrec_dataset, tiny_settings, tiny_tokenizer
from tiny import tiny_sequences

from adrec.data import Rows, Tokens, TrainLoader, item_texts, item_tokens, rows_of, tokenise
from adrec.ragged import Ragged
from common.compute import Processes
from common.errors import UserError
from common.splits import split_dataset


def test_text_is_prompt_category_brand_title_without_empty_fields(tmp_path: Path) -> None:
    dataset = tiny_adrec_dataset(tmp_path)
    texts = item_texts(dataset, tiny_settings(tmp_path), tiny_tokenizer(tmp_path / "model"))
    assert texts[0] == "Brought it for [MASK] [SEP] noodles [SEP] b & c [SEP] spicy noodles, part one"
    assert texts[4] == "Brought it for [MASK] [SEP] b & c [SEP] chocolate cake, part one"


def test_mask_is_the_special_token_unless_released(tmp_path: Path) -> None:
    """A5: released, the lower-case word is three word pieces or more."""
    dataset, tokenizer = tiny_adrec_dataset(tmp_path), tiny_tokenizer(tmp_path / "model")
    counts = []
    for variant in ("paper", "released"):
        tokens = item_tokens(dataset, tiny_settings(tmp_path, variant=variant, max_text_tokens=60), tokenizer)
        counts.append(tokens.ids.tolist().count(tokenizer.mask_token_id))
    assert counts == [15, 0]


def test_separators_of_empty_fields_a13(tmp_path: Path) -> None:
    dataset, tokenizer = tiny_adrec_dataset(tmp_path), tiny_tokenizer(tmp_path / "model")
    texts = item_texts(dataset, tiny_settings(tmp_path, skip_empty_fields=False), tokenizer)
    assert texts[4] == "Brought it for [MASK] [SEP]  [SEP] b & c [SEP] chocolate cake, part one"
    counts = []
    for skip in (True, False):
        settings = tiny_settings(tmp_path, skip_empty_fields=skip, max_text_tokens=60)
        counts.append(item_tokens(dataset, settings, tokenizer).texts(np.array([4])).tokens.tolist())
    assert len(counts[1]) == len(counts[0]) + 1  # one more [SEP]


def test_fields_order_and_languages_are_settings_and_unknown_fields_are_refused(tmp_path: Path) -> None:
    dataset, tokenizer = tiny_adrec_dataset(tmp_path), tiny_tokenizer(tmp_path / "model")
    chosen = tiny_settings(tmp_path, fields=["title", "brand"], prompt="", separator=" / ", title_language="cn")
    assert item_texts(dataset, chosen, tokenizer)[0] == "麻辣面 第一集 / b & c"
    with pytest.raises(UserError, match="has no field 'colour'.*brand, category, title"):
        item_texts(dataset, tiny_settings(tmp_path, fields=["title", "colour"]), tokenizer)


def test_texts_are_tokenised_in_parts(tmp_path: Path) -> None:
    settings, tokenizer = tiny_settings(tmp_path, max_text_tokens=9), tiny_tokenizer(tmp_path / "model")
    texts = [("spicy " * n).strip() for n in range(8)]
    expected = [tokenizer(text, truncation=True, max_length=9)["input_ids"] for text in texts]
    for size in (1, 3, 100):
        with mock.patch("adrec.data.TOKENISED_AT_ONCE", size):
            tokens = tokenise(texts, settings, tokenizer)
        assert [part.tolist() for part in np.split(tokens.ids, tokens.starts[1:-1])] == expected
        assert tokens.ids.dtype == np.int32 and tokens.renumbered(tokens.vocabulary()).ids.dtype == np.int32


def test_rows_are_every_prefix_of_the_train_part_and_one_held_out_row_a_user(tmp_path: Path) -> None:
    dataset = tiny_adrec_dataset(tmp_path)
    expected = {"train": [], "valid": [], "test": []}
    for items in tiny_sequences():
        places = {"train": range(1, len(items) - 2), "valid": [len(items) - 2], "test": [len(items) - 1]}
        for split, chosen in places.items():
            expected[split] += [(items[max(0, p - 3) : p], items[p]) for p in chosen]
    splits = split_dataset(dataset, tiny_settings(tmp_path))
    for split in expected:
        rows = rows_of(dataset, getattr(splits, split), 3)
        own = [(rows.items[a:b].tolist(), t) for a, b, t in zip(rows.start, rows.stop, rows.targets.tolist())]
        assert own == expected[split], split


@pytest.mark.parametrize("batch_by", ["row", "user"])
def test_an_epoch_holds_each_row_once_in_an_order_that_seed_and_epoch_give(tmp_path: Path, batch_by: str) -> None:
    loader = tiny_adrec(tmp_path, batch_by=batch_by).loader
    orders = [np.concatenate(loader.epoch(epoch)).tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(len(loader)))
    assert len(loader.epoch(0)[-1]) == (len(loader) % 6 or 6)
    users = loader.rows.users
    changes = np.count_nonzero(np.diff(users[orders[0]]))
    assert (changes == len(set(users.tolist())) - 1) == (batch_by == "user")


def test_a_batch_holds_each_distinct_item_once(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path)
    rows, chosen = tiny.loader.rows, np.array([5, 0, 9])
    batch = tiny.loader.batch(chosen)
    ordered = chosen[np.argsort(rows.stop[chosen] - rows.start[chosen], kind="stable")]
    histories = [rows.items[rows.start[r] : rows.stop[r]] for r in ordered]
    assert batch.items[batch.history].tolist() == np.concatenate(histories).tolist()
    assert batch.target_items.tolist() == rows.targets[ordered].tolist()
    assert len(set(batch.items.tolist())) == len(batch.items)
    assert batch.texts is not None
    assert batch.texts.counts.tolist() == sorted(tiny.tokens.lengths[batch.items.numpy()].tolist())


def test_the_memory_of_a_batch_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    peaks = []
    for n_items in (10**3, 10**6):
        tokens = Tokens(np.zeros(n_items, np.int32), np.arange(n_items + 1))
        items, places = np.arange(0, n_items, n_items // 20), np.arange(1, 20)
        rows = Rows(items, places - 1, places, items[places], places)
        loader = TrainLoader(rows, tokens, tiny_settings(tmp_path))
        loader.batch(places[:6])  # remembers the lengths of all texts
        tracemalloc.start()
        loader.batch(places[:6])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_processes_share_a_batch_and_all_take_one_that_is_too_small(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path)
    shares = [TrainLoader(tiny.loader.rows, tiny.tokens, tiny.loader.settings, Processes(r, 2)) for r in (0, 1)]
    for count, lengths, total in ((5, [3, 2], 5), (1, [1, 1], 2)):
        loaded = [share.load(np.arange(count)) for share in shares]
        assert [len(batch) for batch, _ in loaded] == lengths
        assert all(rows == total and batch.same_in_all_processes == (count == 1) for batch, rows in loaded)


def test_ragged_attention_equals_each_sequence_by_itself() -> None:
    torch.manual_seed(0)
    lengths = np.array([1, 2, 7, 9, 17, 30])
    layout = Ragged.of(lengths)
    query, key, value = (torch.randn(int(lengths.sum()), 8) for _ in range(3))
    found = layout.attention(query, key, value, 2, 0.0)
    start = 0
    for length in lengths.tolist():
        q, k, v = (x[start : start + length].view(length, 2, 4).transpose(0, 1) for x in (query, key, value))
        expected = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(0, 1).reshape(length, 8)
        assert torch.allclose(found[start : start + length], expected, atol=1e-6)
        assert torch.allclose(layout.mean(value)[layout.segments[start]], value[start : start + length].mean(0))
        start += length
    assert layout.last.tolist() == (np.cumsum(lengths) - 1).tolist()
