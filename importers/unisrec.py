"""Reader of UniSRec's downstream data sets.

``<D>.{train,valid,test}.inter`` (user, history, next item), ``<D>.text`` (item, text) and ``<D>.{user,item}2index``
(original id, number).
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Mapping

from common.errors import UserError
from importers.histories import log_of_histories, original_ids
from importers.raw import BadRows, Files, RawLog
from importers.tables import read_frames

PARTS = ("train", "valid", "test")


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a data set."""
    parts = {part: folder / f"{dataset}.{part}.inter" for part in PARTS}
    yield {**parts, **{name: folder / f"{dataset}.{name}" for name in ("text", "user2index", "item2index")}}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the interactions. A history may be cut to its last 50 items, so the targets of all rows are joined."""
    rows: Dict[str, Dict[str, List[List[str]]]] = {}  # user → part → history and target of each row
    for part in PARTS:
        for frame in read_frames(files[part], ("user_id", "item_id_list", "item_id"), bad):
            for user, history, target, line in frame.iter_rows():
                if user and history.split() and target:
                    rows.setdefault(user, {}).setdefault(part, []).append([*history.split(), target])
                else:
                    bad.found(files[part], line, "a row without user, history or target")
    histories = {user: _join(files["train"], user, parts) for user, parts in rows.items()}
    texts = {item: {"title": text} for item, text in _pairs(files["text"], bad, header=True).items()}
    user_names, item_names = (
        original_ids(files[name], _pairs(files[name], bad, header=False)) for name in ("user2index", "item2index")
    )
    return log_of_histories(files["train"], files["text"], histories, texts, user_names, item_names)


def _pairs(path: Path, bad: BadRows, header: bool) -> Dict[str, str]:
    """First column → second."""
    frames = read_frames(path, ("item_id", "text"), bad, header)
    return {key: value for frame in frames for key, value, _ in frame.iter_rows()}


def _join(path: Path, user: str, parts: Mapping[str, List[List[str]]]) -> List[str]:
    """A user's sequence from rows that are its prefixes; train rows go from the shortest to the longest, or back."""
    train = parts.get("train", [])
    if len(train) > 1 and len(train[0]) > len(train[-1]):
        train = train[::-1]
    rows = [*train, *(parts[part][0] for part in PARTS[1:] if part in parts)]
    sequence = [*rows[0][:-1], *(row[-1] for row in rows)]
    ends = range(len(sequence) - len(rows), len(sequence))
    prefixes = all(sequence[max(0, end + 1 - len(row)) : end] == row[:-1] for end, row in zip(ends, rows))
    if len(parts.get("test", [])) > 1 or not prefixes:
        raise UserError(f"{path}: user {user}: the rows are not prefixes of one sequence; download the files again")
    return sequence
