"""Reader of LETTER's JSON files: ``<D>.inter.json`` (user → items in time order), ``<D>.item.json`` (item → texts)."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from importers.histories import log_of_histories, read_histories, read_texts
from importers.raw import BadRows, Files, RawLog


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    yield {"inter": folder / f"{dataset}.inter.json", "item": folder / f"{dataset}.item.json"}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions."""
    return log_of_histories(files["inter"], files["item"], read_histories(files["inter"]), read_texts(files["item"]))
