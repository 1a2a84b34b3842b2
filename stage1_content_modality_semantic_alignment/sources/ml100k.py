"""Reader of MovieLens 100K as RecBole ships it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Dict, List

import numpy as np

from common.errors import UserError
from common.files import read_text
from stage1_content_modality_semantic_alignment.sources.raw import RawData


def ml100k_in_recbole() -> Path:
    """The folder of MovieLens 100K inside the installed recbole, which is not imported for it."""
    found = importlib.util.find_spec("recbole")
    if found is None or not found.submodule_search_locations:
        raise UserError("recbole is not installed, which brings MovieLens 100K: pip install -r requirements.txt")
    return Path(found.submodule_search_locations[0]) / "dataset_example" / "ml-100k"


def read_ml100k(inter: Path, item: Path, last_items: int) -> RawData:
    """All ratings as interactions, each user's last ``last_items``; only items that then occur are kept.

    Time order, ties by original item id. Our ids: users and items by ascending original id. The title,
    ``film (year): genre, genre``, serves as the Chinese and as the English one; apart, the two are the fields title
    and category.
    """
    ratings = _read_atomic(inter, ["user_id", "item_id", "rating", "timestamp"])
    users, items, times = (_numbers(inter, ratings, column) for column in (0, 1, 3))
    order = np.lexsort((items, times, users))
    users, items = users[order], items[order]
    ends = np.searchsorted(users, users, side="right")
    late = np.arange(len(users)) >= ends - last_items
    user_ids, user_of = np.unique(users[late], return_inverse=True)
    item_ids, item_of = np.unique(items[late], return_inverse=True)
    described = _read_atomic(item, ["item_id", "movie_title", "release_year", "class"])
    known = dict(zip(_numbers(item, described, 0).tolist(), described))
    absent = [i for i in item_ids.tolist() if i not in known]
    if absent:
        raise UserError(f"{item}:1: has no row for item {absent[0]}, which {inter.name} names")
    rows = [known[i] for i in item_ids.tolist()]
    films = [(dated(row[1], row[2]), row[3].split()) for row in rows]
    titles = [f"{title}: {', '.join(genres)}" if genres else title for title, genres in films]
    return RawData(
        sequences=_sequences(user_of, item_of),
        titles=[(title, title) for title in titles],
        user_ids=[str(user) for user in user_ids.tolist()],
        item_ids=[str(i) for i in item_ids.tolist()],
        fields={"title": [title for title, _ in films], "category": [", ".join(genres) for _, genres in films]},
        to_draw=films,
    )


def dated(title: str, year: str) -> str:
    """``title (year)``; the year once, and none where the file knows none."""
    return f"{title} ({year})" if re.fullmatch("[0-9]{4}", year) and not title.endswith(f"({year})") else title


def _read_atomic(path: Path, columns: List[str]) -> List[List[str]]:
    """The rows of a RecBole file: a ``name:type`` header, tabs, no quotes."""
    header, *lines = read_text(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    if [field.split(":")[0] for field in header.split("\t")] != columns:
        raise UserError(
            f"{path}:1: the columns are not {', '.join(columns)}; install recbole again, or correct data_dir"
        )
    if not lines:
        raise UserError(f"{path}:1: holds a header alone; install recbole again, or correct data_dir")
    rows = [line.split("\t") for line in lines]
    wrong = next((place for place, row in enumerate(rows) if len(row) != len(columns)), None)
    if wrong is not None:
        raise UserError(
            f"{path}:{wrong + 2}: {len(rows[wrong])} columns where {len(columns)} belong; install recbole again"
        )
    return rows


def _numbers(path: Path, rows: List[List[str]], column: int) -> np.ndarray:
    """A column of integers."""
    wrong = next((place for place, row in enumerate(rows) if not re.fullmatch("[0-9]{1,18}", row[column])), None)
    if wrong is not None:
        raise UserError(f"{path}:{wrong + 2}: '{rows[wrong][column]}' is not an integer; install recbole again")
    return np.array([int(row[column]) for row in rows])


def _sequences(users: np.ndarray, items: np.ndarray) -> Dict[int, List[int]]:
    """Rows in the order of zero-based users and, within one, of time → user: items."""
    starts = np.searchsorted(users, np.arange(users[-1] + 1))
    return {user: part.tolist() for user, part in enumerate(np.split(items, starts[1:]))}
