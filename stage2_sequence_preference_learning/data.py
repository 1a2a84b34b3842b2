"""Stage 2's data: the splits of `recbole_process.py` as packed batches, straight from the sequences, and item features.

`common.splits` says what is train, validation and test; every prefix of two items or more of a train part is a row. The
rows equal those of the ``.inter`` files (tests/stage2/test_data.py). With several processes each holds all sequences, 4
bytes an interaction and about 100 a user, and packs only its share of every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from common.arrays import ranges
from common.compute import Processes
from common.dataset import Dataset, load_dataset
from common.errors import UserError
from common.features import features_path, load_features
from common.ranking import users_at_once
from common.splits import Splits, split_dataset
from stage2_sequence_preference_learning.packing import Batch, Sequences, batches_by_targets, one_row_each, pack
from stage2_sequence_preference_learning.settings import FeatureSettings, HistorySettings

ALONE = Processes()
RUNS_AT_ONCE = 2**14  # bounds memory


@dataclass(frozen=True)
class SequenceData:
    """The three splits of a data set and its items' features, in rows of the item tables.

    Row 0 of a table is padding. The other rows are numbered as RecBole numbers items, so that published and RecBole's
    checkpoints fit.
    """

    name: str
    item_of_row: np.ndarray  # (n_items,) zero-based item; -1 for padding
    n_catalogue: int  # items of the data set; those that no user has are not in a row
    users: np.ndarray  # (users,) zero-based, all of them
    train: Sequences
    valid: Sequences
    test: Sequences
    features: Mapping[str, Tensor] = field(default_factory=dict)  # modality → (n_items, width), row 0 zero

    @property
    def n_items(self) -> int:
        """Rows of the item tables, padding included."""
        return len(self.item_of_row)

    def num(self, _: str) -> int:
        """RecBole's name of `n_items`."""
        return self.n_items

    def row_of_item(self) -> np.ndarray:
        """(n_catalogue,) the row of each zero-based item; 0 for an item that no user has."""
        rows = np.zeros(self.n_catalogue, np.int64)
        rows[self.item_of_row[1:]] = np.arange(1, self.n_items)
        return rows


def load_splits(settings: HistorySettings, features: Optional[Mapping[str, Tensor]] = None) -> SequenceData:
    """Read a prepared data set, split it, and load the features that the settings name.

    Args:
        features: by row of the item tables, in place of those of the settings.

    Raises:
        UserError: a file is missing or does not fit, or a split is empty.
    """
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    starts, users = dataset.starts[:-1], dataset.users
    splits, at_most = split_dataset(dataset, settings), settings.max_seq_length
    item_of_row = number_items(dataset, splits, at_most)
    rows = np.zeros(dataset.n_items, np.int32)
    rows[item_of_row[1:]] = np.arange(1, len(item_of_row))
    if features is None and isinstance(settings, FeatureSettings):
        features = read_features(settings, item_of_row, dataset.n_items)
    items = rows[dataset.items]
    train = prefixes_of_train(items, starts, splits.n_train, at_most)
    valid, test = (
        replace(last_predicted(items, starts[part.users], part.places + 1, at_most), users=users[part.users])
        for part in (splits.valid, splits.test)
    )
    return SequenceData(dataset.name, item_of_row, dataset.n_items, users, train, valid, test, features or {})


def number_items(dataset: Dataset, splits: Splits, at_most: int) -> np.ndarray:
    """The zero-based item of each row as RecBole numbers them, -1 first: by first occurrence in the ``.inter`` files.

    Those are the targets of train (a user's from the last to the first), valid and test, then the histories.
    """
    starts, trained = dataset.starts[:-1], splits.n_train > 1
    parts = [part.longest_first() for part in (splits.valid, splits.test)]
    # (first place, number of places, step) of runs of items in the files' order
    runs = [(starts + splits.n_train - 1, np.maximum(splits.n_train - 1, 0), -1)]
    runs += [(starts[part.users] + part.places, np.ones_like(part.places), 1) for part in parts]
    runs += [(starts[trained], np.ones_like(starts[trained]), 1)]
    for part in parts:  # in a history, items of the train part are targets, or its first item
        begin = np.maximum(part.places - at_most, np.where(trained, splits.n_train, 0)[part.users])
        runs.append((starts[part.users] + begin, np.maximum(part.places - begin, 0), 1))
    seen, found = np.zeros(dataset.n_items, bool), [np.array([-1])]
    for first, lengths, step in runs:
        for at in range(0, len(first), RUNS_AT_ONCE):
            chosen = slice(at, at + RUNS_AT_ONCE)
            order = dataset.items[step * ranges(step * first[chosen], lengths[chosen])]
            order = order[~seen[order]]
            _, place = np.unique(order, return_index=True)
            found.append(order[np.sort(place)])
            seen[found[-1]] = True
    return np.concatenate(found)


