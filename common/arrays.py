"""Index arithmetic of sequences that lie end to end in one array."""

from __future__ import annotations

import numpy as np


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each sequence starts, and where the last one ends: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[start, start + length) of each pair, end to end."""
    offsets = np.arange(int(lengths.sum())) - np.repeat(starts_of(lengths)[:-1], lengths)
    return np.repeat(starts, lengths) + offsets
