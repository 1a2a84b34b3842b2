"""Reads files, gzipped or not, as blocks of whole lines, and tells where one is cut short, damaged or not UTF-8."""

from __future__ import annotations

import csv
import gzip
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Deque, Iterable, Iterator, List, Sequence, Tuple, TypeVar

from isal import igzip, isal_zlib

from common.errors import UserError, nearest

BLOCK = 8 << 20  # bytes; with 32 MB, fresh memory cost more time than unzipping
AHEAD = 2  # threads that work on the next blocks; polars' work in them runs at once
BOM = b"\xef\xbb\xbf"
DAMAGED: Any = (EOFError, isal_zlib.error, gzip.BadGzipFile)
In = TypeVar("In")
Out = TypeVar("Out")


def blocks(path: Path) -> Iterator[Tuple[int, int, bytes]]:
    """(first line's number, number of lines, these) of a file; the next ones are unzipped while these are used."""
    with ThreadPoolExecutor(1) as executor:
        blocks = _whole_lines(path)
        coming = executor.submit(next, blocks, None)
        while True:
            found = coming.result()
            if found is None:
                return
            coming = executor.submit(next, blocks, None)
            yield found


def ahead(work: Callable[[In], Out], parts: Iterable[In]) -> Iterator[Tuple[In, Out]]:
    """Each part and what ``work`` makes of it, in order, while threads work on the next ones."""
    coming: Deque[Tuple[In, Future[Out]]] = deque()
    with ThreadPoolExecutor(AHEAD) as executor:
        for part in parts:
            coming.append((part, executor.submit(work, part)))
            if len(coming) > AHEAD:
                first, made = coming.popleft()
                yield first, made.result()
        for first, made in coming:
            yield first, made.result()


def _whole_lines(path: Path) -> Iterator[Tuple[int, int, bytes]]:
    line = 1
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: Any = igzip.IGzipFile(fileobj=raw) if zipped else raw
            start = file.read(len(BOM))
            start = b"" if start == BOM else start
            while True:
                block = start + file.read(BLOCK) + file.readline()
                if not block:
                    return
                count = block.count(b"\n") + (not block.endswith(b"\n"))
                yield line, count, block
                start, line = b"", line + count
    except DAMAGED as error:
        raise UserError(f"{path}:{line}: gzip that is cut short or damaged, after this line; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def decoded(path: Path, data: bytes) -> str:
    """UTF-8 text; an error names the line."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; convert it, for example with iconv -t UTF-8") from error


def read_bytes(path: Path) -> bytes:
    """A file's content, unzipped where it is gzip, without a byte-order mark."""
    return b"".join(block for *_, block in blocks(path))


def header_of(path: Path, separator: str) -> List[str]:
    """The fields of a file's first row."""
    first = next((block for *_, block in blocks(path)), b"")
    try:
        return next(csv.reader(io.StringIO(decoded(path, first), newline=""), delimiter=separator), [])
    except csv.Error as error:
        raise UserError(f"{path}:1: not CSV: {error}; fetch it again, or convert it to UTF-8") from error


def require_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Stop where a named column is not there."""
    for name in wanted:
        if name not in there:
            told = ", ".join(there)
            raise UserError(f"{path}:1: has no column '{name}'{nearest(name, there)}; its columns are: {told}")
