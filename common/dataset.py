"""The prepared data set on disk, one layout for every source (docs/data_formats.md).

<datasets_dir>/<D>/sequential_data.txt     one line per user: user item item …, zero-based, in time order
<datasets_dir>/<D>/<D>_item_sort.csv       zero-based item id, Chinese title, English title; sorted by id
<datasets_dir>/<D>/interaction_times.npy   optional: (interactions,) seconds, in the order of sequential_data.txt
<datasets_dir>/<D>/covers/<item>.jpg       optional
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from common.arrays import Slices, starts_of
from common.errors import UserError, nearest
from common.files import atomic, read_bytes, read_text

MIN_ITEMS = 3  # one to train on, one to validate, one to test
LISTED = 20  # number of faults of one kind that a message lists

csv.field_size_limit(1 << 30)  # descriptions of items exceed csv's 128 KiB

_INTEGER = re.compile("[0-9]{1,18}")
_BLOCK = 1 << 22  # bytes that are parsed at once; their arrays fit in the cache


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. Item ids index ``titles_cn`` and ``titles_en``."""

    name: str
    folder: Path
    users: np.ndarray  # (users,) int64 ids, in the order of the file
    items: np.ndarray  # (interactions,) int32, all sequences end to end
    starts: np.ndarray  # (users + 1,) int64, where each sequence starts in items, and where the last one ends
    titles_cn: List[str]
    titles_en: List[str]
    covers: Optional[Path]

    @property
    def sequences(self) -> Slices:
        """The items of each user, as views."""
        return Slices(self.items, self.starts)

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


def times_path(folder: Path) -> Path:
    """File of the times of the interactions; sources without times have none."""
    return Path(folder) / "interaction_times.npy"


def covers_path(folder: Path) -> Path:
    """Folder of covers; a text-only data set has none."""
    return Path(folder) / "covers"


def cover_path(covers: Path, item: int) -> Path:
    """File of the cover of a zero-based item."""
    return covers / f"{item}.jpg"


def check_prepared(folder: Path, name: str) -> None:
    """Raise a `UserError` if a prepared data set's files are missing."""
    for path in (sequences_path(folder), items_path(folder, name)):
        if not path.is_file():
            others = [other.name for other in folder.parent.glob("*/") if sequences_path(other).is_file()]
            raise UserError(
                f"{path}: no such file; make it with 'python "
                f"stage1_content_modality_semantic_alignment/prepare_dataset.py -d {name}', or correct datasets_dir"
                f"{nearest(name, others)}"
            )


def check_times(path: Path) -> None:
    """Raise a `UserError` if the file of the times is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; prepare the data set again, from a source that has times")


def load_dataset(folder: Path, name: str) -> Dataset:
    """Read and check a prepared data set. Covers are not opened; see `common.covers.check_covers`.

    Raises:
        UserError: a fault, with its file and line.
    """
    folder = Path(folder)
    check_prepared(folder, name)
    titles_cn, titles_en = _read_titles(items_path(folder, name))
    sequences = _read_sequences(sequences_path(folder), len(titles_cn), items_path(folder, name))
    covers = covers_path(folder)
    return Dataset(name, folder, *sequences, titles_cn, titles_en, covers if covers.is_dir() else None)


def read_times(dataset: Dataset) -> np.ndarray:
    """The times of all interactions, in the order of the sequences end to end: (interactions,) float64.

    Raises:
        UserError: the file is missing, is not that, or a user's times are not in order.
    """
    path, n = times_path(dataset.folder), len(dataset.items)
    check_times(path)
    try:
        times = np.load(path, allow_pickle=False).astype(np.float64)
    except Exception as error:  # a damaged file raises nearly anything: tokenize.TokenError, SyntaxError, …
        raise UserError(f"{path}: not a whole npy file of numbers: {error}; write it with numpy.save") from error
    if times.shape != (n,) or not np.isfinite(times).all():
        raise UserError(f"{path}: shape {times.shape}; it must hold the times of {n} interactions, all finite, ({n},)")
    back = np.diff(times) < 0
    back[dataset.starts[1:-1] - 1] = False  # to the next user
    if back.any():
        user = dataset.users[np.searchsorted(dataset.starts, back.argmax(), side="right") - 1]
        raise UserError(f"{path}: the times of user {user} are not in order; sort both files")
    return times


def write_dataset(
    folder: Path,
    name: str,
    sequences: Iterable[Tuple[int, Union[List[int], np.ndarray]]],
    titles: Iterable[Tuple[str, str]],
    times: Optional[np.ndarray] = None,
) -> None:
    """Write the items of each user, in the order given, the Chinese and English title of each item, and the times.

    Each file is written atomically, the sequences last: if they are there, the others are.
    """
    rows = [(item, cn, en) for item, (cn, en) in enumerate(titles)]
    write_rows(items_path(folder, name), rows)
    if times is not None:
        with atomic(times_path(folder)) as temporary, open(temporary, "wb") as out_times:
            np.save(out_times, times.astype(np.float64))
    number = list(map(str, range(len(rows)))).__getitem__  # half the time of str
    with atomic(sequences_path(folder)) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as out:
        for user, items in sequences:
            out.write(f"{user} {' '.join(map(number, np.asarray(items).tolist()))}\n")


def write_rows(path: Path, rows: Iterable[Sequence[Union[int, str]]], header: Sequence[str] = ()) -> None:
    """Write a UTF-8 CSV file atomically. All texts of the rows are quoted: a lone carriage return needs it."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        if header:
            csv.writer(out, lineterminator="\n").writerow(header)
        csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)


