"""Packed sequences as right-padded histories, for networks that read one history per row."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import torch
from torch import Tensor

from common.arrays import ranges
from stage2_sequence_preference_learning.packing import Batch, Sequences, one_row_each


def histories(batch: Batch) -> Tuple[Tensor, Tensor]:
    """The batch's sequences: items (S, L) right-padded with 0, lengths (S,)."""
    items = batch.items.new_zeros(len(batch.lengths) + 1, batch.items.shape[1])
    items[batch.segments, batch.positions] = batch.items  # of padding into the last row
    return items[:-1], batch.lengths


def prefixes(batch: Batch) -> Tuple[Tensor, Tensor]:
    """The history of each prediction: items (N, L) right-padded with 0, lengths (N,)."""
    items, _ = histories(batch)
    lengths = batch.positions[batch.rows, batch.columns] + 1
    inside = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
    return items[batch.sequences] * inside, lengths


def latest(items: Tensor, lengths: Tensor, width: int) -> Tuple[Tensor, Tensor]:
    """Histories (N, L) cut to their last ``width`` items: (N, min(L, width)), lengths (N,)."""
    over = (lengths - width).clamp(min=0)
    columns = torch.arange(min(items.shape[1], width), device=items.device) + over[:, None]
    return items.gather(1, columns), lengths - over


def train_rows(sequences: Sequences, width: int) -> Tuple[Tensor, Tensor]:
    """The history of each prediction, its last ``width`` items: (N, width) right-padded with 0, lengths (N,)."""
    rows = one_row_each(sequences, np.arange(sequences.target_start[-1]))
    lengths = np.minimum(rows.lengths, width)
    first = rows.begin + rows.lengths - lengths
    items = np.zeros((len(lengths), width), np.int64)
    items[np.arange(width) < lengths[:, None]] = sequences.items[ranges(first, lengths)]
    return torch.from_numpy(items), torch.from_numpy(lengths)
