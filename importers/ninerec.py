"""Reader of NineRec's raw files: ``<D>_pair.csv`` (user, item, timestamp), ``<D>_item.csv`` (item, two titles)."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from importers.raw import BadRows, Files, RawLog
from importers.tables import read_interactions, read_items

PAIR = {"user": "user", "item": "item", "time": "timestamp"}
TEXTS = {"item": "item", "title_cn": "Chinese title", "title_en": "English title"}


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    yield {"pair": folder / f"{dataset}_pair.csv", "item": folder / f"{dataset}_item.csv"}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions. The files have no header, or the pair file has one."""
    pair, item = files["pair"], files["item"]
    log = read_interactions(pair, PAIR, bad, header=False)
    return RawLog(log, lambda ids: read_items(item, TEXTS, ids, bad, header=False), pair, item)
