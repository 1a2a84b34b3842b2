"""Readers of data sets that others processed: LETTER's JSON files, RecFormer's folder, UniSRec's RecBole files.

All three keep users and items under numbers; ours follow the order of these, without items that nobody saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import polars as pl

from common.errors import UserError
from common.files import read_json, read_text
from stage1_content_modality_semantic_alignment.sources.raw import (
    BadRows,
    RawLog,
    log_of_histories,
    table_of_texts,
    whole,
)

FIELDS = {"brand": "brand", "categories": "category", "category": "category", "description": "description"}
HISTORY = ["user_id", "item_id_list", "item_id"]


def read_letter(files: Mapping[str, Path], bad: BadRows) -> RawLog:
    """LETTER's ``<D>.inter.json`` (user → items in time order) and ``<D>.item.json`` (item → texts)."""
    texts = _texts(files["item"], "item to title, brand, …")
    return log_of_texts(files["inter"], files["item"], _histories(files["inter"]), texts, bad)


def read_recformer(files: Mapping[str, Path], bad: BadRows) -> RawLog:
    """RecFormer's processed folder: a user's items are train's, then val's, then test's.

    ``umap.json`` and ``smap.json`` map original ids to the numbers in these; ``meta_data.json`` original ids to texts.
    """
    parts = [_histories(files[part]) for part in ("train", "val", "test")]
    users = list(dict.fromkeys(user for part in parts for user in part))
    histories = {user: [one for part in parts for one in part.get(user, [])] for user in users}
    user_names, item_names = (_names(_mapping(files[name], "id to number"), files[name]) for name in ("umap", "smap"))
    described = _texts(files["meta_data"], "item to title, brand and category")
    texts = {number: described[original] for number, original in item_names.items() if original in described}
    return log_of_texts(files["train"], files["meta_data"], histories, texts, bad, user_names, item_names)


def read_unisrec(files: Mapping[str, Path], bad: BadRows) -> RawLog:
    """UniSRec's ``<D>.{train,valid,test}.inter`` (user, history, next item), ``<D>.text``, ``<D>.{user,item}2index``.

    Histories may be cut to their last 50, so a user's sequence is put together from the targets of all rows.
    """
    rows: Dict[str, Dict[str, List[List[str]]]] = {}
    for part in ("train", "valid", "test"):
        for line, (user, history, target) in _tabbed(files[part], HISTORY, bad):
            if not user or not history.split() or not target:
                bad.found(f"{files[part]}:{line}", "a row without user, history or target")
                continue
            rows.setdefault(user, {}).setdefault(part, []).append([*history.split(), target])
    histories = {user: _whole(files["train"], user, parts) for user, parts in rows.items()}
    texts = {item: {"title": text} for _, (item, text) in _tabbed(files["text"], ["item_id", "text"], bad)}
    user_names, item_names = (_index(files[name], bad) for name in ("user2index", "item2index"))
    return log_of_texts(files["train"], files["text"], histories, texts, bad, user_names, item_names)


def _whole(path: Path, user: str, parts: Mapping[str, List[List[str]]]) -> List[str]:
    """A user's items, from rows that are histories with the next item at their end.

    Train rows stand from the shortest history to the longest, or the other way round.
    """
    train = parts.get("train", [])
    if len(train) > 1 and len(train[0]) > len(train[-1]):
        train = train[::-1]
    last = [parts[part][0] for part in ("valid", "test") if part in parts]
    rows = [*train, *last]
    whole = [*rows[0][:-1], *(row[-1] for row in rows)]
    ends = range(len(whole) - len(rows), len(whole))
    prefixes = all(whole[max(0, end + 1 - len(row)) : end] == row[:-1] for end, row in zip(ends, rows))
    if len(parts.get("test", [])) > 1 or not prefixes:
        raise UserError(f"{path}: user {user}: the rows are not the prefixes of one sequence; fetch the files again")
    return whole


def log_of_texts(
    inter: Path,
    items_file: Path,
    histories: Mapping[str, Sequence[str]],
    texts: Mapping[str, Mapping[str, str]],
    bad: BadRows,
    user_names: Optional[Mapping[str, str]] = None,
    item_names: Optional[Mapping[str, str]] = None,
) -> RawLog:
    """A log of histories (user → items) whose items have texts (item → name → text)."""
    names = list(dict.fromkeys(ours for theirs, ours in FIELDS.items() if any(theirs in one for one in texts.values())))
    empty = dict.fromkeys(("title_cn", "title_en", *names), "")

    def describe(ids: pl.Series) -> pl.DataFrame:
        known = [item for item in ids.to_list() if item in texts]
        rows = ({FIELDS.get(name, "title_en"): text for name, text in texts[item].items()} for item in known)
        return table_of_texts(({**empty, **row, "item": item} for item, row in zip(known, rows)), names)

    log = log_of_histories(histories)
    if not log.height:
        raise UserError(f"{inter}:1: holds no interactions; fetch it again")
    return RawLog(log, describe, inter, items_file, bad, True, user_names or {}, item_names or {})


def _mapping(path: Path, meaning: str) -> Dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}:1: not a filled JSON object; it maps {meaning}")
    return content


def _histories(path: Path) -> Dict[str, List[str]]:
    histories = _mapping(path, "user to a list of items")
    for user, items in histories.items():
        if not isinstance(items, list) or not all(isinstance(one, (int, str)) for one in items):
            raise UserError(f'{path}: user {user}: not a list of items; write "user": [item, item, …]')
    return {user: [str(one) for one in items] for user, items in histories.items()}


def _texts(path: Path, meaning: str) -> Dict[str, Dict[str, str]]:
    """Item → name → text; lists are joined, null is empty."""
    texts = {}
    for item, entry in _mapping(path, meaning).items():
        named = (
            {name: entry.get(name) for name in ("title", *FIELDS) if name in entry} if isinstance(entry, dict) else {}
        )
        plain = {name: ", ".join(map(str, one)) if isinstance(one, list) else one or "" for name, one in named.items()}
        if not isinstance(entry, dict) or not all(isinstance(text, str) for text in plain.values()):
            raise UserError(f"{path}: item {item}: not an object of texts (title, {', '.join(FIELDS)}); correct it")
        texts[item] = {name: whole(text) for name, text in plain.items()}
    return texts


def _names(numbers: Mapping[str, Any], path: Path) -> Dict[str, str]:
    """Number → original id."""
    names = {str(number): original for original, number in numbers.items()}
    if len(names) != len(numbers):
        raise UserError(f"{path}: two ids have one number; fetch it again")
    return names


def _index(path: Path, bad: BadRows) -> Dict[str, str]:
    """Number → original id, of lines ``original<TAB>number``."""
    return {number: original for _, (original, number) in _tabbed(path, None, bad)}


def _tabbed(path: Path, header: Optional[List[str]], bad: BadRows) -> Iterator[Tuple[int, List[str]]]:
    """(line, fields) of a RecBole file, without its ``name:type`` header; two columns where it has none."""
    lines = read_text(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    if header and [field.split(":")[0] for field in lines[0].split("\t")] != header:
        raise UserError(f"{path}:1: the columns are not {', '.join(header)}; fetch the file again")
    for number, line in enumerate(lines[1:] if header else lines, start=2 if header else 1):
        row = line.split("\t")
        if len(row) == len(header or "12"):
            yield number, row
        elif line.strip():
            told = f"{len(row)} columns where {len(header or '12')} belong"
            bad.found(f"{path}:{number}", "another number of columns", told)
