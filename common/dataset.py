"""The prepared data set on disk, one layout for every source (docs/data_formats.md).

<datasets_dir>/<D>/sequential_data.txt     one user a line: user item item …, zero-based, in time order
<datasets_dir>/<D>/<D>_item_sort.csv       zero-based item id, Chinese title, English title; sorted by id
<datasets_dir>/<D>/covers/<item>.jpg       optional
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import UserError
from common.files import atomic, read_text

MIN_ITEMS = 3  # one to train on, one to validate, one to test
LISTED = 20  # how many faults of one kind a message lists

csv.field_size_limit(1 << 30)  # descriptions exceed csv's 128 KiB; the importer, which writes them, reads them back

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
    """Where the users' sequences lie."""
    return Path(folder) / "sequential_data.txt"


def items_path(folder: Path, name: str) -> Path:
    """Where the items' titles lie."""
    return Path(folder) / f"{name}_item_sort.csv"


def covers_path(folder: Path) -> Path:
    """The folder of covers; a text-only data set has none."""
    return Path(folder) / "covers"


def cover_path(covers: Path, item: int) -> Path:
    """Where the cover of a zero-based item lies."""
    return covers / f"{item}.jpg"


def train_part(sequence: np.ndarray) -> np.ndarray:
    """A user's items without the last two, which are the validation and the test label."""
    return sequence[:-2]


def load_dataset(folder: Path, name: str) -> Dataset:
    """Read and check a prepared data set. Covers are not opened: `check_covers` does that.

    Raises:
        UserError: names file, line and cure for every fault listed in docs/data_formats.md.
    """
    folder = Path(folder)
    for path in (sequences_path(folder), items_path(folder, name)):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with 'python "
                f"stage1_content_modality_semantic_alignment/prepare_dataset.py -d {name}', or correct datasets_dir"
            )
    titles_cn, titles_en = _read_titles(items_path(folder, name))
    users, sequences = _read_sequences(sequences_path(folder), len(titles_cn), items_path(folder, name))
    covers = covers_path(folder)
    return Dataset(name, folder, users, sequences, titles_cn, titles_en, covers if covers.is_dir() else None)


