"""The prepared data set on disk, one layout for every source (docs/data_formats.md).

<datasets_dir>/<D>/sequential_data.txt     one line per user: user item item …, zero-based, in time order
<datasets_dir>/<D>/<D>_item_sort.csv       zero-based item id, Chinese title, English title; sorted by id
<datasets_dir>/<D>/covers/<item>.jpg       optional
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np

from common.errors import UserError
from common.files import atomic, read_text

MIN_ITEMS = 3  # one to train on, one to validate, one to test
LISTED = 20  # number of faults of one kind that a message lists

csv.field_size_limit(1 << 30)  # descriptions of items exceed csv's 128 KiB

_NO_NUMBER = re.compile(r"[0-9]*[^0-9 \t\r\n]\S*|[0-9]{19,}", re.ASCII)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. Item ids index ``titles_cn`` and ``titles_en``."""

    name: str
    folder: Path
    users: List[int]
    sequences: List[np.ndarray]
    titles_cn: List[str]
    titles_en: List[str]
    covers: Optional[Path]

    @property
    def n_items(self) -> int:
        """Number of items; ids run from 0 to n_items - 1."""
        return len(self.titles_cn)

    def titles(self, language: str) -> List[str]:
        """Titles by item id; ``language`` is ``cn`` or ``en``."""
        return self.titles_cn if language == "cn" else self.titles_en


def sequences_path(folder: Path) -> Path:
    """File of the users' sequences."""
    return Path(folder) / "sequential_data.txt"


def items_path(folder: Path, name: str) -> Path:
    """File of the items' titles."""
    return Path(folder) / f"{name}_item_sort.csv"


def covers_path(folder: Path) -> Path:
    """Folder of covers; a text-only data set has none."""
    return Path(folder) / "covers"


def cover_path(covers: Path, item: int) -> Path:
    """File of the cover of a zero-based item."""
    return covers / f"{item}.jpg"


def train_part(sequence: np.ndarray) -> np.ndarray:
    """A user's items without the last two, which are the validation and the test label."""
    return sequence[:-2]


def check_prepared(folder: Path, name: str) -> None:
    """Raise a `UserError` if a prepared data set's files are missing."""
    for path in (sequences_path(folder), items_path(folder, name)):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with 'python "
                f"stage1_content_modality_semantic_alignment/prepare_dataset.py -d {name}', or correct datasets_dir"
            )


def load_dataset(folder: Path, name: str) -> Dataset:
    """Read and check a prepared data set. Covers are not opened; see `common.covers.check_covers`.

    Raises:
        UserError: file, line and fix of a fault; docs/data_formats.md lists them.
    """
    folder = Path(folder)
    check_prepared(folder, name)
    titles_cn, titles_en = _read_titles(items_path(folder, name))
    users, sequences = _read_sequences(sequences_path(folder), len(titles_cn), items_path(folder, name))
    covers = covers_path(folder)
    return Dataset(name, folder, users, sequences, titles_cn, titles_en, covers if covers.is_dir() else None)


