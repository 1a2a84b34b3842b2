"""What the readers return: a log of interactions, and a function that reads the texts of the items that are kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import polars as pl

from common.arrays import Slices
from common.errors import UserError

Files = Dict[str, Path]  # the files of a source by meaning, such as inter and item
# an id or a text is not known; compared in lower case. "na" is not among them: it can be an id
MISSING = ("", "nan", "nat", "none", "null", "n/a", "#n/a", "<na>", "undefined", "[]", "{}")
LOG = {"user": pl.String, "item": pl.String, "time": pl.Float64, "line": pl.UInt32}


class BadRows:
    """What to do with rows that cannot be used: stop at the first one, or drop and count them."""

    def __init__(self, policy: str = "stop") -> None:
        self.stops = policy == "stop"
        self.dropped: Counter[str] = Counter()

    def found(self, path: Path, line: int, reason: str, detail: str = "") -> None:
        """Report a bad row, which is counted as ``FILE: reason``.

        Raises:
            UserError: bad rows stop the run.
        """
        if self.stops:
            raise UserError(f"{path}:{line}: {detail or reason}; correct it, or drop such rows with bad_rows=drop")
        self.dropped[f"{path.name}: {reason}"] += 1


@dataclass(frozen=True)
class RawLog:
    """A log of interactions with original ids.

    Attributes:
        log: table with the columns of `LOG`. ``time`` is in seconds, or any number that orders; ``line`` is the line
            (Parquet: row) in ``file``, or null.
        describe: maps the original ids of the items that are kept to a table with item, title_cn, title_en and further
            fields, all text: at most one row per item.
        file: file of the interactions, for messages.
        items_file: file of the items, for messages.
        numbered: the original ids are numbers, and our ids follow their order; otherwise, the first appearance.
        user_names: id in ``log`` → original id, where they differ.
        item_names: likewise.
        has_times: ``time`` is when, not only the order.
    """

    log: pl.DataFrame
    describe: Callable[[pl.Series], pl.DataFrame]
    file: Path
    items_file: Path
    numbered: bool = False
    user_names: Mapping[str, str] = field(default_factory=dict)
    item_names: Mapping[str, str] = field(default_factory=dict)
    has_times: bool = True

    def place(self, line: Optional[int]) -> str:
        """FILE:LINE, or FILE where the line is not known."""
        return str(self.file) if line is None else f"{self.file}:{line}"


@dataclass(frozen=True)
class RawData:
    """A data set in our zero-based ids.

    Attributes:
        sequences: items of each user in time order.
        titles: Chinese and English title of each item.
        user_ids: original id of each user.
        item_ids: original id of each item.
        fields: field → its text for each item (`common.item_fields`).
        dropped: reason → number of interactions that the filters dropped.
        bad_rows: file and reason → number of rows that the reader dropped.
        times: of the sequences' items end to end, in seconds; None if the source has none.
    """

    sequences: Slices
    titles: List[Tuple[str, str]]
    user_ids: List[str]
    item_ids: List[str]
    fields: Mapping[str, Sequence[str]]
    dropped: Mapping[str, int]
    bad_rows: Mapping[str, int]
    times: Optional[np.ndarray] = None


def losses(counts: Mapping[str, int]) -> str:
    """What was dropped, for a message: reason → number as `` (dropped: REASON: NUMBER, …)``, or an empty string."""
    return f" (dropped: {', '.join(f'{reason}: {count:,}' for reason, count in counts.items())})" if counts else ""


def is_missing(text: pl.Expr) -> pl.Expr:
    """Whether a stripped text is one of `MISSING`, in any case; null for null."""
    return text.str.to_lowercase().is_in(MISSING)


def parsed_list(text: str) -> Any:
    """The list that a text holds as JSON; any other text unchanged."""
    try:
        return clean(json.loads(text)) if text.startswith("[") else text
    except (ValueError, RecursionError):
        return text


def joined(value: Any, separator: str = ", ") -> str:
    """The texts of a list and of the lists in it, joined without empty ones; objects in it are JSON. A text: itself."""
    if isinstance(value, (list, tuple)):
        parts = (joined(one, separator).strip() for one in value)
        return separator.join(part for part in parts if part)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def clean(value: Any) -> Any:
    """A text, or the texts in lists and objects, with ``?`` for NUL and lone surrogates, which CSV cannot hold.

    Raises:
        UnicodeDecodeError: bytes that are not UTF-8.
    """
    if isinstance(value, dict):
        return {clean(key): clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(clean, value))
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    return value.replace("\0", "?").encode("utf-8", "replace").decode() if isinstance(value, str) else value
