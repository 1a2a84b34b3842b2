"""Packed prefixes: nothing lost, nothing added, nothing mixed."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_sequence_preference_learning.data import last_predicted, prefixes_of_train
from stage2_sequence_preference_learning.packing import batch_of_rows, batches_by_targets, pack

MAX = 6  # positions, so that longer sequences are cut


def ragged(drawn):
    """Sequences end to end, their starts and lengths."""
    lengths = np.array([len(items) for items in drawn])
    return np.concatenate(drawn), np.cumsum(lengths) - lengths, lengths


def prefixes(drawn):
    """All prefixes of the sequences as packed sequences."""
    return prefixes_of_train(*ragged(drawn), MAX)


def expected_rows(drawn):
    """All prefixes by their definition, each cut to its last MAX items: (history, target)."""
    return [(tuple(items[:t][-MAX:]), items[t]) for items in drawn for t in range(1, len(items))]


def predictions(batch):
    """Each prediction of a batch as (history that it sees, target)."""
    found = []
    for row, column, target in zip(batch.rows, batch.columns, batch.targets):
        visible = batch.allowed()[row, 0, column]
        items, positions = batch.items[row][visible], batch.positions[row][visible]
        assert positions.tolist() == list(range(len(items)))  # counted from the sequence's own start
        found.append((tuple(items.tolist()), int(target)))
    return Counter(found)


sequences = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=8).filter(
    lambda drawn: any(len(items) > 1 for items in drawn)
)


@settings(deadline=None)
@given(sequences, st.randoms(use_true_random=False))
def test_each_row_is_predicted_once_from_its_own_history(drawn, random):
    merged = prefixes(drawn)
    order = np.array(random.sample(range(len(merged)), len(merged)))
    assert predictions(pack(merged, order)) == Counter(expected_rows(drawn))


@pytest.mark.parametrize(
    ("drawn", "predictions_of_each"),
    [
        ([[1, 2, 3, 4], [5, 6]], [3, 1]),  # one pass a user
        ([list(range(1, 11))], [6, 1, 1, 1]),  # cut histories have other positions, so each takes its own pass
        ([[1, 2, 3], [1, 2, 3]], [2, 2]),  # equal histories of other users stay apart
    ],
)
def test_rows_that_continue_each_other_take_one_pass(drawn, predictions_of_each):
    assert prefixes(drawn).n_targets.tolist() == predictions_of_each


@given(sequences)
def test_held_out_items_are_predicted_from_what_is_before_them(drawn):
    drawn = [[7, *items] for items in drawn]  # two items at least
    found = predictions(pack(last_predicted(*ragged(drawn), MAX), np.arange(len(drawn))))
    assert found == Counter((tuple(items[:-1][-MAX:]), items[-1]) for items in drawn)


def test_rows_hold_several_sequences_and_little_padding():
    batch = pack(prefixes([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3], [4, 5, 6], [7, 8, 9, 1]]), np.arange(4))
    assert batch.items.shape == (3, 6)  # histories of 6, 2, 2 and 3 items
    assert int((batch.segments >= 0).sum()) == 13


def test_batches_hold_every_sequence_once_and_about_so_many_targets():
    merged = prefixes([[1, 2, 3, 4]] * 40)  # 3 targets each
    batches = batches_by_targets(merged, np.random.default_rng(0).permutation(40), batch_size=30)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert [len(b) for b in batches] == [10, 10, 10, 10]


def test_recboles_batch_and_a_packed_batch_are_the_same():
    histories, targets = [[1, 2, 3], [5, 6]], [4, 7]
    items = torch.tensor([[1, 2, 3, 0, 0], [5, 6, 0, 0, 0]])
    plain = batch_of_rows(items, torch.tensor([3, 2]), torch.tensor(targets))
    packed = pack(last_predicted(*ragged([[1, 2, 3, 4], [5, 6, 7]]), MAX), np.arange(2))
    assert plain.items.shape[1] == 3  # trimmed to the longest
    assert predictions(plain) == predictions(packed) == Counter(zip(map(tuple, histories), targets))


def test_padding_sees_no_sequence_and_no_sequence_sees_padding():
    batch = pack(prefixes([[1, 2, 3], [4, 5]]), np.arange(2))
    padding = batch.segments < 0
    assert not batch.allowed()[:, 0][padding[:, :, None] != padding[:, None, :]].any()
    assert batch.allowed().any(dim=-1).all()  # no softmax over nothing