def write_dataset(
    folder: Path, name: str, sequences: Mapping[int, Iterable[int]], titles: Iterable[Tuple[str, str]]
) -> None:
    """Write ``user → items`` and (Chinese, English) titles by item id, each file whole or not at all.

    Users keep the order of the mapping. The sequences are written last: where they stand, the titles do.
    """
    with atomic(items_path(folder, name)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        # quoted throughout: csv leaves a bare carriage return unquoted otherwise, and cannot read it back
        writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        written = [(item, cn, en) for item, (cn, en) in enumerate(titles)]
        writer.writerows(written)
    number = list(map(str, range(len(written)))).__getitem__  # in half the time of str
    with atomic(sequences_path(folder)) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as out:
        out.writelines(f"{user} {' '.join(map(number, items))}\n" for user, items in sequences.items())


def read_rows(path: Path, columns: int, meaning: str) -> Iterator[Tuple[int, List[str]]]:
    """Yield (line on which the row begins, its fields) of a UTF-8 CSV file; blank lines are passed over.

    Fields may hold commas, quotes and line breaks, quoted as usual.

    Args:
        meaning: the columns in words, for the message about a wrong count.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row and len(row) != columns:
                raise UserError(
                    f"{path}:{line}: {len(row)} columns where {columns} belong ({meaning}); "
                    "put fields that hold commas between double quotes"
                )
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not CSV: {error}; double the quotes inside a quoted field") from error


def fill_titles(path: Path, line: int, cn: str, en: str) -> Tuple[str, str]:
    """An item needs one title that is more than blanks: a missing one is filled from the other language."""
    if not cn.strip() and not en.strip():
        raise UserError(f"{path}:{line}: the title is empty in both languages; give one, or take the item out")
    return (cn if cn.strip() else en), (en if en.strip() else cn)


def _read_titles(path: Path) -> Tuple[List[str], List[str]]:
    titles: Dict[int, Tuple[str, str]] = {}
    lines: Dict[int, int] = {}
    for line, (id_text, cn, en) in read_rows(path, 3, "item id, Chinese title, English title"):
        if not (id_text.isascii() and id_text.isdigit() and len(id_text) <= 18):
            raise UserError(f"{path}:{line}: item id '{id_text}' is not a zero-based integer; there is no header")
        item = int(id_text)
        if item in titles:
            raise UserError(f"{path}:{line}: item {item} stands already on line {lines[item]}; keep one of the two")
        titles[item], lines[item] = fill_titles(path, line, cn, en), line
    if not titles:
        raise UserError(f"{path}:1: holds no items; it needs one row an item")
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
        raise UserError(f"{path}:1: holds no users; it needs one line a user: user item item …")
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
    """How many numbers each line holds, (lines,); whole arrays at a time, for millions of lines."""
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
            f"{MIN_ITEMS}: the last is for test, the one before for validation; take such users out "
            f"({len(short)} of {len(users)})"
        )
    if (np.diff(users) > 0).all():
        return
    _, first_place, inverse = np.unique(users, return_index=True, return_inverse=True)
    again = np.flatnonzero(first_place[inverse] != np.arange(len(users)))
    if len(again):
        line, earlier = line_numbers[again[0]], line_numbers[first_place[inverse[again[0]]]]
        raise UserError(f"{path}:{line}: user {users[again[0]]} stands already on line {earlier}; join the two lines")


def covers_checksum(covers: Path, suffixes: Tuple[str, ...] = (".jpg",)) -> str:
    """SHA-256 of a covers folder's names and sizes, not contents: thousands of files in some milliseconds."""
    with os.scandir(covers) as entries:
        listing = sorted(f"{entry.name} {entry.stat().st_size}\n" for entry in entries if entry.name.endswith(suffixes))
    return hashlib.sha256("".join(listing).encode("utf-8", "surrogateescape")).hexdigest()


def cover_fault(cover: Path) -> Optional[str]:
    """Why a cover cannot be used, or None: it is decoded whole."""
    return picture_fault(cover) if cover.is_file() else "missing"


def picture_fault(picture: Union[Path, BinaryIO]) -> Optional[str]:
    """Why a picture cannot be decoded, or None."""
    try:
        with Image.open(picture) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"does not decode: {error}"
    return None


def cover_faults(covers: Sequence[Path]) -> Dict[int, str]:
    """Position → fault, for those of the covers that cannot be used. Opens every one."""
    faults = {}
    for place, cover in enumerate(tqdm(covers, desc="covers checked", disable=None, unit="cover", leave=False)):
        fault = cover_fault(cover)
        if fault:
            faults[place] = fault
    return faults


def describe_cover_faults(covers: Sequence[Path], faults: Mapping[int, str]) -> str:
    """How many covers cannot be used, the cure, and the first of them, one a line."""
    listed = [f"\n  {covers[place]}: {fault}" for place, fault in list(faults.items())[:LISTED]]
    more = [f"\n  … and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return (
        f"{covers[0].parent}: {len(faults)} of {len(covers)} covers cannot be used; mend them, or go on without them "
        f"with missing_covers=zero:{''.join(listed + more)}"
    )


def check_covers(dataset: Dataset, without: Collection[int] = ()) -> None:
    """Open every cover of a data set, but for those of the items ``without``.

    Raises:
        UserError: no covers at all, or some that are missing or do not decode: the first 20 and the count.
    """
    if dataset.covers is None:
        raise UserError(
            f"{covers_path(dataset.folder)}: no such folder; put <item>.jpg there, or use modalities=[text]"
        )
    paths = [cover_path(dataset.covers, item) for item in range(dataset.n_items) if item not in without]
    faults = cover_faults(paths)
    if faults:
        raise UserError(describe_cover_faults(paths, faults))