def prefixes_of_train(items: np.ndarray, starts: np.ndarray, lengths: np.ndarray, at_most: int) -> Sequences:
    """Every prefix of the train parts, prefixes that continue each other in one sequence.

    A history that is cut to its last ``at_most`` items does not continue an uncut one, because its positions differ:
    it is a sequence with one prediction.

    Args:
        items: all items end to end; starts, lengths: (users,) of the train parts.
    """
    kept = lengths > 1
    starts, n_targets = starts[kept], lengths[kept] - 1
    width = np.minimum(n_targets, at_most)
    n_sequences = 1 + n_targets - width  # the uncut one, and one for each cut history
    shift, width = ranges(np.zeros_like(n_sequences), n_sequences), np.repeat(width, n_sequences)
    return Sequences(items, np.repeat(starts, n_sequences) + shift, width, np.where(shift == 0, width, 1))


def last_predicted(items: np.ndarray, starts: np.ndarray, lengths: np.ndarray, at_most: int) -> Sequences:
    """Each user's last item, to be predicted from the ``at_most`` items before it.

    Args:
        items: all items end to end; starts, lengths: (users,).
    """
    width = np.minimum(lengths - 1, at_most)
    return Sequences(items, starts + lengths - 1 - width, width, np.ones_like(width))


def check_one_row_each(split: Sequences) -> None:
    """Raise a `UserError` if a user has several rows in validation or test: a file of scores has one for each user."""
    if len(np.unique(split.users)) < len(split.users):
        raise UserError("target=successive: a user has several rows, but a file of scores has one; use target=last")


def read_features(settings: FeatureSettings, item_of_row: np.ndarray, n_catalogue: int) -> Dict[str, Tensor]:
    """Modality → features of stage 1 by row of the item tables, (n_items, width); row 0 is zero."""
    found = {}
    for modality in settings.modalities:
        by_item = load_features(features_path(settings.features_folder, settings.dataset, modality), n_catalogue)
        table = torch.zeros(len(item_of_row), by_item.shape[1])
        torch.index_select(by_item, 0, torch.from_numpy(item_of_row[1:]), out=table[1:])  # no copy beside the table
        found[modality] = table
    return found


def data_of_recbole(dataset: Any, settings: HistorySettings) -> SequenceData:
    """The splits and features of one of RecBole's own data sets, for a model under RecBole's trainer.

    Raises:
        UserError: RecBole numbers other items, because it read other ``.inter`` files or filtered them.
    """
    data = load_splits(settings)
    if [int(token) - 1 for token in dataset.field2id_token[dataset.iid_field][1:]] != data.item_of_row[1:].tolist():
        raise UserError(
            f"{settings.dataset_dir}: RecBole's data set has other items; run recbole_process.py -d "
            f"{settings.dataset}, and set no filter in RecBole's config"
        )
    return data


class TrainLoader:
    """Batches of about ``batch_size`` predictions in a new order each epoch.

    With several processes each takes its share of every batch.

    Args:
        batch_by: S17. user: all rows of a user together; row: rows at random, each with a pass of its own.
    """

    def __init__(
        self, sequences: Sequences, batch_size: int, seed: int, processes: Processes = ALONE, batch_by: str = "user"
    ) -> None:
        self.sequences, self.batch_size, self.seed, self.processes = sequences, batch_size, seed, processes
        self.batch_by = batch_by

    def __len__(self) -> int:
        return int(self.sequences.target_start[-1])

    def epoch(self, number: int) -> List[np.ndarray]:
        """The sequences, or predictions, of each step, drawn from the seed and the epoch's number."""
        draw = np.random.default_rng([self.seed, number])
        if self.batch_by == "row":
            order = draw.permutation(len(self))
            return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        order = draw.permutation(len(self.sequences))
        return batches_by_targets(self.sequences, order, self.batch_size)

    def load(self, rows: np.ndarray) -> Tuple[Batch, int]:
        """This process's part of a batch, and the predictions in all parts."""
        sequences = self.sequences
        if self.batch_by == "row":
            sequences, rows = one_row_each(sequences, rows), np.arange(len(rows))
        n_targets = int(sequences.n_targets[rows].sum())
        rank, size = self.processes.rank, self.processes.size
        if len(rows) < size:  # too few to share: each process computes them all
            return pack(sequences, rows), n_targets * size
        return pack(sequences, rows[rank::size]), n_targets


class EvalLoader:
    """Each user's history and target, in batches of similar length, sized by the number of items.

    With several processes each takes its share of the batches.
    """

    def __init__(self, sequences: Sequences, n_items: int, processes: Processes = ALONE) -> None:
        self.sequences = sequences
        by_length = np.argsort(sequences.lengths, kind="stable")
        size = users_at_once(len(by_length), n_items, processes)
        batches = [by_length[i : i + size] for i in range(0, len(by_length), size)]
        self.batches: List[np.ndarray] = batches[processes.rank :: processes.size]

    def __iter__(self) -> Iterator[Tuple[np.ndarray, Batch]]:
        """Yields the rows of the split and their batch."""
        return ((rows, pack(self.sequences, rows)) for rows in self.batches)

    def history(self, rows: np.ndarray) -> Tuple[Tensor, Tensor]:
        """The items in the histories of ``rows``: indices (row within the batch, item)."""
        lengths = self.sequences.lengths[rows]
        items = self.sequences.items[ranges(self.sequences.begin[rows], lengths)].astype(np.int64)
        return torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)), torch.from_numpy(items)