def read_rows(path: Path, columns: Optional[int], meaning: str) -> Iterator[Tuple[int, List[str]]]:
    """Yield the line on which each row of a UTF-8 CSV file begins, and its fields; blank lines are skipped.

    Args:
        columns: number of columns; None: as many as the first row has.
        meaning: the columns in words, for the message about a wrong number.
    """
    for line, row in csv_rows(path, io.StringIO(read_text(path), newline="")):
        columns = columns or len(row)
        if len(row) != columns:
            fix = "put a comma between fields" if len(row) < columns else "put fields that hold commas in double quotes"
            number = f"{len(row)} column{'s' if len(row) > 1 else ''}"
            raise UserError(f"{path}:{line}: {number} instead of {columns} ({meaning}); {fix}")
        yield line, row


def csv_rows(
    path: Path, lines: Iterable[str], delimiter: str = ",", quotes: bool = True
) -> Iterator[Tuple[int, List[str]]]:
    """Yield the line on which each row of a CSV file begins, and its fields; blank lines are skipped.

    Raises:
        UserError: broken quotes.
    """
    texts = (line.replace("\0", "?") for line in lines)  # Python 3.10 and earlier refuse NUL
    reader = csv.reader(
        texts, strict=True, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not CSV: {error}; double the quotes inside a quoted field") from error


def fill_titles(cn: str, en: str) -> Tuple[str, str]:
    """Fill a blank title from the other language; if both are blank, they stay (three items of Bili_Cartoon)."""
    return (cn if cn.strip() else en), (en if en.strip() else cn)


def _read_titles(path: Path) -> Tuple[List[str], List[str]]:
    titles: Dict[int, Tuple[str, str]] = {}
    lines: Dict[int, int] = {}
    for line, (id_text, cn, en) in read_rows(path, 3, "item id, Chinese title, English title"):
        if not _INTEGER.fullmatch(id_text):
            raise UserError(f"{path}:{line}: item id '{id_text}' is not a zero-based integer; there is no header")
        item = int(id_text)
        if item in titles:
            raise UserError(f"{path}:{line}: item {item} is already on line {lines[item]}; keep one of the two")
        titles[item], lines[item] = fill_titles(cn, en), line
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


def _read_sequences(path: Path, n_items: int, items_file: Path) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``users``, ``items`` and ``starts`` of a `Dataset`."""
    found = _parse_sequences(io.BytesIO(read_bytes(path)), n_items)
    if found is None:
        found = _parse_sequences(io.BytesIO(_checked_sequences(path, n_items, items_file)), n_items)
        assert found is not None
    return found


def _parse_sequences(file: BinaryIO, n_items: int) -> Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`_read_sequences` of a file of digits, single blanks and line ends; None if it has anything else or a fault."""
    users, items, lengths = [], [], []
    for block in iter(lambda: file.read(_BLOCK) + file.readline(), b""):
        if block.translate(None, b"0123456789 \r\n"):
            return None
        if block.isspace():
            continue
        numbers = np.fromstring(block, np.int64, sep=" ")
        text = np.frombuffer(b" " + block + b"\n", np.uint8)
        begin = np.flatnonzero((text[1:] >= ord("0")) & (text[:-1] < ord("0")))  # of each number
        if (np.diff(begin, append=len(block)) > 19).any() or (numbers >= 10**18).any():
            return None
        counts = np.diff(np.searchsorted(begin, np.flatnonzero(text[1:] == ord("\n"))), prepend=0)  # of each line
        counts = counts[counts > 0]
        first = starts_of(counts)[:-1]
        ids = np.delete(numbers, first)
        if (ids >= n_items).any():
            return None
        users.append(numbers[first])
        items.append(ids.astype(np.int32))
        lengths.append(counts - 1)
    user, length = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (users, lengths))
    if not len(user) or length.min() < MIN_ITEMS or len(np.unique(user)) < len(user):
        return None
    return user, np.concatenate(items), starts_of(length)


def _checked_sequences(path: Path, n_items: int, items_file: Path) -> bytes:
    """The file with single blanks and without blank lines.

    Raises:
        UserError: the first fault.
    """
    lines: Dict[int, int] = {}  # user → line
    found = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        words = text.split()
        if not words:
            continue
        wrong = next((word for word in words if not _INTEGER.fullmatch(word)), None)
        if wrong:
            raise UserError(f"{path}:{line}: '{wrong[:40]}' is not a zero-based integer; write: user item item …")
        user, *items = map(int, words)
        if len(items) < MIN_ITEMS:
            raise UserError(
                f"{path}:{line}: user {user} has {len(items)} items, fewer than {MIN_ITEMS}: the last is for test, the "
                "one before for validation; remove such users"
            )
        if user in lines:
            raise UserError(f"{path}:{line}: user {user} is already on line {lines[user]}; join the two lines")
        if max(items) >= n_items:
            unknown = next(item for item in items if item >= n_items)
            raise UserError(f"{path}:{line}: item {unknown} has no row in {items_file}; add it there")
        lines[user] = line
        found.append(" ".join(words))
    if not found:
        raise UserError(f"{path}:1: holds no users; it needs one line per user: user item item …")
    return "\n".join(found).encode("ascii")
