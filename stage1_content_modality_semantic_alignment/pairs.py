"""Pair files: ``item_pairs_{id,cn,en}.txt``, a line each ``target,similar``, as CSV (S4).

Titles with commas, quotes or line breaks survive, for fields are quoted where they must be. The
published id files (``26,21``) have the same form and are read as they are.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Iterable, List, Sequence, Tuple

from common.dataset import read_rows
from common.errors import UserError
from common.files import atomic

Pair = Tuple[int, int]


def pairs_dir(dataset_dir: Path, strategy: str) -> Path:
    """Where the pairs of one strategy (one way of choosing) lie."""
    return dataset_dir / "pairs" / strategy


def pairs_path(folder: Path, kind: str) -> Path:
    """``kind`` is ``id``, ``cn`` or ``en``."""
    return folder / f"item_pairs_{kind}.txt"


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write CSV atomically; text is quoted throughout, numbers are not."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)


def read_pairs(path: Path, n_items: int) -> List[Pair]:
    """Read an id file as (target, similar) pairs.

    Raises:
        UserError: no such file, no pairs in it, or a line that is not two items of the data set.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with llm_driven_sample.py, or correct strategy")
    pairs = []
    for line, row in read_rows(path, 2, "target, similar"):
        try:
            target, similar = map(int, row)
        except ValueError as error:
            raise UserError(f"{path}:{line}: {','.join(row)!r} is not a pair of item ids") from error
        if not (0 <= target < n_items and 0 <= similar < n_items):
            raise UserError(f"{path}:{line}: {target},{similar}: the data set's items run from 0 to {n_items - 1}")
        pairs.append((target, similar))
    if not pairs:
        raise UserError(f"{path}: holds no pairs; choose with another selector, model or a lower tfidf_threshold")
    return pairs
