"""Readers of tables: NineRec's two CSV files, and anybody's own CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

import polars as pl

from common.dataset import read_rows
from common.errors import UserError
from stage1_content_modality_semantic_alignment.sources.blocks import header_of, require_columns
from stage1_content_modality_semantic_alignment.sources.raw import BadRows, RawLog, table_of_texts
from stage1_content_modality_semantic_alignment.sources.rows import (
    csv_rows,
    json_rows,
    kind_of_file,
    read_interactions,
    read_parquet,
)

PAIR = {"user": "user", "item": "item", "time": "timestamp"}


def read_ninerec(files: Mapping[str, Path], bad: BadRows) -> RawLog:
    """NineRec's ``<D>_pair.csv`` (user, item, timestamp) and ``<D>_item.csv`` (item, Chinese, English title).

    A first row of the pair file whose timestamp is not a number is a header.
    """
    log = read_interactions(files["pair"], PAIR, bad, header=False)
    return RawLog(log, lambda ids: _ninerec_titles(files["item"], ids, bad), files["pair"], files["item"], bad)


def _ninerec_titles(path: Path, ids: pl.Series, bad: BadRows) -> pl.DataFrame:
    wanted = set(ids.to_list())
    lines: Dict[str, int] = {}
    rows: List[Dict[str, str]] = []
    for line, (field, cn, en) in read_rows(path, 3, "item, Chinese title, English title"):
        item = field.strip()
        if item in lines:
            told = f"item {item} stands already on line {lines[item]}; keep one of the two"
            bad.found(f"{path}:{line}", "item described twice", told)
        elif item in wanted:
            cn, en = (cn if cn.strip() else en), (en if en.strip() else cn)
            rows.append({"item": item, "title_cn": cn, "title_en": en})
        lines.setdefault(item, line)
    return table_of_texts(rows)


def read_table(
    files: Mapping[str, Path], columns: Mapping[str, str], texts: Mapping[str, str], fields: Sequence[str], bad: BadRows
) -> RawLog:
    """Tables of one's own.

    Args:
        files: inter and item, the interactions and the items; item may be absent.
        columns: user, item, time → the columns of the interactions.
        texts: item, title_en and, if there is one, title_cn → the columns of the items.
        fields: further columns of the items that are kept.
    """
    log = read_interactions(files["inter"], columns, bad)
    named = {**texts, **{_field_name(name): name for name in fields}}
    return RawLog(log, lambda ids: _own_texts(files["item"], ids, named, bad), files["inter"], files["item"], bad)


def _field_name(column: str) -> str:
    """A column's name as a lower-case word."""
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in column.lower()).strip("_")
    if not name or not name[0].isalpha() or name == "item":
        raise UserError(f"setting 'field_columns': '{column}' makes no field's name; rename the column")
    return name


def _own_texts(path: Path, ids: pl.Series, named: Mapping[str, str], bad: BadRows) -> pl.DataFrame:
    wanted = set(ids.to_list())
    lines: Dict[str, int] = {}
    rows: List[Dict[str, str]] = []
    for line, row in _item_rows(path, list(named.values()), bad):
        texts = dict(zip(named, row))
        item = texts["item"].strip()
        if item in lines:
            told = f"item {item} stands already on line {lines[item]}; keep one of the two"
            bad.found(f"{path}:{line}", "item described twice", told)
        elif item in wanted:
            rows.append({"title_cn": "", **texts, "item": item})
        lines.setdefault(item, line)
    return table_of_texts(rows, [name for name in named if name not in ("item", "title_cn", "title_en")])


def _item_rows(path: Path, columns: Sequence[str], bad: BadRows) -> Iterator[Tuple[int, List[str]]]:
    """(line, the named columns) of an item table; what is absent is empty."""
    kind = kind_of_file(path)
    if kind in ("csv", "tsv"):
        separator = "\t" if kind == "tsv" else ","
        there = header_of(path, separator)
        require_columns(path, there, columns)
        places = [there.index(name) for name in columns]
        for line, row in csv_rows(path, separator, bad, header=True):
            yield line, [row[place] for place in places]
        return
    frames = [read_parquet(path, columns).with_row_index("line", offset=1)] if kind == "parquet" else None
    for frame in frames or json_rows(path, list(dict.fromkeys(columns)), bad):
        for line, *texts in frame.select("line", *columns).fill_null("").iter_rows():
            yield line, texts
