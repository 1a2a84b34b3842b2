"""What the recommend scripts of both papers share: options, histories, titles, and the printed list."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from common.dataset import Dataset, read_rows
from common.errors import UserError
from common.settings import DeviceSettings, setting

ARGUMENTS: Tuple[Tuple[Tuple[str, ...], Dict[str, Any]], ...] = (
    (("--user",), {"type": int, "metavar": "U", "help": "a user by zero-based id (user_ids.csv)"}),
    (("--items",), {"metavar": "A,B,C", "help": "a history by zero-based ids (item_ids.csv), oldest first"}),
    (("-k",), {"type": int, "default": 10, "help": "number of items (10)"}),
    (("--checkpoint",), {"type": Path, "metavar": "FILE", "help": "the .pth to use"}),
)


@dataclass
class RecommendSettings(DeviceSettings):
    """Which run to use, and what to print."""

    results_dir: str = setting("results", "folder of results and checkpoints, <model>/<dataset>/<run>/")
    title_language: str = setting("en", "language of the titles", choices=("en", "cn"))


def history_of(dataset: Dataset, arguments: Namespace) -> np.ndarray:
    """The zero-based items of ``--user``'s history, or of ``--items``.

    Raises:
        UserError: not one of both is given, there is no such user or item, or ``-k`` is below 1.
    """
    user, items = arguments.user, arguments.items
    if (user is None) == (items is None):
        raise UserError("give either --user U or --items A,B,C")
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: must be at least 1")
    if user is not None:
        users = dataset.users
        if user not in users:
            raise UserError(f"--user {user}: no such user; ids are from {users.min()} to {users.max()}")
        return dataset.sequences[int((users == user).argmax())].astype(np.int64)
    try:
        ids = [int(word) for word in items.split(",")]
    except ValueError as error:
        raise UserError(
            f"--items {items}: give zero-based item ids with commas between, as in 12,40,7; item_ids.csv in the data "
            "set's folder has the original ids"
        ) from error
    for item in ids:
        if not 0 <= item < dataset.n_items:
            raise UserError(f"--items: no item {item}; ids are from 0 to {dataset.n_items - 1}")
    return np.array(ids)


def labels(dataset: Dataset, language: str) -> List[str]:
    """Each item's title, with the item's original id if item_ids.csv has it."""
    titles = dataset.titles(language)
    path = dataset.folder / "item_ids.csv"
    if not path.is_file():
        return list(titles)
    originals = [original for _, (_, original) in read_rows(path, 2, "id, original id")][1:]
    return [f"{title} [{original}]" for title, original in zip(titles, originals)]


def print_recommendations(source: str, history: np.ndarray, scores: np.ndarray, titles: List[str], k: int) -> None:
    """Print the last items of the history and the k best items.

    Args:
        source: model and checkpoint.
        scores: (n,) by zero-based item id; -inf for items that are not recommended.

    Raises:
        UserError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise UserError(f"{source}: {np.isnan(scores).sum()} scores are NaN; use another checkpoint")
    print(f"after {len(history)} items, the last of them:")
    for item in history[-5:]:
        print(f"  {item:>6}           {titles[item]}")
    print(f"{source} recommends:")
    best = np.argsort(-scores, kind="stable")[:k]
    for item in best[np.isfinite(scores[best])]:
        print(f"  {item:>6}  {scores[item]:7.4f}  {titles[item]}")
