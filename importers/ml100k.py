"""Reader of MovieLens 100K in RecBole's files ``ml-100k.inter`` and ``ml-100k.item``."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Iterator

import polars as pl

from common.errors import UserError
from importers.raw import BadRows, Files, RawLog
from importers.tables import read_interactions, read_items

RATINGS = {"user": "user_id", "item": "item_id", "time": "timestamp"}
FILMS = {"item": "item_id", "title": "movie_title", "year": "release_year", "genres": "class"}


def folder_in_recbole() -> Path:
    """The folder of MovieLens 100K inside the installed recbole, which is not imported for it."""
    found = importlib.util.find_spec("recbole")
    if found is None or not found.submodule_search_locations:
        raise UserError("recbole, which holds MovieLens 100K, is not installed: pip install -r requirements.txt")
    return Path(found.submodule_search_locations[0]) / "dataset_example" / "ml-100k"


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files, which have the same name for every data set."""
    yield {"inter": folder / "ml-100k.inter", "item": folder / "ml-100k.item"}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read all ratings as interactions.

    The title in both languages is ``film (year): genre, genre``; the fields title and category hold the two parts.
    """

    def describe(ids: pl.Series) -> pl.DataFrame:
        films = read_items(files["item"], FILMS, ids, bad)
        titles = [dated(title, year) for title, year in films.select("title", "year").iter_rows()]
        genres = [", ".join(words.split()) for words in films["genres"]]
        full = [f"{title}: {words}" if words else title for title, words in zip(titles, genres)]
        columns = {"title_cn": full, "title_en": full, "title": titles, "category": genres}
        return films.select("item").with_columns(pl.Series(name, texts, pl.String) for name, texts in columns.items())

    log = read_interactions(files["inter"], RATINGS, bad)
    return RawLog(log, describe, files["inter"], files["item"], numbered=True)


def dated(title: str, year: str) -> str:
    """``title (year)``; the year is not repeated, and left out where it is not known."""
    return f"{title} ({year})" if re.fullmatch("[0-9]{4}", year) and not title.endswith(f"({year})") else title
