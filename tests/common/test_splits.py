"""The splits against hand arithmetic; every reader of a split has the same targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest

from adrec.data import rows_of
from common.dataset import load_dataset, times_path, write_dataset
from common.errors import UserError
from common.settings import shaping
from common.splits import Splits, SplitSettings, Targets, check_same_split, describe, split_dataset
from stage2_sequence_preference_learning.data import load_splits
from stage2_sequence_preference_learning.settings import HistorySettings

# Of the 16 times 0, …, 15 the quantile 0.75 is 11.25, and of 0, …, 11 it is 8.25: train is 0–8, valid 9–11, test 12–15
USERS: Dict[int, Tuple[List[int], List[float]]] = {
    5: ([0, 1, 2, 3], [0, 1, 2, 3]),  # train alone
    2: ([1, 2, 4, 5, 0], [4, 5, 9, 10, 12]),  # all three periods
    9: ([2, 0, 3], [6, 7, 8]),
    0: ([6, 5, 6, 7], [11, 13, 14, 15]),  # new: the first item is no target
}
TEMPORAL: Dict[str, Any] = {"split": "temporal", "quantile": 0.75}
PART = Dict[str, List[Tuple[int, int]]]  # (user id, place) of the targets


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of the data set."""
    times = np.concatenate([times for _, times in USERS.values()])
    sequences = {user: items for user, (items, _) in USERS.items()}
    write_dataset(tmp_path / "D", "D", sequences.items(), [("题", f"title {n}") for n in range(8)], times)
    return tmp_path / "D"


def places(splits: Splits, users: List[int]) -> PART:
    return {
        name: [(users[user], place) for user, place in zip(*(part.tolist() for part in getattr(splits, name)))]
        for name in ("train", "valid", "test")
    }


EXPECTED: Dict[str, PART] = {
    "leave_one_out": {
        "train": [(5, 1), (2, 1), (2, 2), (0, 1)],
        "valid": [(5, 2), (2, 3), (9, 1), (0, 2)],
        "test": [(5, 3), (2, 4), (9, 2), (0, 3)],
    },
    "last": {
        "train": [(5, 1), (5, 2), (5, 3), (2, 1), (9, 1), (9, 2)],
        "valid": [(2, 3)],
        "test": [(2, 4), (0, 3)],
    },
    "successive": {
        "train": [(5, 1), (5, 2), (5, 3), (2, 1), (9, 1), (9, 2)],
        "valid": [(2, 2), (2, 3)],
        "test": [(2, 4), (0, 1), (0, 2), (0, 3)],
    },
}
CHOSEN = {name: {} if name == "leave_one_out" else {**TEMPORAL, "target": name} for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_splits_by_hand(home: Path, name: str) -> None:
    dataset = load_dataset(home, "D")
    assert places(split_dataset(dataset, SplitSettings(**CHOSEN[name])), dataset.users.tolist()) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_all_models_have_the_same_histories_and_targets(home: Path, name: str) -> None:
    """Stage 2 and the baselines, which read `load_splits`, and ADRec."""
    dataset = load_dataset(home, "D")
    settings = HistorySettings(dataset="D", datasets_dir=str(home.parent), max_seq_length=2, **CHOSEN[name])
    data = load_splits(settings)
    for part, pairs in EXPECTED[name].items():
        expected = [(user, USERS[user][0][max(0, place - 2) : place], USERS[user][0][place]) for user, place in pairs]
        rows = rows_of(dataset, getattr(split_dataset(dataset, settings), part), 2)
        histories = [rows.items[a:b].tolist() for a, b in zip(rows.start, rows.stop)]
        assert list(zip(dataset.users[rows.users], histories, rows.targets)) == expected
        if part != "train":
            own = getattr(data, part)
            histories = [data.item_of_row[own.items[b : b + n]].tolist() for b, n in zip(own.begin, own.lengths)]
            assert list(zip(own.users, histories, data.item_of_row[own.targets])) == expected


def test_the_summary_counts_what_has_no_training_row(home: Path) -> None:
    dataset = load_dataset(home, "D")
    assert describe(dataset, split_dataset(dataset, SplitSettings(**CHOSEN["successive"]))) == (
        "split: train 6 rows of 3 users; valid 2 rows of 1 users, new are 0 of the users and the items of 2 rows; "
        "test 4 rows of 2 users, new are 1 of the users and the items of 3 rows"
    )


def test_a_part_that_is_empty_is_an_error(home: Path) -> None:
    dataset = load_dataset(home, "D")
    with pytest.raises(UserError, match="no row to train on: no user has two items before the cut"):
        split_dataset(dataset, SplitSettings(split="temporal", quantile=0.01))
    np.save(times_path(home), np.ones(16))
    with pytest.raises(UserError, match="valid is empty: no interaction is later than the cut"):
        split_dataset(dataset, SplitSettings(**TEMPORAL))


def test_without_times_the_file_is_named(home: Path) -> None:
    times_path(home).unlink()
    settings = SplitSettings(dataset="D", datasets_dir=str(home.parent), **TEMPORAL)
    with pytest.raises(UserError, match="interaction_times.npy: no such file; prepare the data set again"):
        settings.input_files()
    assert list(SplitSettings(dataset="D", datasets_dir=str(home.parent)).input_files()) == ["sequences"]


def test_defaults_are_not_recorded_and_have_an_effect_only_together() -> None:
    assert not {"split", "quantile", "target"} & set(shaping(SplitSettings()))
    assert shaping(SplitSettings(split="temporal"))["split"] == "temporal"
    for values in ({"quantile": 0.8}, {"target": "successive"}):
        SplitSettings(split="temporal", **values).check()
        with pytest.raises(UserError, match=f"{next(iter(values))}=.* has no effect without split=temporal"):
            SplitSettings(**values).check()


def test_a_checkpoint_of_another_split_is_refused() -> None:
    check_same_split(SplitSettings(), {"alpha": 1}, "FILE")
    check_same_split(SplitSettings(split="temporal"), {"split": "temporal"}, "FILE")
    with pytest.raises(UserError, match="FILE: trained on another split: leave one out.*temporal"):
        check_same_split(SplitSettings(split="temporal"), {"alpha": 1}, "FILE")


def test_longest_first() -> None:
    found = Targets(np.array([0, 0, 1, 3, 3, 3]), np.array([1, 2, 5, 1, 2, 9])).longest_first()
    assert found.users.tolist() == [0, 0, 1, 3, 3, 3] and found.places.tolist() == [2, 1, 5, 9, 2, 1]
