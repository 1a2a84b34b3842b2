"""Reader of RecFormer's processed folder.

``{train,val,test}.json`` map a user's number to the numbers of items; ``umap.json`` and ``smap.json`` map original ids
to these numbers, ``meta_data.json`` original ids to texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from importers.histories import log_of_histories, original_ids, read_histories, read_object, read_texts
from importers.raw import BadRows, Files, RawLog


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set; umap.json is the one that only RecFormer has."""
    yield {name: folder / f"{name}.json" for name in ("umap", "train", "val", "test", "smap", "meta_data")}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions: a user's items of train, then of val, then of test."""
    parts = [read_histories(files[part]) for part in ("train", "val", "test")]
    users = dict.fromkeys(user for part in parts for user in part)
    histories = {user: [item for part in parts for item in part.get(user, [])] for user in users}
    user_names = original_ids(files["umap"], read_object(files["umap"], "id to number"))
    item_names = original_ids(files["smap"], read_object(files["smap"], "id to number"))
    described = read_texts(files["meta_data"])
    texts = {number: described[original] for number, original in item_names.items() if original in described}
    return log_of_histories(files["train"], files["meta_data"], histories, texts, user_names, item_names)
