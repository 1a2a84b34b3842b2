"""Stage 2's data: RecBole's sequential data set with item features, as batches for training and ranking."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from torch import Tensor

from common.errors import UserError
from common.features import features_path, load_features
from stage2_sequence_preference_learning.packing import (
    Batch,
    Sequences,
    batches_by_targets,
    merge_prefixes,
    one_target_each,
    pack,
)

SCORES_AT_ONCE = 2**24  # scores of one evaluation batch, 64 MB
USERS_AT_ONCE = 1024  # alike in length, so that rows are narrow


class SequenceDataset(SequentialDataset):
    """RecBole's data set of our ``.inter`` files; stage 1's features are matched by item token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._features: Dict[str, Tensor] = {}

    def item_of_row(self) -> np.ndarray:
        """Zero-based item of each of RecBole's internal ids; -1 for the padding row 0."""
        tokens = self.field2id_token[self.iid_field]
        return np.array([-1, *(int(token) - 1 for token in tokens[1:])], dtype=np.int64)

    def row_of_item(self) -> Dict[int, int]:
        """RecBole's internal id of each zero-based item that occurs."""
        return {int(item): row for row, item in enumerate(self.item_of_row()) if row > 0}

    def item_features(self, modality: str) -> Tensor:
        """Features of one modality by RecBole's internal ids: (n_items, width), row 0 zero.

        Raises:
            UserError: see `common.features.load_features`.
        """
        if modality not in self._features:
            if "features_dir" not in self.config:
                told = "the settings of a model that reads features need features_dir and modalities"
                raise UserError(f"{self.config['model']}: {told} (docs/reproduce.md)")
            folder = Path(self.config["features_dir"])
            by_item = load_features(features_path(folder, self.dataset_name, modality), self.config["n_catalogue"])
            rows = torch.from_numpy(self.item_of_row())
            table = torch.zeros(len(rows), by_item.shape[1])
            table[1:] = by_item[rows[1:]]
            self._features[modality] = table
        return self._features[modality]

    @property
    def features_read(self) -> List[str]:
        """Modalities whose features were asked for."""
        return list(self._features)

    def use_features(self, modality: str, table: Tensor) -> None:
        """Take (n_items, width) features by internal ids as they are, in place of stage 1's file."""
        self._features[modality] = table


def inter_files(folder: Path, name: str) -> Dict[str, Path]:
    """Split → its ``.inter`` file.

    Raises:
        UserError: one is missing.
    """
    paths = {split: folder / f"{name}.{split}.inter" for split in ("train", "valid", "test")}
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"{path}: no such file; run recbole_process.py -d {name}")
    return paths


def load_splits(config: Any) -> Tuple[SequenceDataset, SequenceDataset, SequenceDataset]:
    """The train, validation and test split of a data set."""
    inter_files(Path(config["data_path"]), config["dataset"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pandas warns of RecBole's own code
        train, valid, test = SequenceDataset(config).build()
    return train, valid, test


def _columns(split: SequenceDataset) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users (N,), histories (N, L) right-padded with 0, their lengths (N,), targets (N,).

    Histories keep their last ``max_seq_length`` items; of .inter files that hold longer ones RecBole keeps them all.
    """
    inter = split.inter_feat
    histories = inter[split.iid_field + "_list"].numpy()
    lengths = inter[split.item_list_length_field].numpy()
    over = np.maximum(lengths - split.max_item_list_len, 0)
    if over.any():
        columns = np.arange(split.max_item_list_len) + over[:, None]
        histories, lengths = np.take_along_axis(histories, columns, axis=1), lengths - over
    return inter[split.uid_field].numpy(), histories, lengths, inter[split.iid_field].numpy()


class TrainLoader:
    """Batches of about ``batch_size`` targets, users in a new order each epoch.

    The order follows from ``seed`` and ``epoch``: a resumed run needs to know no more.

    With several processes each takes its share of every batch, so that a step is the same size.
    """

    def __init__(self, split: SequenceDataset, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.sequences = merge_prefixes(*_columns(split))
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(batches_by_targets(self.sequences, np.arange(len(self.sequences)), self.batch_size))

    def __iter__(self) -> Iterator[Tuple[Batch, int]]:
        """Yields this process's part of each batch, and the targets in all parts."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sequences))
        self.epoch += 1
        for chosen in batches_by_targets(self.sequences, order, self.batch_size):
            n_targets = int(np.diff(self.sequences.target_start)[chosen].sum())
            part = chosen[self.rank :: self.world_size]
            if len(chosen) < self.world_size:  # too few to share: each process computes all of it
                part, n_targets = chosen, n_targets * self.world_size
            yield pack(self.sequences, part), n_targets


class EvalLoader:
    """Each user's history and target, in batches sized by the catalogue, alike in length.

    It has no length: RecBole's trainer would take a process without a share for one without validation.
    """

    def __init__(self, split: SequenceDataset, rank: int = 0, world_size: int = 1) -> None:
        _, histories, lengths, self.targets = _columns(split)
        self.sequences: Sequences = one_target_each(histories, lengths, self.targets)
        by_length = np.argsort(lengths, kind="stable")
        share = -(-len(by_length) // world_size)
        size = max(1, min(SCORES_AT_ONCE // split.item_num, USERS_AT_ONCE, share))
        batches = [by_length[i : i + size] for i in range(0, len(by_length), size)]
        self.batches: List[np.ndarray] = batches[rank::world_size]
        self._packed: Optional[List[Batch]] = None

    def __iter__(self) -> Iterator[Tuple[np.ndarray, Batch]]:
        """Yields the rows of the split and their batch; packed once, used at every validation."""
        if self._packed is None:
            self._packed = [pack(self.sequences, chosen) for chosen in self.batches]
        return zip(self.batches, self._packed)

    def history(self, rows: np.ndarray) -> Tuple[Tensor, Tensor]:
        """The items in the histories of ``rows``: indices (row within the batch, item)."""
        lengths = np.diff(self.sequences.item_start)[rows]
        items = [self.sequences.items[self.sequences.item_start[r] : self.sequences.item_start[r + 1]] for r in rows]
        return torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)), torch.from_numpy(np.concatenate(items))
