"""Further text fields of a data set's items, such as brand and category: an optional file beside their titles.

<datasets_dir>/<D>/<D>_item_fields.csv     header item,<field>,<field>…; one row an item, by zero-based id, ascending

Field names are lower-case words. A field may be empty, and may hold commas, quotes and line breaks. A field ``title``
is a title of its own, for those who read fields: ADRec takes it in place of the one in ``<D>_item_sort.csv``.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Dict, List, Mapping, Sequence

from common.dataset import Dataset, items_path, read_rows
from common.errors import UserError
from common.files import atomic

_NAME = re.compile("[a-z][a-z0-9_]*")


def item_fields_path(folder: Path, name: str) -> Path:
    """Where the items' further fields lie; the file is optional."""
    return Path(folder) / f"{name}_item_fields.csv"


def text_fields(dataset: Dataset, language: str) -> Dict[str, List[str]]:
    """Every text field of a data set's items, by name; ``title`` is always there, this file's before the other's."""
    return {"title": dataset.titles(language), **read_item_fields(dataset.folder, dataset.name, dataset.n_items)}


def text_files(folder: Path, name: str) -> Dict[str, Path]:
    """The files that hold the items' texts, by meaning: their titles, and their further fields where there are any."""
    fields = item_fields_path(folder, name)
    return {"items": items_path(folder, name), **({"fields": fields} if fields.is_file() else {})}


def read_item_fields(folder: Path, name: str, n_items: int) -> Dict[str, List[str]]:
    """Field → its text by zero-based item id; an empty mapping where there is no such file.

    Raises:
        UserError: names file, line and cure: a broken header, a row too short or long, or not one row an item in order.
    """
    path = item_fields_path(folder, name)
    if not path.exists():
        return {}
    names = _read_header(path)
    rows = read_rows(path, len(names) + 1, ", ".join(("item", *names)))
    next(rows)
    columns: List[List[str]] = [[] for _ in names]
    count = 0
    for line, (item, *texts) in rows:
        if item != str(count) or count >= n_items:
            wanted = f"item {count}" if count < n_items else "no more rows"
            raise UserError(
                f"{path}:{line}: item '{item}' where {wanted} belongs; write one row an item, in order of id"
            )
        for column, text in zip(columns, texts):
            column.append(text)
        count += 1
    if count != n_items:
        raise UserError(f"{path}: {count} items where {n_items} belong; write one row an item, in order of id")
    return dict(zip(names, columns))


def write_item_fields(folder: Path, name: str, fields: Mapping[str, Sequence[str]]) -> None:
    """Write the fields, each a text by zero-based item id, whole or not at all.

    Raises:
        ValueError: no fields, a name that is not a lower-case word, or fields of different lengths.
    """
    if not fields or "item" in fields or not all(map(_NAME.fullmatch, fields)):
        raise ValueError(f"not names of fields: {list(fields)}")
    if len(set(map(len, fields.values()))) != 1:
        raise ValueError(f"fields of different lengths: { {key: len(value) for key, value in fields.items()} }")
    with atomic(item_fields_path(folder, name)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerow(("item", *fields))
        # quoted throughout: csv leaves a bare carriage return unquoted otherwise, and cannot read it back
        writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerows((item, *texts) for item, texts in enumerate(zip(*fields.values())))


def _read_header(path: Path) -> List[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            first, *names = next(csv.reader(file), [""])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    well_named = all(map(_NAME.fullmatch, names)) and "item" not in names and len(set(names)) == len(names)
    if first != "item" or not names or not well_named:
        raise UserError(
            f"{path}:1: the header is not item,<field>,<field>…; name each field once, by a lower-case word"
        )
    return names
