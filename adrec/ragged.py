"""Sequences of different lengths, end to end in one flat tensor: no work is done on padding.

Dense layers run on the flat tensor. Attention alone needs rows of equal length: sequences come in the
order of their lengths, and those of similar length form a group that is padded to its longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.arrays import ranges
from common.dropout import dropout

STEP = 8  # lengths in the same step of eight are padded together


@dataclass
class Group:
    """G sequences that stand next to each other, padded to L positions."""

    start: int  # of their positions in the flat tensor
    stop: int
    places: Tensor  # (G, L) each position's place in the group's flat part; padding is at 0
    real: Tensor  # (G, L) bool, not padding
    keys: Tensor  # (G, 1, 1, L) bool, what may be attended to


@dataclass
class Ragged:
    """How S sequences lie in a flat tensor of T positions."""

    lengths: Tensor  # (S,)
    segments: Tensor  # (T,) the sequence of each position
    positions: Tensor  # (T,) its place in the sequence
    last: Tensor  # (S,) the position of each sequence's end
    groups: List[Group]

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device, key_lengths: Optional[np.ndarray] = None) -> Ragged:
        """Args: lengths (S,), ascending or descending; key_lengths (S,): positions beyond are never attended to."""
        key_lengths = lengths if key_lengths is None else key_lengths
        ends = np.cumsum(lengths)
        starts = ends - lengths
        segments = np.repeat(np.arange(len(lengths)), lengths)
        positions = ranges(np.zeros_like(lengths), lengths)
        steps = (lengths - 1) // STEP
        cuts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(lengths)]
        groups = []
        for first, beyond in zip(cuts[:-1], cuts[1:]):
            columns = np.arange(int(lengths[first:beyond].max()))[None]
            real = columns < lengths[first:beyond, None]
            places = np.where(real, starts[first:beyond, None] - starts[first] + columns, 0)
            keys = columns < key_lengths[first:beyond, None]
            moved = [torch.from_numpy(array).to(device) for array in (places, real, keys)]
            groups.append(Group(int(starts[first]), int(ends[beyond - 1]), moved[0], moved[1], moved[2][:, None, None]))
        flat = [torch.from_numpy(array).to(device) for array in (lengths, segments, positions, ends - 1)]
        return cls(flat[0], flat[1], flat[2], flat[3], groups)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, p: float) -> Tensor:
        """Bidirectional attention inside each sequence; query, key, value (T, d) → (T, d).

        Args:
            p: dropout on the attention weights; 0 in evaluation.
        """
        out = [_attend(group, query, key, value, heads, p) for group in self.groups]
        return torch.cat(out) if len(out) > 1 else out[0]

    def mean(self, x: Tensor, counts: Optional[Tensor] = None) -> Tensor:
        """(T, d) → (S, d): the sum over each sequence divided by its length, or by ``counts`` (S,)."""
        sums = x.new_zeros(len(self.lengths), x.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, self.segments, x.float())
        return sums / (self.lengths if counts is None else counts)[:, None]


def _attend(group: Group, query: Tensor, key: Tensor, value: Tensor, heads: int, p: float) -> Tensor:
    n, length = group.places.shape

    def padded(flat: Tensor) -> Tensor:  # (T, d) → (G, heads, L, d/heads)
        rows = flat[group.start : group.stop].index_select(0, group.places.flatten())
        return rows.view(n, length, heads, -1).transpose(1, 2)

    q, k, v = padded(query), padded(key), padded(value)
    if q.device.type == "cpu":  # torch's kernel is slow here: for short sequences, and with dropout
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~group.keys, -torch.inf).softmax(dim=-1)
        mixed = dropout(weights, p, p > 0).to(v.dtype) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=group.keys, dropout_p=p)
    return mixed.transpose(1, 2).reshape(n * length, -1)[group.real.flatten()]
