"""Sequences that are end to end in one array, and their index arithmetic."""

from __future__ import annotations

from typing import Iterator

import numpy as np


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each sequence starts, and where the last one ends: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[start, start + length) of each pair, end to end."""
    found = np.repeat(starts - starts_of(lengths)[:-1], lengths)
    found += np.arange(len(found))
    return found


class Slices:
    """A sequence of arrays that are end to end in one: array i is the view ``flat[starts[i]:starts[i + 1]]``."""

    def __init__(self, flat: np.ndarray, starts: np.ndarray) -> None:
        self.flat, self.starts = flat, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        i = range(len(self))[i]
        return self.flat[self.starts[i] : self.starts[i + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.flat[begin:end] for begin, end in zip(self.starts, self.starts[1:]))
