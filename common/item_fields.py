"""Further text fields of items, such as brand and category: an optional file beside the titles.

<datasets_dir>/<D>/<D>_item_fields.csv     header item,<field>,<field>…; one row per item, by zero-based id, ascending

Field names are lower-case words. A field may be empty, and may hold commas, quotes and line breaks. ADRec uses a field
``title`` in place of the title in ``<D>_item_sort.csv``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Mapping, Sequence

from common.dataset import Dataset, items_path, read_rows, write_rows
from common.errors import UserError

_NAME = re.compile("[a-z][a-z0-9_]*")


def item_fields_path(folder: Path, name: str) -> Path:
    """File of the items' further fields; it is optional."""
    return Path(folder) / f"{name}_item_fields.csv"


def text_fields(dataset: Dataset, language: str) -> Dict[str, List[str]]:
    """Field → text of each item; with ``title``, which is this file's or else the one of ``language``."""
    return {"title": dataset.titles(language), **read_item_fields(dataset.folder, dataset.name, dataset.n_items)}


def text_files(folder: Path, name: str) -> Dict[str, Path]:
    """The files that hold the items' texts: the titles, and the further fields if there are any."""
    fields = item_fields_path(folder, name)
    return {"items": items_path(folder, name), **({"fields": fields} if fields.is_file() else {})}


def read_item_fields(folder: Path, name: str, n_items: int) -> Dict[str, List[str]]:
    """Read field → its text for each zero-based item; empty if there is no file.

    Raises:
        UserError: file, line and fix of a bad header, a row of another length, or rows that are not one per item in
            order.
    """
    path = item_fields_path(folder, name)
    if not path.exists():
        return {}
    rows = read_rows(path, None, "item and its fields")
    _, (first, *names) = next(rows, (1, [""]))
    well_named = all(map(_NAME.fullmatch, names)) and "item" not in names and len(set(names)) == len(names)
    if first != "item" or not names or not well_named:
        raise UserError(f"{path}:1: the header is not item,<field>,<field>…; name each field once, a lower-case word")
    columns: List[List[str]] = [[] for _ in names]
    count = 0
    for line, (item, *texts) in rows:
        if item != str(count) or count >= n_items:
            expected = f"item {count}" if count < n_items else "the end of the file"
            raise UserError(
                f"{path}:{line}: item '{item}' instead of {expected}; write one row per item, in order of id"
            )
        for column, text in zip(columns, texts):
            column.append(text)
        count += 1
    if count != n_items:
        raise UserError(f"{path}: {count} items instead of {n_items}; write one row per item, in order of id")
    return dict(zip(names, columns))


def write_item_fields(folder: Path, name: str, fields: Mapping[str, Sequence[str]]) -> None:
    """Write field → its text for each zero-based item, atomically."""
    rows = ((item, *texts) for item, texts in enumerate(zip(*fields.values())))
    write_rows(item_fields_path(folder, name), rows, ("item", *fields))
