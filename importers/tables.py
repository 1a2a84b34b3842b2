"""Reads tables in the format that the file's name gives: CSV, TSV, JSON lines, RecBole's files, Parquet.

Text formats may be gzipped. All columns are read as text, together with the line (Parquet: row) of each row. JSON is
parsed by polars in blocks of lines; a block that polars refuses is read line by line, to find the line at fault.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Deque, Iterator, List, Mapping, Optional, Sequence, Tuple

import polars as pl
from isal import igzip, isal_zlib

from common.dataset import csv_rows
from common.errors import UserError, nearest
from importers.raw import BadRows, valid_unicode

BLOCK = 8 << 20  # bytes; 32 MB were slower: fresh memory costs more than unzipping
AHEAD = 2  # blocks that are parsed while another one is used
CHUNK = 500_000  # rows of CSV in one frame
RECBOLE = (".inter", ".item", ".text", ".user2index", ".item2index")  # name:type, tabs, no quotes
FORMATS = {
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json"},
    **dict.fromkeys(RECBOLE, "recbole"),
}
DATES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # from this value on it is ns, µs, ms: as seconds, 1e11 is year 5138
DAMAGED: Any = (EOFError, isal_zlib.error, gzip.BadGzipFile)


def read_interactions(path: Path, columns: Mapping[str, str], bad: BadRows, header: bool = True) -> pl.DataFrame:
    """Read a log with the columns of `raw.LOG`, ids as categories, in the order of the file.

    Args:
        columns: user, item, time → column of the file.
        header: False: the file's columns are ``columns`` in this order; a first row without a valid time is a header.
    """
    names = list(columns.values())
    logs = [_log(path, frame, columns, bad, header) for frame in read_frames(path, names, bad, header)]
    log = pl.concat(logs) if logs else pl.DataFrame()
    if not log.height:
        raise UserError(f"{path}:1: holds no interactions; the columns are {', '.join(names)}")
    return log


def read_items(
    path: Path, columns: Mapping[str, str], ids: pl.Series, bad: BadRows, header: bool = True
) -> pl.DataFrame:
    """Read the texts of the items ``ids``; an item that is described twice is a bad row.

    Args:
        columns: item and further names → column of the file; missing texts are empty.
        header: False: the file's columns are ``columns`` in this order.
    """
    frames = list(read_frames(path, list(dict.fromkeys(columns.values())), bad, header))
    if not frames:
        raise UserError(f"{path}:1: holds no items; it needs one row per item")
    texts = [pl.col(theirs).fill_null("").alias(ours) for ours, theirs in columns.items()]
    table = pl.concat(frames).select("line", *texts).with_columns(pl.col("item").str.strip_chars())
    table = table.with_columns(first=pl.col("line").first().over("item"))
    for item, line, first in (
        table.filter(pl.col("line") != pl.col("first")).select("item", "line", "first").iter_rows()
    ):
        detail = f"item {item} is already on line {first}; keep one of the two"
        bad.found(f"{path}:{line}", "item described twice", detail)
    kept = table.filter((pl.col("line") == pl.col("first")) & pl.col("item").is_in(ids.implode()))
    return kept.drop("line", "first")


def read_frames(path: Path, columns: Sequence[str], bad: BadRows, header: bool = True) -> Iterator[pl.DataFrame]:
    """Read the named columns of a table as text, with the column ``line``, in one or more frames.

    Missing values are null. Lists and objects are JSON.

    Args:
        header: False: the file's columns are ``columns`` in this order.
    """
    name = path.name[:-3] if path.name.endswith(".gz") else path.name
    kind = FORMATS.get(Path(name).suffix.lower())
    if kind is None:
        ends = ", ".join(suffix for suffix in FORMATS if FORMATS[suffix] != "recbole")
        raise UserError(f"{path}: unknown format; the name must end in {ends}, or in one of these and .gz")
    if kind == "json":
        return _json_frames(path, columns, bad)
    if kind == "parquet":
        return iter([read_parquet(path, columns).with_row_index("line", offset=1)])
    return _csv_frames(path, columns, bad, kind, header)


def _csv_frames(path: Path, columns: Sequence[str], bad: BadRows, kind: str, header: bool) -> Iterator[pl.DataFrame]:
    rows = csv_rows(path, _lines(path), delimiter="," if kind == "csv" else "\t", quotes=kind != "recbole")
    names = list(columns)
    if header:
        _, names = next(rows, (1, []))
        names = [name.split(":")[0] for name in names] if kind == "recbole" else names
        _require_columns(path, names, columns)
    places = [names.index(name) for name in columns]
    schema = {**dict.fromkeys(columns, pl.String), "line": pl.UInt32}
    chunk: List[List[Any]] = []
    for line, row in rows:
        if len(row) != len(names):
            detail = f"{len(row)} columns instead of {len(names)}; put fields that hold separators in double quotes"
            bad.found(f"{path}:{line}", "another number of columns", detail)
            continue
        chunk.append([*(row[place] for place in places), line])
        if len(chunk) == CHUNK:
            yield pl.DataFrame(chunk, schema=schema, orient="row")
            chunk = []
    if chunk:
        yield pl.DataFrame(chunk, schema=schema, orient="row")


def _lines(path: Path) -> Iterator[str]:
    for first, _, block in _blocks(path):
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            line = first + block.count(b"\n", 0, error.start)
            raise UserError(f"{path}:{line}: not UTF-8; convert it, for example with iconv -t UTF-8") from error
        yield from io.StringIO(text, newline="")


def _blocks(path: Path) -> Iterator[Tuple[int, int, bytes]]:
    """Yield number of the first line, number of lines, and these, without a byte-order mark; unzips gzip."""
    line = 1
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: Any = igzip.IGzipFile(fileobj=raw) if zipped else raw
            while True:
                block = file.read(BLOCK) + file.readline()
                count = block.count(b"\n") + (not block.endswith(b"\n"))
                block = block[3:] if line == 1 and block.startswith(b"\xef\xbb\xbf") else block
                if not block:
                    return
                yield line, count, block
                line += count
    except DAMAGED as error:
        raise UserError(f"{path}:{line}: gzip is cut short or damaged after this line; download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json_frames(path: Path, columns: Sequence[str], bad: BadRows) -> Iterator[pl.DataFrame]:
    """The blocks of JSON lines; those ahead are parsed while one is used."""
    waiting: Deque[Tuple[int, bytes, Future[Optional[pl.DataFrame]]]] = deque()

    def first_waiting() -> pl.DataFrame:
        first, block, parsed = waiting.popleft()
        frame = parsed.result()
        return _parse_lines(path, columns, bad, first, block) if frame is None else frame

    pool = ThreadPoolExecutor(AHEAD)
    try:
        for first, count, block in _blocks(path):
            waiting.append((first, block, pool.submit(_parse_block, columns, first, count, block)))
            if len(waiting) > AHEAD:
                yield first_waiting()
        while waiting:
            yield first_waiting()
    finally:  # without waiting: the garbage collector may close the generator in a thread that is being started
        pool.shutdown(wait=False, cancel_futures=True)


def _parse_block(columns: Sequence[str], first: int, count: int, block: bytes) -> Optional[pl.DataFrame]:
    """The rows of a block; None if polars refuses it, or if it has blank lines, which give no row."""
    try:
        frame = pl.scan_ndjson(block, schema=dict.fromkeys(columns, pl.String)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError):
        return None
    if frame.height != count:
        return None
    lines = pl.int_range(first, first + count, dtype=pl.UInt32, eager=True)
    texts = pl.all().str.replace_all("\0", "?", literal=True)  # polars reads a lone surrogate as \0
    return frame.with_columns(texts, line=lines)


def _parse_lines(path: Path, columns: Sequence[str], bad: BadRows, first: int, block: bytes) -> pl.DataFrame:
    """The rows of a block, read line by line to find the bad ones."""
    rows: List[List[Any]] = []
    for number, line in enumerate(block.split(b"\n"), start=first):
        if not line.strip():
            continue
        try:
            content = json.loads(line.decode("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not an object")
            rows.append([*(_text(content.get(name)) for name in columns), number])
        except UnicodeDecodeError:
            bad.found(f"{path}:{number}", "not UTF-8")
        except (ValueError, RecursionError) as error:
            bad.found(f"{path}:{number}", "not JSON", f"not JSON: {error}")
    return pl.DataFrame(rows, schema={**dict.fromkeys(columns, pl.String), "line": pl.UInt32}, orient="row")


def read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read the named columns of a Parquet file as text; points in time become seconds, lists and objects JSON."""
    try:
        types = pl.read_parquet_schema(path)
        _require_columns(path, list(types), columns)
        frame = pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not Parquet, or cut short: {reason}; download it again") from error
    texts = []
    for name in columns:
        column = frame[name]
        if types[name].is_nested():
            column = pl.Series(name, [_text(value) for value in column.to_list()], pl.String)
        elif types[name] in (pl.Date, pl.Datetime):
            column = column.dt.timestamp("us") / 1e6
        texts.append(column.cast(pl.String))
    return pl.DataFrame(texts)


