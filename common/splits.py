"""Which items are trained on, validated and tested.

leave_one_out   A user's last item is test, the one before is validation, the rest is train.
temporal        Global temporal split ("Time to Split", arXiv 2507.16289). T is the quantile of the times of all
                interactions. What is later is test. The earlier part is split by the same rule into train and
                validation; nothing is trained on again after validation. ``target`` says which items of a period are
                predicted, each from all items before it: every user's last one, or each in turn (successive).

An item or a user that has no training row takes part in validation and test; a user's first item is never a target.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Union

import numpy as np

from common.arrays import Slices, ranges, starts_of
from common.dataset import Dataset, check_prepared, check_times, read_times, sequences_path, times_path
from common.errors import UserError
from common.settings import CommonSettings, setting

LEAVE_ONE_OUT = "leave one out: last item test, the one before validation"
KEYS = ("split", "quantile", "target")


@dataclass
class SplitSettings(CommonSettings):
    """How a data set is split. Runs with the defaults keep the names that they had before there were others."""

    split: str = setting(
        "leave_one_out",
        "leave_one_out: each user's last item is test; temporal: what is later than the quantile of all times",
        choices=("leave_one_out", "temporal"),
        shapes="changed",
    )
    quantile: float = setting(
        0.9,
        "temporal: share of the interactions before test, and of these before validation",
        minimum=0.01,
        maximum=0.99,
        shapes="changed",
    )
    target: str = setting(
        "last",
        "temporal: items to predict, last: each user's last of the period; successive: each, the history growing",
        choices=("last", "successive"),
        shapes="changed",
    )

    def check(self) -> None:
        """Quantile and target are for the temporal split."""
        super().check()
        for name in ("quantile", "target") if self.split == "leave_one_out" else ():
            if getattr(self, name) != getattr(SplitSettings, name):
                value = getattr(self, name)
                raise UserError(f"{name}={value} has no effect without split=temporal; set that, or omit {name}")

    def input_files(self) -> Dict[str, Path]:
        """The files that a run reads, by meaning; a missing one is an error."""
        check_prepared(self.dataset_dir, self.dataset)
        files = {"sequences": sequences_path(self.dataset_dir)}
        if self.split == "temporal":
            files["times"] = times_path(self.dataset_dir)
            check_times(files["times"])
        return files


class Targets(NamedTuple):
    """N items to predict, each from the items before it; ordered by user, then by place."""

    users: np.ndarray  # (N,) number of the sequence
    places: np.ndarray  # (N,) place of the item in the sequence, 1 or more

    def longest_first(self) -> Targets:
        """The same with each user's longest history first."""
        if (np.diff(self.users) > 0).all():
            return self
        order = np.lexsort((-self.places, self.users))
        return Targets(self.users[order], self.places[order])


class Splits(NamedTuple):
    """The three parts of a data set."""

    n_train: np.ndarray  # (users,) how many items of each sequence are trained on: the first
    valid: Targets
    test: Targets

    @property
    def train(self) -> Targets:
        """Every prefix of the train parts."""
        n_targets = np.maximum(self.n_train - 1, 0)
        users = np.repeat(np.arange(len(n_targets)), n_targets)
        return Targets(users, ranges(np.ones_like(n_targets), n_targets))

    def train_parts(self, dataset: Dataset) -> Slices:
        """The train parts of two items or more: a row needs a history and a target."""
        trained = self.n_train > 1
        lengths = self.n_train[trained]
        return Slices(dataset.items[ranges(dataset.starts[:-1][trained], lengths)], starts_of(lengths))


def split_dataset(dataset: Dataset, settings: SplitSettings) -> Splits:
    """Split a data set.

    Raises:
        UserError: there is nothing to train on, to validate or to test; temporal: the times are missing or do not fit.
    """
    lengths = np.diff(dataset.starts)
    if settings.split == "leave_one_out":
        users = np.arange(len(lengths))
        splits = Splits(lengths - 2, Targets(users, lengths - 2), Targets(users, lengths - 1))
        why = "no user has four items or more"
    else:
        times, starts = read_times(dataset), dataset.starts[:-1]
        test_from = np.quantile(times, settings.quantile)
        valid_from = np.quantile(times[times <= test_from], settings.quantile)
        n_train, n_before = (np.add.reduceat(times <= cut, starts, dtype=np.int64) for cut in (valid_from, test_from))
        parts = (_targets(*period, settings.target) for period in ((n_train, n_before), (n_before, lengths)))
        splits = Splits(n_train, *parts)
        why = "no user has two items before the cut by time; use another quantile"
        logging.info(describe(dataset, splits))
    place = sequences_path(dataset.folder)
    if (splits.n_train < 2).all():
        raise UserError(f"{place}: no row to train on: {why}")
    for name, part in (("valid", splits.valid), ("test", splits.test)):
        if not len(part.users):
            raise UserError(f"{place}: {name} is empty: no interaction is later than the cut; use another quantile")
    return splits


def _targets(begin: np.ndarray, end: np.ndarray, target: str) -> Targets:
    """The items to predict among each user's items from ``begin`` to ``end``, (users,) each; a first item is none."""
    first = np.maximum(begin, 1)
    n_targets = np.maximum(end - first, 0)
    if target == "last":
        first, n_targets = end - 1, np.minimum(n_targets, 1)
    return Targets(np.repeat(np.arange(len(end)), n_targets), ranges(first, n_targets))


def describe(dataset: Dataset, splits: Splits) -> str:
    """The sizes of the parts, and how many of the users and items of validation and test have no training row."""
    seen = np.zeros(dataset.n_items, dtype=bool)
    train = splits.train_parts(dataset)
    seen[train.flat] = True
    words = [f"train {len(train.flat) - len(train):,} rows of {len(train):,} users"]
    for name, (users, places) in (("valid", splits.valid), ("test", splits.test)):
        distinct, items = np.unique(users), targets_of(dataset, Targets(users, places))
        new_users, new_items = np.count_nonzero(splits.n_train[distinct] < 2), np.count_nonzero(~seen[items])
        new = f"new are {new_users:,} of the users and the items of {new_items:,} rows"
        words.append(f"{name} {len(users):,} rows of {len(distinct):,} users, {new}")
    return "split: " + "; ".join(words)


def targets_of(dataset: Dataset, targets: Targets) -> np.ndarray:
    """(N,) the zero-based items to predict."""
    return dataset.items[dataset.starts[targets.users] + targets.places].astype(np.int64)


def as_protocol(settings: SplitSettings) -> Union[str, Dict[str, Any]]:
    """What metrics.json says of the split."""
    return LEAVE_ONE_OUT if settings.split == "leave_one_out" else {key: getattr(settings, key) for key in KEYS}


def split_of(found: Union[str, Mapping[str, Any]]) -> SplitSettings:
    """The split in the settings of a run, or in what its metrics.json says."""
    return SplitSettings(**{key: found[key] for key in KEYS if key in found} if isinstance(found, Mapping) else {})


def check_same_split(here: SplitSettings, there: Mapping[str, Any], given: str) -> None:
    """Raise a `UserError` if a checkpoint, ``given``, was trained with settings of another split: test items leak."""
    ours, theirs = as_protocol(here), as_protocol(split_of(there))
    if ours != theirs:
        raise UserError(f"{given}: trained on another split: {theirs}, here {ours}; train it again with this split")
