"""What the readers of processed data sets share: histories in time order, and texts in JSON objects.

These data sets name users and items by numbers. Our ids follow the order of these numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import polars as pl

from common.errors import UserError
from common.files import read_json
from importers.raw import RawLog, clean

FIELDS = {"brand": "brand", "categories": "category", "category": "category", "description": "description"}


def log_of_histories(
    inter: Path,
    items_file: Path,
    histories: Mapping[str, Sequence[str]],
    texts: Mapping[str, Mapping[str, str]],
    user_names: Optional[Mapping[str, str]] = None,
    item_names: Optional[Mapping[str, str]] = None,
) -> RawLog:
    """The log of histories (user → items) whose items have texts (item → name → text)."""
    items = pl.Series(list(map(list, histories.values())), dtype=pl.List(pl.String))
    table = pl.DataFrame({"user": pl.Series(list(histories), dtype=pl.String), "item": items})
    log = table.explode("item").drop_nulls().with_row_index("time")
    log = log.select("user", "item", pl.col("time").cast(pl.Float64), line=pl.lit(None, pl.UInt32))
    if not log.height:
        raise UserError(f"{inter}:1: holds no interactions; download it again")
    names = list(dict.fromkeys(ours for theirs, ours in FIELDS.items() if any(theirs in one for one in texts.values())))

    def describe(ids: pl.Series) -> pl.DataFrame:
        known = [item for item in ids if item in texts]
        rows = [
            {"item": item, **{FIELDS.get(key, "title_en"): text for key, text in texts[item].items() if text}}
            for item in known
        ]
        return pl.DataFrame(rows, schema=dict.fromkeys(("item", "title_cn", "title_en", *names), pl.String))

    return RawLog(log, describe, inter, items_file, True, user_names or {}, item_names or {})


def read_object(path: Path, meaning: str) -> Dict[str, object]:
    """Read a JSON object that is not empty; ``meaning`` says what it maps, for the message."""
    content = clean(read_json(path))
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}:1: not a JSON object with content; it maps {meaning}")
    return content


def read_histories(path: Path) -> Dict[str, List[str]]:
    """Read user → items in time order."""
    histories = {}
    for user, items in read_object(path, "user to a list of items").items():
        if not isinstance(items, list) or not all(isinstance(one, (int, str)) for one in items):
            raise UserError(f'{path}: user {user}: not a list of items; write "user": [item, item, …]')
        histories[user] = [str(one) for one in items]
    return histories


def read_texts(path: Path) -> Dict[str, Dict[str, str]]:
    """Read item → name → text; lists are joined, null is empty."""
    texts = {}
    for item, entry in read_object(path, "item to title, brand, …").items():
        named = {name: entry[name] for name in ("title", *FIELDS) if name in entry} if isinstance(entry, dict) else {}
        joined = {name: ", ".join(map(str, one)) if isinstance(one, list) else one or "" for name, one in named.items()}
        if not isinstance(entry, dict) or not all(isinstance(text, str) for text in joined.values()):
            raise UserError(f"{path}: item {item}: not an object of texts (title, {', '.join(FIELDS)}); correct it")
        texts[item] = joined
    return texts


def original_ids(path: Path, numbers: Mapping[str, object]) -> Dict[str, str]:
    """Invert original id → number, as read from ``path``."""
    names = {str(number): original for original, number in numbers.items()}
    if len(names) != len(numbers):
        raise UserError(f"{path}: two ids have the same number; download it again")
    return names
