"""Reader of your own tables of interactions and of items; the settings name files and columns."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from common.errors import UserError, nearest
from importers.raw import BadRows, Files, RawLog, joined, parsed_list
from importers.settings import Settings
from importers.tables import read_interactions, read_items


def named_files(settings: Settings) -> Files:
    """The files that the settings name."""
    if settings.source == "auto":
        raise UserError("setting 'inter_file': the format is not known; add --from table, or another KIND")
    if not settings.inter_file or not settings.item_file:
        raise UserError("name the tables of interactions and of items: inter_file=FILE item_file=FILE")
    folder = Path(settings.data_dir or ".")
    files = {"inter": folder / settings.inter_file, "item": folder / settings.item_file}
    for meaning, path in files.items():
        if not path.exists():
            near = nearest(path.name, [file.name for file in path.parent.glob("*")])
            raise UserError(f"{meaning}_file: {path}: no such file{near}")
    return files


def read(files: Files, settings: Settings, bad: BadRows) -> RawLog:
    """Read the interactions."""
    columns = {"user": settings.user_column, "item": settings.item_column, "time": settings.time_column}
    texts = {"item": settings.item_id_column, "title_en": settings.title_column}
    if settings.title_cn_column:
        texts["title_cn"] = settings.title_cn_column
    for column in settings.field_columns:  # as a lower-case word
        field = re.sub("[^a-z0-9]", "_", column.lower()).strip("_")
        if field in ("title_cn", *texts) or not field[:1].isalpha():
            raise UserError(
                f"setting 'field_columns': column '{column}' cannot be the field '{field}': it must begin with a-z and "
                "be in use once (item, title_en and title_cn are in use); rename the column, or leave it out"
            )
        texts[field] = column

    def describe(ids: pl.Series) -> pl.DataFrame:
        found = read_items(files["item"], texts, ids, bad)
        lists = {name: [joined(parsed_list(text)) for text in found[name]] for name in texts if name != "item"}
        found = found.with_columns(pl.Series(name, column, pl.String) for name, column in lists.items())
        return found if "title_cn" in texts else found.with_columns(title_cn=pl.lit(""))

    return RawLog(read_interactions(files["inter"], columns, bad), describe, files["inter"], files["item"])
