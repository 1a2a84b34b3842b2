"""Sequences of different lengths, end to end in one flat tensor, so that no padding is computed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, List, Optional

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.arrays import ranges
from common.compute import to_device
from common.dropout import dropout

STEP = 8  # sequences whose lengths are in the same step of eight are padded together for attention


class OnDevice:
    """A dataclass whose tensors move together."""

    def to(self: Any, device: torch.device) -> Any:
        """The same on a device."""
        return replace(self, **{f.name: moved(getattr(self, f.name), device) for f in fields(self)})


def moved(value: Any, device: torch.device) -> Any:
    """A field of an `OnDevice` on a device."""
    if isinstance(value, list):
        return [moved(one, device) for one in value]
    if isinstance(value, OnDevice):
        return value.to(device)
    return to_device(value, device) if isinstance(value, Tensor) else value


@dataclass
class Group(OnDevice):
    """G neighbouring sequences of similar length, padded to L positions for attention."""

    start: int  # of their positions in the flat tensor
    stop: int
    places: Tensor  # (G, L) place of each position in the group's part of the flat tensor; padding has place 0
    real: Tensor  # (positions,) places of those that are no padding among all G · L
    keys: Tensor  # (G, 1, 1, L) bool, positions that may be attended to


@dataclass
class Ragged(OnDevice):
    """The layout of S sequences in a flat tensor of T positions.

    Dense layers run on the flat tensor. Attention alone pads, within groups of similar length.
    """

    lengths: Tensor  # (S,)
    segments: Tensor  # (T,) the sequence of each position
    positions: Tensor  # (T,) its place in the sequence
    last: Tensor  # (S,) the position of each sequence's end
    groups: List[Group]

    @classmethod
    def of(cls, lengths: np.ndarray, key_lengths: Optional[np.ndarray] = None) -> Ragged:
        """The layout of sequences.

        Args:
            lengths: (S,), ascending or descending.
            key_lengths: (S,), positions beyond them are never attended to; default: ``lengths``.
        """
        key_lengths = lengths if key_lengths is None else key_lengths
        ends = np.cumsum(lengths)
        starts = ends - lengths
        cuts = [0, *(np.flatnonzero(np.diff((lengths - 1) // STEP)) + 1).tolist(), len(lengths)]
        groups = []
        for first, beyond in zip(cuts[:-1], cuts[1:]):
            columns = np.arange(int(lengths[first:beyond].max()))[None]
            real = columns < lengths[first:beyond, None]
            places = np.where(real, starts[first:beyond, None] - starts[first] + columns, 0)
            keys = columns < key_lengths[first:beyond, None]
            tensors = map(torch.from_numpy, (places, np.flatnonzero(real), keys[:, None, None]))
            groups.append(Group(int(starts[first]), int(ends[beyond - 1]), *tensors))
        segments = np.repeat(np.arange(len(lengths)), lengths)
        positions = ranges(np.zeros_like(lengths), lengths)
        tensor = torch.from_numpy
        return cls(tensor(lengths), tensor(segments), tensor(positions), tensor(ends - 1), groups)

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
    return mixed.transpose(1, 2).reshape(n * length, -1).index_select(0, group.real)
