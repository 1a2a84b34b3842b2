"""Pair files: ``item_pairs_{id,cn,en}.txt``, one ``target,similar`` per line as CSV (switch S4), and their counts.

Titles with commas, quotes or line breaks are quoted. The published id files (``26,21``) have the same form.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple

from common.dataset import Dataset, read_rows
from common.errors import UserError
from common.files import atomic

Pair = Tuple[int, int]  # target, similar: item ids


def pairs_path(folder: Path, kind: str) -> Path:
    """``kind`` is ``id``, ``cn``, ``en`` or ``count``."""
    return folder / f"item_pairs_{kind}.txt"


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write CSV atomically. All text is quoted, numbers are not."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)


def write_pairs(folder: Path, pairs: Sequence[Pair], dataset: Dataset, merge: bool) -> Dict[str, Path]:
    """Write the id file, both title files and the counts; returns their paths.

    ``item_pairs_count.txt`` has one ``target,similar,count`` for each distinct pair, in order of first appearance.
    With ``merge``, the other files contain each distinct pair once, too.
    """
    counts = Counter(pairs)
    given = list(counts) if merge else pairs
    rows: Dict[str, List[Tuple[object, ...]]] = {"id": list(given)}
    for kind, titles in (("cn", dataset.titles_cn), ("en", dataset.titles_en)):
        rows[kind] = [(titles[target], titles[similar]) for target, similar in given]
    rows["count"] = [(*pair, count) for pair, count in counts.items()]
    for kind, content in rows.items():
        write_rows(pairs_path(folder, kind), content)
    return {f"item_pairs_{kind}": pairs_path(folder, kind) for kind in rows}


def read_pairs(path: Path, n_items: int, may_be_empty: bool = False) -> List[Pair]:
    """Read an id file. Raises `UserError` if it is missing, empty, or has a line that is not two items."""
    if not path.is_file():
        fault = "a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {fault}; make it with llm_driven_sample.py, or correct strategy or path")
    pairs = []
    for line, row in read_rows(path, 2, "target, similar"):
        try:
            target, similar = map(int, row)
        except ValueError as error:
            raise UserError(f"{path}:{line}: {','.join(row)!r} is not a pair of item ids; write two numbers") from error
        if not (0 <= target < n_items and 0 <= similar < n_items):
            raise UserError(
                f"{path}:{line}: {target},{similar}: the item ids of the data set are 0 to {n_items - 1}; correct the "
                "pair, or name its data set with -d"
            )
        pairs.append((target, similar))
    if not pairs and not may_be_empty:
        raise UserError(f"{path}: holds no pairs; make others with llm_driven_sample.py, or correct strategy or path")
    return pairs