def _require_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            columns = ", ".join(there)
            raise UserError(f"{path}:1: has no column '{name}'{nearest(name, there)}; its columns are: {columns}")


def _text(value: Any) -> Optional[str]:
    """A JSON value as polars reads it: text unchanged, null and NaN as None, everything else as JSON.

    Numbers have no exponent, whole numbers no decimal point: an id of 1.0 is 1 however its block is read.
    """
    if value is None or isinstance(value, str) or value != value:
        return valid_unicode(value) if isinstance(value, str) else None
    if isinstance(value, float):
        number = f"{Decimal(repr(value)):f}"
        return number[:-2] if number.endswith(".0") else number
    return valid_unicode(json.dumps(value, ensure_ascii=False, default=str))  # Parquet's lists may hold dates


def _log(path: Path, frame: pl.DataFrame, columns: Mapping[str, str], bad: BadRows, header: bool) -> pl.DataFrame:
    """The valid rows of a frame as user, item, time, line; the others are reported to ``bad``."""
    ids = [pl.col(columns[name]).str.strip_chars().alias(name) for name in ("user", "item")]
    log = frame.select(*ids, "line", time=columns["time"]).with_columns(seconds=_number("time"))
    if log["seconds"].null_count():
        log = log.with_columns(pl.col("time").str.strip_chars())
        dates = [pl.col("time").str.to_datetime(form, strict=False, time_unit="us") for form in DATES]
        log = log.with_columns(seconds=pl.coalesce(_number("time"), pl.coalesce(dates).dt.timestamp("us") / 1e6))
    if not header:
        log = log.filter((pl.col("line") > 1) | pl.col("seconds").is_not_null())
    user_missing, item_missing = (
        pl.col(name).is_null() | pl.col(name).is_in(["", "nan", "NaN"]) for name in ("user", "item")
    )
    fault = (
        pl.when(user_missing)
        .then(pl.lit("the user is empty"))
        .when(item_missing)
        .then(pl.lit("the item is empty"))
        .when(pl.col("seconds").is_null())
        .then(pl.lit("timestamp is not a number"))
    )
    log = log.with_columns(fault=fault)
    for line, reason, time in log.filter(pl.col("fault").is_not_null()).select("line", "fault", "time").iter_rows():
        is_time = reason.startswith("timestamp")
        names = ", ".join(columns.values())
        detail = f"timestamp '{time or ''}' is not a number; the columns are {names}" if is_time else reason
        bad.found(f"{path}:{line}", reason, detail)
    log = log.filter(pl.col("fault").is_null())
    return log.select(pl.col("user", "item").cast(pl.Categorical), pl.col("seconds").alias("time"), "line")


def _number(column: str) -> pl.Expr:
    """A time in s, ms, µs or ns, by its size, as seconds; null for what is not a finite number."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    scaled: Any = pl.when(~number.is_finite()).then(None)
    for least, unit in UNITS:
        scaled = scaled.when(number.abs() >= least).then(number / unit)
    return scaled.otherwise(number)