def write_dataset(
    folder: Path, name: str, sequences: Mapping[int, Union[List[int], np.ndarray]], titles: Iterable[Tuple[str, str]]
) -> None:
    """Write user → items, in the order of the mapping, and the Chinese and English title of each item, atomically.

    The sequences are written last: if they are there, the titles are.
    """
    with atomic(items_path(folder, name)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        # all texts are quoted: csv would leave a lone carriage return unquoted, and fail to read it
        writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        written = [(item, cn, en) for item, (cn, en) in enumerate(titles)]
        writer.writerows(written)
    number = list(map(str, range(len(written)))).__getitem__  # half the time of str
    with atomic(sequences_path(folder)) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as out:
        for user, items in sequences.items():
            out.write(f"{user} {' '.join(map(number, np.asarray(items).tolist()))}\n")


def read_rows(path: Path, columns: Optional[int], meaning: str) -> Iterator[Tuple[int, List[str]]]:
    """Yield the line on which each row of a UTF-8 CSV file begins, and its fields; blank lines are skipped.

    Args:
        columns: number of columns; None: as many as the first row has.
        meaning: the columns in words, for the message about a wrong number.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            columns = columns or len(row)
            if row and len(row) != columns:
                raise UserError(
                    f"{path}:{line}: {len(row)} columns instead of {columns} ({meaning}); put fields that hold commas "
                    "in double quotes"
                )
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not CSV: {error}; double the quotes inside a quoted field") from error


def fill_titles(path: Path, line: int, cn: str, en: str) -> Tuple[str, str]:
    """Fill a missing title from the other language; one of the two must be more than blanks."""
    if not cn.strip() and not en.strip():
        raise UserError(f"{path}:{line}: the title is empty in both languages; add one, or remove the item")
    return (cn if cn.strip() else en), (en if en.strip() else cn)


def _read_titles(path: Path) -> Tuple[List[str], List[str]]:
    titles: Dict[int, Tuple[str, str]] = {}
    lines: Dict[int, int] = {}
    for line, (id_text, cn, en) in read_rows(path, 3, "item id, Chinese title, English title"):
        if not (id_text.isascii() and id_text.isdigit() and len(id_text) <= 18):
            raise UserError(f"{path}:{line}: item id '{id_text}' is not a zero-based integer; there is no header")
        item = int(id_text)
        if item in titles:
            raise UserError(f"{path}:{line}: item {item} is already on line {lines[item]}; keep one of the two")
        titles[item], lines[item] = fill_titles(path, line, cn, en), line
    if not titles:
        raise UserError(f"{path}:1: holds no items; it needs one row per item")
    absent = next((item for item in range(len(titles)) if item not in titles), None)
    if absent is not None:
        beyond = min(item for item in titles if item > absent)
        raise UserError(
            f"{path}:{lines[beyond]}: item {beyond} has a row, item {absent} has none; number the items 0, 1, 2, … "
            "without gaps"
        )
    ordered = [titles[item] for item in range(len(titles))]
    return [cn for cn, _ in ordered], [en for _, en in ordered]


def _read_sequences(path: Path, n_items: int, items_file: Path) -> Tuple[List[int], List[np.ndarray]]:
    text = read_text(path)
    sizes = _numbers_by_line(path, text)
    line_numbers = np.flatnonzero(sizes) + 1
    sizes = sizes[sizes > 0]
    if not len(sizes):
        raise UserError(f"{path}:1: holds no users; it needs one line per user: user item item …")
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    starts = np.cumsum(sizes) - sizes
    _check_users(path, numbers[starts], sizes - 1, line_numbers)
    is_item = np.ones(len(numbers), dtype=bool)
    is_item[starts] = False
    unknown = np.flatnonzero(is_item & (numbers >= n_items))
    if len(unknown):
        line = line_numbers[np.searchsorted(starts, unknown[0], side="right") - 1]
        raise UserError(f"{path}:{line}: item {numbers[unknown[0]]} has no row in {items_file}; add it there")
    sequences = [numbers[start + 1 : start + size] for start, size in zip(starts.tolist(), sizes.tolist())]
    return numbers[starts].tolist(), sequences


def _numbers_by_line(path: Path, text: str) -> np.ndarray:
    """The number of numbers in each line, (lines,); vectorised, for millions of lines."""
    data = text.encode()
    characters = np.frombuffer(data, dtype=np.uint8)
    digit = np.concatenate(([False], characters - np.uint8(ord("0")) < 10, [False]))
    starts, ends = np.flatnonzero(digit[1:] & ~digit[:-1]), np.flatnonzero(digit[:-1] & ~digit[1:])
    longest = np.max(ends - starts, initial=0)
    fault = _NO_NUMBER.search(text) if longest >= 19 or data.translate(None, b"0123456789 \t\r\n") else None
    if fault:
        line = text.count("\n", 0, fault.start()) + 1
        raise UserError(f"{path}:{line}: '{fault.group()[:40]}' is not a zero-based integer; write: user item item …")
    line_ends = np.append(np.flatnonzero(characters == ord("\n")), len(data))
    return np.diff(np.searchsorted(starts, line_ends), prepend=0)


def _check_users(path: Path, users: np.ndarray, lengths: np.ndarray, line_numbers: np.ndarray) -> None:
    short = np.flatnonzero(lengths < MIN_ITEMS)
    if len(short):
        raise UserError(
            f"{path}:{line_numbers[short[0]]}: user {users[short[0]]} has {lengths[short[0]]} items, fewer than "
            f"{MIN_ITEMS}: the last is for test, the one before for validation; remove such users "
            f"({len(short)} of {len(users)})"
        )
    if (np.diff(users) > 0).all():
        return
    _, first_place, inverse = np.unique(users, return_index=True, return_inverse=True)
    again = np.flatnonzero(first_place[inverse] != np.arange(len(users)))
    if len(again):
        line, earlier = line_numbers[again[0]], line_numbers[first_place[inverse[again[0]]]]
        raise UserError(f"{path}:{line}: user {users[again[0]]} is already on line {earlier}; join the two lines")
