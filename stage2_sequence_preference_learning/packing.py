"""All prefixes of a history are computed in one causal pass, and histories are packed end to end without padding.

With causal attention and positions counted from a history's start, the output at position t is the output for the
prefix that ends at t. So all training rows of a user that are prefixes of one history need one pass. A batch has
about as many predictions as the paper's (``train_batch_size``), grouped by user; its losses and gradients equal those
of the separate prefixes (tests/stage2/test_models.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor

from common.arrays import ranges, starts_of
from common.compute import to_device


@dataclass
class Batch:
    """Sequences in R rows of L positions, and the N places where the next item is predicted."""

    items: Tensor  # (R, L) rows of the item table, 0 is padding
    positions: Tensor  # (R, L) position within the own sequence
    segments: Tensor  # (R, L) number of the own sequence, -1 is padding
    rows: Tensor  # (N,) row of each prediction
    columns: Tensor  # (N,) column of each prediction
    targets: Tensor  # (N,) the item to predict
    sequences: Tensor  # (N,) number of the sequence that each prediction belongs to
    lengths: Tensor  # (S,) of the sequences, by number
    distinct: Tensor  # (n,) the items of `items` and `targets`, each once, ascending
    places: Tensor  # (R · L + N,) place in `distinct` of each of `items`, then of each of `targets`

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(to_device(getattr(self, name), device) for name in self.__dataclass_fields__))

    def allowed(self) -> Tensor:
        """(R, 1, L, L) bool: a position attends to itself and to earlier positions of its own sequence."""
        same = self.segments[:, :, None] == self.segments[:, None, :]
        causal = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
        return (same & causal)[:, None]


def batch_of_rows(item_seq: Tensor, lengths: Tensor, targets: Tensor) -> Batch:
    """One right-padded history a row, predicted at its end, such as a batch of RecBole's.

    Args:
        item_seq: (B, L), 0 is padding; lengths, targets: (B,).
    """
    longest = int(lengths.max())
    items = item_seq[:, :longest]
    positions = torch.arange(longest, device=items.device).expand_as(items)
    rows = torch.arange(len(items), device=items.device)
    segments = torch.where(positions < lengths[:, None], rows[:, None], -1)
    distinct = distinct_items(items, targets)
    return Batch(items, positions, segments, rows, lengths - 1, targets, rows, lengths, *distinct)


def distinct_items(items: Tensor, targets: Tensor) -> List[Tensor]:
    """`Batch.distinct` and `Batch.places`. Computed when a batch is packed, since a GPU would have to wait for it."""
    return list(torch.unique(torch.cat([items.flatten(), targets]), return_inverse=True))


@dataclass(frozen=True)
class Sequences:
    """Histories with the places where they are predicted: slices of the items of all users, which they share.

    Sequence i has the items ``items[begin[i]:begin[i] + lengths[i]]``. Its last ``n_targets[i]`` places are predicted;
    the target of a place is the item after it.
    """

    items: np.ndarray  # (interactions,) int32 rows of the item table
    begin: np.ndarray  # (n,)
    lengths: np.ndarray  # (n,)
    n_targets: np.ndarray  # (n,)
    users: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # zero-based; of validation and test alone

    def __len__(self) -> int:
        return len(self.begin)

    @cached_property
    def target_start(self) -> np.ndarray:
        """(n + 1,) where the predictions of each sequence start among all, and how many there are."""
        return starts_of(self.n_targets)

    @property
    def targets(self) -> np.ndarray:
        """(predictions,) the items to predict."""
        return self.items[ranges(self.begin + self.lengths - self.n_targets + 1, self.n_targets)].astype(np.int64)


def one_row_each(sequences: Sequences, chosen: np.ndarray) -> Sequences:
    """Some predictions, each with its history as a sequence of its own."""
    host = np.searchsorted(sequences.target_start, chosen, side="right") - 1
    lengths = sequences.lengths[host] + 1 + chosen - sequences.target_start[host + 1]
    return Sequences(sequences.items, sequences.begin[host], lengths, np.ones_like(lengths))


def _fill_rows(lengths: np.ndarray, width: int) -> Tuple[np.ndarray, np.ndarray, int]:
    """Best fit, longest first: the row and the offset of each sequence, and the number of rows."""
    row_of, offset_of = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    with_room: List[List[int]] = [[] for _ in range(width + 1)]  # rows by their free positions
    n_rows = 0
    for i in np.argsort(-lengths, kind="stable"):
        need = int(lengths[i])
        left = next((room for room in range(need, width + 1) if with_room[room]), None)
        if left is None:
            row, left, n_rows = n_rows, width, n_rows + 1
        else:
            row = with_room[left].pop()
        row_of[i], offset_of[i] = row, width - left
        with_room[left - need].append(row)
    return row_of, offset_of, n_rows


def pack(sequences: Sequences, chosen: np.ndarray) -> Batch:
    """The chosen sequences in as few rows as fit, as wide as the longest of them.

    Predictions are in the order of ``chosen``.
    """
    begin, lengths, n_targets = (a[chosen] for a in (sequences.begin, sequences.lengths, sequences.n_targets))
    width = int(lengths.max())
    row_of, offset_of, n_rows = _fill_rows(lengths, width)

    position = ranges(np.zeros_like(lengths), lengths)
    cell = np.repeat(row_of * width + offset_of, lengths) + position
    items, positions = np.zeros(n_rows * width, np.int64), np.zeros(n_rows * width, np.int64)
    segments = np.full(n_rows * width, -1, np.int64)
    items[cell] = sequences.items[ranges(begin, lengths)]
    positions[cell] = position
    segments[cell] = np.repeat(np.arange(len(chosen)), lengths)

    first = lengths - n_targets  # predicted place
    rows, own = np.repeat(row_of, n_targets), np.repeat(np.arange(len(chosen)), n_targets)
    columns = ranges(offset_of + first, n_targets)
    targets = sequences.items[ranges(begin + first + 1, n_targets)].astype(np.int64)
    grid = [torch.from_numpy(a.reshape(n_rows, width)) for a in (items, positions, segments)]
    flat = [torch.from_numpy(a) for a in (rows, columns, targets, own, lengths)]
    return Batch(*grid, *flat, *distinct_items(grid[0], flat[2]))


def batches_by_targets(sequences: Sequences, order: np.ndarray, batch_size: int) -> List[np.ndarray]:
    """Cut ``order`` into batches of about ``batch_size`` predictions; a sequence is never split.

    The k-th batch ends before the sequence that would exceed k · batch_size predictions.
    """
    reached = np.cumsum(sequences.n_targets[order])
    batch_of = (reached - 1) // batch_size
    cuts = np.flatnonzero(np.diff(batch_of)) + 1
    return np.split(order, cuts)
