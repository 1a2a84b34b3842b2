"""Readers of raw data: MovieLens 100K as RecBole ships it, and NineRec's files. Both yield zero-based ids."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from common.dataset import MIN_ITEMS, fill_titles, read_rows
from common.errors import UserError
from common.files import read_text


@dataclass(frozen=True)
class RawData:
    """A data set in our ids; ``user_ids`` and ``item_ids`` hold the original ones by ours.

    ``fields`` holds further texts by item (common/item_fields.py); ``to_draw`` title and genres by item, where covers
    may be drawn.
    """

    sequences: Dict[int, List[int]]
    titles: List[Tuple[str, str]]
    user_ids: List[str]
    item_ids: List[str]
    fields: Dict[str, List[str]] = field(default_factory=dict)
    to_draw: Optional[List[Tuple[str, List[str]]]] = None


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


def read_ninerec(pair: Path, item: Path) -> RawData:
    """NineRec's ``<D>_pair.csv`` (user, item, timestamp) and ``<D>_item.csv`` (item, Chinese, English title).

    A first row of the pair file whose timestamp is not a number is a header. Our ids: users and items in
    the order in which they first appear in the pair file, row by row. Time order, ties by row. Items that
    nobody saw are left out.
    """
    user_fields, item_fields, times, lines = _read_pairs(pair)
    users, user_of = _by_first_appearance(user_fields)
    items, item_of = _by_first_appearance(item_fields)
    _check_lengths(pair, users, user_of, lines)
    titles = _titles_of(item, {original: ours for ours, original in enumerate(items)})
    untitled = next((ours for ours in range(len(items)) if ours not in titles), None)
    if untitled is not None:
        line = lines[int(np.flatnonzero(item_of == untitled)[0])]
        raise UserError(f"{pair}:{line}: item {items[untitled]} has no row in {item}; add it there")
    order = np.lexsort((np.array(times), user_of))
    return RawData(
        sequences=_sequences(user_of[order], item_of[order]),
        titles=[titles[ours] for ours in range(len(items))],
        user_ids=users,
        item_ids=items,
    )


def _read_pairs(path: Path) -> Tuple[List[str], List[str], List[float], List[int]]:
    """Users, items and timestamps of the rows, and the lines on which these begin."""
    users: List[str] = []
    items: List[str] = []
    times: List[float] = []
    lines: List[int] = []
    for place, (line, row) in enumerate(read_rows(path, 3, "user, item, timestamp")):
        user, item, time = (field.strip() for field in row)
        if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]+)?", time):
            if place == 0:
                continue  # a header
            raise UserError(f"{path}:{line}: timestamp '{time}' is not a number; the columns are user, item, timestamp")
        if not user or not item:
            raise UserError(f"{path}:{line}: the {'item' if user else 'user'} is empty; take the row out")
        users.append(user)
        items.append(item)
        times.append(float(time))
        lines.append(line)
    if not lines:
        raise UserError(f"{path}:1: holds no interactions; the columns are user, item, timestamp")
    return users, items, times, lines


def _by_first_appearance(originals: Sequence[str]) -> Tuple[List[str], np.ndarray]:
    """The distinct values in the order of their first appearance, and for each row its value's place there."""
    ours: Dict[str, int] = {}
    places = np.array([ours.setdefault(original, len(ours)) for original in originals])
    return list(ours), places


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


def _check_lengths(pair: Path, user_ids: List[str], user_of: np.ndarray, lines: List[int]) -> None:
    lengths = np.bincount(user_of)
    short = np.flatnonzero(lengths < MIN_ITEMS)
    if len(short):
        line = lines[int(np.flatnonzero(user_of == short[0])[0])]
        raise UserError(
            f"{pair}:{line}: user {user_ids[short[0]]} has {lengths[short[0]]} interactions, fewer than {MIN_ITEMS}: "
            f"the last is for test, the one before for validation; take such users out ({len(short)} of {len(lengths)})"
        )


def _titles_of(path: Path, items: Dict[str, int]) -> Dict[int, Tuple[str, str]]:
    """Our item id → titles, for those of ``items`` (original → our id) that have a row."""
    titles: Dict[int, Tuple[str, str]] = {}
    lines: Dict[str, int] = {}
    for line, (original, cn, en) in read_rows(path, 3, "item, Chinese title, English title"):
        item = original.strip()
        if item in lines:
            raise UserError(f"{path}:{line}: item {item} stands already on line {lines[item]}; keep one of the two")
        lines[item] = line
        if item in items:
            titles[items[item]] = fill_titles(path, line, cn, en)
    return titles
