"""The prepared data set on disk, one layout for every source (docs/data_formats.md).

<datasets_dir>/<D>/sequential_data.txt     one user a line: user item item …, zero-based, in time order
<datasets_dir>/<D>/<D>_item_sort.csv       zero-based item id, Chinese title, English title; sorted by id
<datasets_dir>/<D>/covers/<item>.jpg       optional
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. Item ids index ``titles_cn`` and ``titles_en``."""

    name: str
    folder: Path
    users: List[int]
    sequences: List[np.ndarray]
    titles_cn: List[str]
    titles_en: List[str]
    covers: Optional[Path]

    @property
    def n_items(self) -> int:
        """Number of items; ids run from 0 to n_items - 1."""
        return len(self.titles_cn)


def cover_path(covers: Path, item: int) -> Path:
    """Where the cover of a zero-based item lies."""
    return covers / f"{item}.jpg"


def train_part(sequence: np.ndarray) -> np.ndarray:
    """A user's items without the last two, which are the validation and the test label."""
    return sequence[:-2]


def load_dataset(folder: Path, name: str) -> Dataset:
    """Read and check a prepared data set.

    Raises:
        UserError: names file, line and cure for every fault listed in docs/data_formats.md.
    """
    raise UserWarning("written by the data work")  # replaced at once
