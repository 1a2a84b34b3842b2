"""Reader of LETTER's JSON files: ``<D>.inter.json`` (user → items in time order), ``<D>.item.json`` (item → texts)."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from importers.histories import log_of_histories, read_histories, read_texts
from importers.raw import BadRows, Files, RawLog
from importers.settings import Settings


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    yield {"inter": folder / f"{dataset}.inter.json", "item": folder / f"{dataset}.item.json"}


def read(files: Files, settings: Settings) -> RawLog:
    """Read the interactions."""
    histories, texts = read_histories(files["inter"]), read_texts(files["item"])
    return log_of_histories(files["inter"], files["item"], histories, texts, BadRows(settings.bad_rows))
