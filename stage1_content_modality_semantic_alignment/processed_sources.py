"""Readers of data sets that others processed already: LETTER's JSON files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List

from common.errors import UserError
from common.files import read_json
from stage1_content_modality_semantic_alignment.raw_sources import RawData

LETTER_FIELDS = {"brand": "brand", "categories": "category", "description": "description"}  # theirs → ours


def read_letter(inter: Path, item: Path) -> RawData:
    """LETTER's ``<D>.inter.json`` (user → items in time order) and ``<D>.item.json`` (item → texts).

    Our ids: users in the file's order, items in the order of their ids there; items that nobody saw are left out.
    """
    histories = _mapping(inter, read_json(inter), "user to a list of items")
    described = _mapping(item, read_json(item), "item to title, brand, …")
    for user, items in histories.items():
        if not isinstance(items, list) or not all(isinstance(one, (int, str)) for one in items):
            raise UserError(f'{inter}: user {user}: not a list of items; write "user": [item, item, …]')
    seen = {str(one): user for user, items in histories.items() for one in items}
    for one, user in seen.items():
        if one not in described:
            raise UserError(f"{inter}: user {user}: item {one} has no entry in {item}; add it there")
    ids = sorted(seen, key=natural)
    ours = {original: number for number, original in enumerate(ids)}
    texts = [_texts(item, original, described[original]) for original in ids]
    return RawData(
        sequences={number: [ours[str(one)] for one in items] for number, items in enumerate(histories.values())},
        titles=[("", text["title"]) for text in texts],
        user_ids=list(histories),
        item_ids=ids,
        fields={our: [text[theirs] for text in texts] for theirs, our in LETTER_FIELDS.items()},
    )


def natural(text: str) -> List[Any]:
    """A key that sorts 2 before 10, and numbers before words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split("([0-9]+)", text) if part]


def _mapping(path: Path, content: Any, meaning: str) -> Dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}:1: not a filled JSON object; it maps {meaning}")
    return content


def _texts(path: Path, item: str, entry: Any) -> Dict[str, str]:
    names = ("title", *LETTER_FIELDS)
    texts = {name: (entry if isinstance(entry, dict) else {}).get(name) or "" for name in names}
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{path}: item {item}: not an object of texts ({', '.join(names)}); correct it")
    if not texts["title"].strip():
        raise UserError(f"{path}: item {item}: has no title; give one, or take the item out of both files")
    return texts
