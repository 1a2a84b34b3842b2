"""Reader of NineRec's raw files: ``<D>_pair.csv`` (user, item, timestamp), ``<D>_item.csv`` (item, two titles)."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import polars as pl

from importers.raw import BadRows, Files, RawLog
from importers.tables import read_interactions, read_items

PAIR = {"user": "user", "item": "item", "time": "timestamp"}
TEXTS = {"item": "item", "title_cn": "Chinese title", "title_en": "English title"}


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    yield {"pair": folder / f"{dataset}_pair.csv", "item": folder / f"{dataset}_item.csv"}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions. The files have no header, or the pair file has one."""

    def describe(ids: pl.Series) -> pl.DataFrame:
        texts = read_items(files["item"], TEXTS, ids, bad, header=False)
        cn, en = pl.col("title_cn"), pl.col("title_en")
        filled = [
            pl.when(one.str.strip_chars() != "").then(one).otherwise(other) for one, other in ((cn, en), (en, cn))
        ]
        return texts.with_columns(title_cn=filled[0], title_en=filled[1])

    log = read_interactions(files["pair"], PAIR, bad, header=False)
    return RawLog(log, describe, files["pair"], files["item"])
