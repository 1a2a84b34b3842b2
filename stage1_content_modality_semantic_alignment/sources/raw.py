"""What the readers of raw data yield: a log of interactions; texts are read once it is known which items stay."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ItemsView, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import polars as pl

from common.errors import UserError

USERS_AT_ONCE = 10_000
LOG = {"user": pl.String, "item": pl.String, "time": pl.Float64, "line": pl.UInt32}


class Sequences(Mapping[int, List[int]]):
    """User → items in time order, over one array: millions of users cost no Python objects."""

    def __init__(self, items: np.ndarray, lengths: np.ndarray) -> None:
        self._items, self._ends = items, np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, user: int) -> List[int]:
        found: List[int] = self._items[self._ends[user - 1] if user else 0 : self._ends[user]].tolist()
        return found

    def items(self) -> ItemsView[int, List[int]]:
        """The pairs, made of many users' items at once."""
        return _Items(self)

    def pairs(self) -> Iterator[Tuple[int, List[int]]]:
        """(user, items), in order."""
        start = 0
        for first in range(0, len(self), USERS_AT_ONCE):
            ends: List[int] = self._ends[first : first + USERS_AT_ONCE].tolist()
            items, offset = self._items[start : ends[-1]].tolist(), start
            for user, end in enumerate(ends, start=first):
                yield user, items[start - offset : end - offset]
                start = end


class _Items(ItemsView[int, List[int]]):
    _mapping: Sequences

    def __iter__(self) -> Iterator[Tuple[int, List[int]]]:
        return self._mapping.pairs()


@dataclass(frozen=True)
class RawData:
    """A data set in our zero-based ids; ``user_ids`` and ``item_ids`` hold the original ones by ours.

    ``fields`` holds further texts by item (common/item_fields.py), ``to_draw`` title and genres by item, where covers
    may be drawn, and ``dropped`` reason → how many interactions are left out for it.
    """

    sequences: Mapping[int, List[int]]
    titles: List[Tuple[str, str]]
    user_ids: List[str]
    item_ids: List[str]
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    to_draw: Optional[List[Tuple[str, List[str]]]] = None
    dropped: Mapping[str, int] = field(default_factory=dict)


class BadRows:
    """What happens to rows that cannot be used: the first one stops the run, or they are counted by reason."""

    def __init__(self, policy: str = "stop") -> None:
        self.stops = policy == "stop"
        self.dropped: Counter[str] = Counter()

    def found(self, place: str, reason: str, detail: str = "") -> None:
        """Tell of a bad row at ``place`` (FILE:LINE).

        Raises:
            UserError: bad rows are to stop the run.
        """
        if self.stops:
            raise UserError(f"{place}: {detail or reason}; correct it, or leave such rows out with bad_rows=drop")
        self.dropped[reason] += 1


@dataclass(frozen=True)
class RawLog:
    """A log of interactions.

    ``log`` has the columns of `LOG`: original ids, the time in seconds (or any number that orders), and the line in
    ``file``, null where that is not known. ``describe`` reads from ``items_file``, for the original ids of the items
    that stay, a table of item, title_cn, title_en and further fields: texts, one row an item, none for an item that is
    not described.
    ``numbered``: our ids follow the order of the log's, which are numbers; else their first appearance. ``user_names``
    and ``item_names`` are what the log's ids stand for, where they are not the original ones.
    """

    log: pl.DataFrame
    describe: Callable[[pl.Series], pl.DataFrame]
    file: Path
    items_file: Path
    bad: BadRows
    numbered: bool = False
    user_names: Mapping[str, str] = field(default_factory=dict)
    item_names: Mapping[str, str] = field(default_factory=dict)

    def place(self, line: Optional[int]) -> str:
        """FILE:LINE, or FILE alone where the line is not known."""
        return str(self.file) if line is None else f"{self.file}:{line}"


def log_of_histories(histories: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The log of sequences that are in time order already: the place is the time."""
    lengths = np.array([len(items) for items in histories.values()], dtype=np.int64)
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return pl.DataFrame(
        {
            "user": pl.Series(list(histories), dtype=pl.String).gather(np.repeat(np.arange(len(lengths)), lengths)),
            "item": pl.Series([item for items in histories.values() for item in items], dtype=pl.String),
            "time": pl.Series(places.astype(np.float64)),
            "line": pl.Series([None] * len(places), dtype=pl.UInt32),
        }
    )


def table_of_texts(rows: Iterable[Mapping[str, str]], fields: Sequence[str] = ()) -> pl.DataFrame:
    """A table as ``describe`` returns it."""
    names = ("item", "title_cn", "title_en", *fields)
    listed = list(rows)
    return pl.DataFrame({name: pl.Series([row[name] for row in listed], dtype=pl.String) for name in names})


def whole(text: str) -> str:
    """A text that UTF-8 holds: half of a surrogate pair, which JSON can name, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def natural(text: str) -> List[Any]:
    """A key that sorts 2 before 10, and numbers before words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split("([0-9]+)", text) if part]
