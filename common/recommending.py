"""What the two papers' recommend scripts share: for whom, what they have seen, and the printed list."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_text
from common.settings import DeviceSettings, setting

ARGUMENTS: Tuple[Tuple[Tuple[str, ...], Dict[str, Any]], ...] = (
    (("--user",), {"type": int, "metavar": "U", "help": "a user by zero-based id (user_ids.csv: which of yours)"}),
    (("--items",), {"metavar": "A,B,C", "help": "a history of items by zero-based id, oldest first (item_ids.csv)"}),
    (("-k",), {"type": int, "default": 10, "help": "how many items (10)"}),
    (("--checkpoint",), {"type": Path, "metavar": "FILE", "help": "the .pth to use"}),
)


@dataclass
class RecommendSettings(DeviceSettings):
    """Where to look, and whether what a user has seen may come again."""

    results_dir: str = setting("results", "where runs lie")
    mask_history: bool = setting(True, "leave out what is in the history")
    title_language: str = setting("en", "titles to print", choices=("en", "cn"))


def check_arguments(arguments: Any) -> None:
    """Stop unless it is said for whom, once, and for at least one item."""
    if (arguments.user is None) == (arguments.items is None):
        both = "not both" if arguments.user is not None else "one of them"
        raise UserError(f"say for whom: --user U or --items A,B,C, {both}")
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: must be at least 1")


def history_of(dataset: Dataset, user: Optional[int], items: Optional[str]) -> np.ndarray:
    """Zero-based items of the history asked for.

    Raises:
        UserError: no such user or item.
    """
    if user is not None:
        if user not in dataset.users:
            raise UserError(f"--user {user}: no such user; they run from {min(dataset.users)} to {max(dataset.users)}")
        return dataset.sequences[dataset.users.index(user)]
    try:
        ids = [int(word) for word in (items or "").split(",")]
    except ValueError as error:
        where = "; item_ids.csv in the data set's folder tells which is which of yours"
        raise UserError(
            f"--items {items}: give zero-based item ids with commas between, as in 12,40,7{where}"
        ) from error
    for item in ids:
        if not 0 <= item < dataset.n_items:
            raise UserError(f"--items: no item {item}; they run from 0 to {dataset.n_items - 1}")
    return np.array(ids)


def labels(dataset: Dataset, language: str) -> List[str]:
    """Each item's title, and what the raw files call the item where the preparation wrote that down."""
    titles = dataset.titles(language)
    path = dataset.folder / "item_ids.csv"
    if not path.is_file():
        return list(titles)
    originals = [original for _, original in csv.reader(io.StringIO(read_text(path)))][1:]
    return [f"{title} [{original}]" for title, original in zip(titles, originals)]


def print_recommendations(source: str, history: np.ndarray, scores: np.ndarray, titles: List[str], k: int) -> None:
    """Print the end of the history and the k best items.

    Args:
        source: model and checkpoint.
        scores: (n,) by zero-based item id; what is not to be recommended has -inf.
    """
    print(f"after {len(history)} items, the last of them:")
    for item in history[-5:]:
        print(f"  {item:>6}           {titles[item]}")
    print(f"{source} recommends:")
    best = np.argsort(-scores, kind="stable")[:k]
    for item in best[np.isfinite(scores[best])]:
        print(f"  {item:>6}  {scores[item]:7.4f}  {titles[item]}")
