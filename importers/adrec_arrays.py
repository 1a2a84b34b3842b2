"""Reader of ADRec's released layout: training rows as arrays, and a pickle of the items' texts.

``<D>_process/train/{items_seq,label,masks}.npy``, padded with 0 on the right; ``<D>_process/id_to_side_dict.pickle``.
The authors' folders of Scientific and Office are ``Scientifics_process`` and ``Offices_process``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Tuple
from zipfile import BadZipFile

import numpy as np

from common.errors import UserError
from importers.histories import log_of_histories
from importers.raw import BadRows, Files, RawLog, clean, joined

SIDES = ("title", "brand", "category")  # the order where an entry is a list


def files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files, in the folder itself or in its ``<D>_process`` or ``<D>s_process``."""
    for home in (folder, folder / f"{dataset}_process", folder / f"{dataset}s_process"):
        arrays = {name: home / "train" / f"{name}.npy" for name in ("items_seq", "label", "masks")}
        yield {**arrays, "sides": home / "id_to_side_dict.pickle"}


def read(files: Files, bad: BadRows) -> RawLog:
    """Read the sequences whose prefixes the rows are; a row that continues the one before belongs to the same user.

    The arrays hold training rows only, without users: the last two items of each sequence are held out again.
    """
    rows = list(_rows(files))
    forward, backward = _chains(rows), _chains(rows[::-1])  # rows may go from the longest to the shortest
    chains = forward if len(forward) <= len(backward) else backward[::-1]
    histories = {str(user): [str(item) for item in items] for user, items in enumerate(chains)}
    return log_of_histories(files["items_seq"], files["sides"], histories, _sides(files["sides"]))


def _rows(files: Files) -> Iterator[Tuple[List[int], int]]:
    """(history, label) of each row."""
    arrays = {name: _array(files[name]) for name in ("items_seq", "label", "masks")}
    sequences, masks, labels = arrays["items_seq"], arrays["masks"].astype(bool), arrays["label"].reshape(-1)
    if sequences.ndim != 2 or masks.shape != sequences.shape or len(labels) != len(sequences):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(f"{files['items_seq']}: the arrays do not fit each other: {shapes}; download them again")
    for items, mask, label in zip(sequences, masks, labels.tolist()):
        yield items[mask].tolist(), label


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
        with np.errstate(invalid="ignore"):
            numbers: np.ndarray = array.astype(np.int64)
        if (numbers != array).any():
            raise ValueError("some are not whole numbers")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile, AttributeError) as error:  # an empty file, an .npz
        raise UserError(f"{path}: not an array of numbers: {error}; download it again") from error
    return numbers


def _chains(rows: List[Tuple[List[int], int]]) -> List[List[int]]:
    """The sequence of each run of rows that continue one another."""
    chains: List[List[int]] = []
    expected: List[int] = []
    for history, label in rows:
        if chains and len(history) > 1 and history in (expected, expected[1:]):  # a long one is cut to its last L
            chains[-1].append(label)
        else:
            chains.append([*history, label])
        expected = [*history, label]
    return chains


def _sides(path: Path) -> Dict[str, Dict[str, str]]:
    """Item → field → text."""
    from common.checkpoints import load_plain_pickle  # imports torch

    try:
        content = clean(load_plain_pickle(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: holds bytes that are not UTF-8: {error}; write its texts as str") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: not a mapping with content of item to title, brand, category; download it again")
    texts = {}
    for item, entry in content.items():
        if isinstance(entry, (list, tuple)) and len(entry) == len(SIDES):
            entry = dict(zip(SIDES, entry))
        if not isinstance(entry, dict):
            raise UserError(f"{path}: item {item}: neither a mapping of texts nor title, brand, category; correct it")
        texts[str(item)] = {name: joined(entry[name] or "") for name in SIDES if name in entry}
    return texts
