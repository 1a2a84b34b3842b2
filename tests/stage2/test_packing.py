"""Packed prefixes: nothing lost, nothing added, nothing mixed."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_sequence_preference_learning.packing import (
    batch_of_rows,
    batches_by_targets,
    merge_prefixes,
    one_target_each,
    pack,
)

MAX = 6  # positions, so that longer sequences are cut


def rows_of(sequences):
    """All prefixes, longest first, each cut to its last MAX items, as the .inter files hold them."""
    users, histories, targets = [], [], []
    for user, items in enumerate(sequences, start=1):
        for t in range(len(items) - 1, 0, -1):
            users.append(user)
            histories.append(items[:t][-MAX:])
            targets.append(items[t])
    lengths = np.array([len(h) for h in histories])
    padded = np.array([h + [0] * (MAX - len(h)) for h in histories])
    return np.array(users), padded, lengths, np.array(targets)


def predictions(batch):
    """Each prediction of a batch as (history it sees, target)."""
    found = []
    for row, column, target in zip(batch.rows, batch.columns, batch.targets):
        visible = batch.allowed()[row, 0, column]
        items, positions = batch.items[row][visible], batch.positions[row][visible]
        assert positions.tolist() == list(range(len(items)))  # counted from the sequence's own start
        found.append((tuple(items.tolist()), int(target)))
    return Counter(found)


sequences = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=12), min_size=1, max_size=8)


@settings(deadline=None)
@given(sequences, st.randoms(use_true_random=False))
def test_each_row_is_predicted_once_from_its_own_history(drawn, random):
    users, histories, lengths, targets = rows_of(drawn)
    shuffled = np.array(random.sample(range(len(users)), len(users)))
    merged = merge_prefixes(users[shuffled], histories[shuffled], lengths[shuffled], targets[shuffled])
    expected = Counter((tuple(h[:n].tolist()), int(t)) for h, n, t in zip(histories, lengths, targets))
    order = np.array(random.sample(range(len(merged)), len(merged)))
    assert predictions(pack(merged, order)) == expected


def test_a_user_of_short_history_takes_one_pass():
    merged = merge_prefixes(*rows_of([[1, 2, 3, 4], [5, 6]]))
    assert len(merged) == 2
    assert np.diff(merged.target_start).tolist() == [3, 1]


def test_beyond_the_last_positions_each_row_takes_its_own():
    merged = merge_prefixes(*rows_of([list(range(1, 11))]))  # 9 rows, 6 of them uncut
    assert len(merged) == 1 + 3


def test_equal_histories_of_other_users_stay_apart():
    assert len(merge_prefixes(*rows_of([[1, 2, 3], [1, 2, 3]]))) == 2


def test_rows_hold_several_sequences_and_little_padding():
    merged = merge_prefixes(*rows_of([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3], [4, 5, 6], [7, 8, 9, 1]]))
    batch = pack(merged, np.arange(4))  # histories of 6, 2, 2 and 3 items
    assert batch.items.shape == (3, 6)
    assert int((batch.segments >= 0).sum()) == 13


def test_batches_hold_every_sequence_once_and_about_so_many_targets():
    merged = merge_prefixes(*rows_of([[1, 2, 3, 4]] * 40))  # 3 targets each
    batches = batches_by_targets(merged, np.random.default_rng(0).permutation(40), batch_size=30)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert [len(b) for b in batches] == [10, 10, 10, 10]


def test_recbole_batch_and_packed_batch_say_the_same():
    users, histories, lengths, targets = rows_of([[1, 2, 3, 4], [5, 6, 7]])
    plain = batch_of_rows(torch.from_numpy(histories), torch.from_numpy(lengths), torch.from_numpy(targets))
    packed = pack(one_target_each(histories, lengths, targets), np.arange(len(users)))
    assert plain.items.shape[1] == 3  # trimmed to the longest
    assert predictions(plain) == predictions(packed)
    assert plain.targets.tolist() == packed.targets.tolist() == targets.tolist()


def test_padding_sees_no_sequence_and_no_sequence_sees_padding():
    batch = pack(merge_prefixes(*rows_of([[1, 2, 3], [4, 5]])), np.arange(2))
    padding = batch.segments < 0
    assert not batch.allowed()[:, 0][padding[:, :, None] != padding[:, None, :]].any()
    assert batch.allowed().any(dim=-1).all()  # no softmax over nothing
