"""Readers of LETTER's and RecFormer's JSON files and S3-Rec's text files, and what readers of processed data share.

These data sets name users and items by numbers. Our ids follow the order of these numbers.

LETTER      ``<D>.inter.json`` (user → items in time order), ``<D>.item.json`` (item → texts)
RecFormer   ``{train,val,test}.json`` (a user's number → the numbers of items), ``umap.json`` and ``smap.json``
            (original id → number), ``meta_data.json`` (original id → texts)
S3-Rec      ``<D>.txt``: a line ``user item item …`` per user, numbers from 1 in time order; no texts
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

import polars as pl

from common.errors import UserError
from common.files import read_json, read_text
from importers.raw import BadRows, Files, RawLog, clean, joined

FIELDS = {"brand": "brand", "categories": "category", "category": "category", "description": "description"}


def files_letter(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    yield {"inter": folder / f"{dataset}.inter.json", "item": folder / f"{dataset}.item.json"}


def files_recformer(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set; umap.json is the one that only RecFormer has."""
    yield {name: folder / f"{name}.json" for name in ("umap", "train", "val", "test", "smap", "meta_data")}


def files_s3rec(folder: Path, dataset: str) -> Iterator[Files]:
    """The file of a data set."""
    yield {"inter": folder / f"{dataset}.txt"}


def read_letter(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions."""
    return log_of_histories(files["inter"], files["item"], read_histories(files["inter"]), read_texts(files["item"]))


def read_recformer(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions: a user's items of train, then of val, then of test."""
    parts = [read_histories(files[part]) for part in ("train", "val", "test")]
    users = dict.fromkeys(user for part in parts for user in part)
    histories = {user: [item for part in parts for item in part.get(user, [])] for user in users}
    user_names = original_ids(files["umap"], read_object(files["umap"], "id to number"))
    item_names = original_ids(files["smap"], read_object(files["smap"], "id to number"))
    described = read_texts(files["meta_data"])
    texts = {number: described[original] for number, original in item_names.items() if original in described}
    return log_of_histories(files["train"], files["meta_data"], histories, texts, user_names, item_names)


def read_s3rec(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions; every item has a blank title."""
    path = files["inter"]
    histories: Dict[str, List[str]] = {}
    lines: Dict[str, int] = {}
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        words = text.split()
        wrong = next((word for word in words if not re.fullmatch("[1-9][0-9]{0,17}", word)), None)
        if wrong:
            bad.found(path, line, "not a number", f"'{wrong[:40]}' is not a number from 1 (user item item …)")
        elif len(words) == 1:
            bad.found(path, line, "a user without items")
        elif words and words[0] in lines:
            bad.found(path, line, "a user again", f"user {words[0]} is already on line {lines[words[0]]}")
        elif words:
            histories[words[0]], lines[words[0]] = words[1:], line
    blank: Dict[str, Dict[str, str]] = {item: {} for items in histories.values() for item in items}
    raw = log_of_histories(path, path, histories, blank)
    return replace(raw, log=raw.log.with_columns(line=pl.col("user").replace_strict(lines, return_dtype=pl.UInt32)))


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

    return RawLog(log, describe, inter, items_file, True, user_names or {}, item_names or {}, has_times=False)


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
        fields = {name: joined(one) if isinstance(one, list) else one or "" for name, one in named.items()}
        if not isinstance(entry, dict) or not all(isinstance(text, str) for text in fields.values()):
            raise UserError(f"{path}: item {item}: not an object of texts (title, {', '.join(FIELDS)}); correct it")
        texts[item] = fields
    return texts


def original_ids(path: Path, numbers: Mapping[str, object]) -> Dict[str, str]:
    """Invert original id → number, as read from ``path``."""
    names = {str(number): original for original, number in numbers.items()}
    if len(names) != len(numbers):
        raise UserError(f"{path}: two ids have the same number; download it again")
    return names
