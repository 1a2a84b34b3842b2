"""Reads tables in the format that the file's name gives: CSV, TSV, JSON lines, RecBole's files, Parquet.

Text formats may be gzipped. All columns are read as text, together with the line of each row (Parquet, and arrays of
JSON: its number). JSON is parsed by polars in blocks of lines; a block that polars refuses is read line by line, to
find the line at fault.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import polars as pl
from isal import igzip, isal_zlib

from common.dataset import csv_rows
from common.errors import UserError, nearest
from importers.raw import BadRows, clean, is_missing, losses

LINE = "\0line"  # column of the row's line; what is read has no NUL, so no column of a file has this name
BLOCK = 8 << 20  # bytes; 32 MB were slower: fresh memory costs more than unzipping
AHEAD = 2  # blocks that are parsed while another one is used
CHUNK = 500_000  # rows of CSV in one frame
RECBOLE = (".inter", ".item", ".text", ".user2index", ".item2index")  # name:type, tabs, no quotes
FORMATS = {
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json"},
    **dict.fromkeys(RECBOLE, "recbole"),
}
ISO = r"^(\d{4}-?\d\d-?\d\d)(?:[Tt ](\d\d)(?::?(\d\d)(?::?(\d\d(?:[.,]\d+)?))?)?\s*([Zz]|UTC|[+-]\d\d(?::?\d\d)?)?)?$"
FORMS = "a number of s, ms, µs or ns, 2024-01-31, 2024-01-31 18:05, or 2024-01-31T18:05:59.5+08:00"
UNITS = ("s", "ms", "µs", "ns", "date")
DATE = UNITS.index("date")
LARGE = (1e11, 1e14, 1e17)  # numbers from here on look like ms, µs, ns: as seconds, 1e11 is in the year 5138
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
        raise UserError(f"{path}:1: holds no interactions{losses(bad.dropped)}; the columns are {', '.join(names)}")
    counts = dict(sorted(log["unit"].value_counts().iter_rows()))
    unit = max((one for one in counts if one != DATE), key=counts.__getitem__, default=0)
    if len(counts) > 1:
        listed = ", ".join(f"{UNITS[one]} {count:,}" for one, count in counts.items())
        print(
            f"warning: {path}: column '{columns['time']}' mixes units ({listed}); all of its numbers are read as "
            f"{UNITS[unit]}: check that they are"
        )
    scaled = pl.when(pl.col("unit") == DATE).then("time").otherwise(pl.col("time") / 1000**unit)
    return log.select("user", "item", scaled.alias("time"), "line")


def read_items(
    path: Path, columns: Mapping[str, str], ids: pl.Series, bad: BadRows, header: bool = True
) -> pl.DataFrame:
    """Read the texts of the items ``ids``; an item that is described twice is a bad row.

    Args:
        columns: item and further names → column of the file; missing texts are empty.
        header: False: the file's columns are ``columns`` in this order.
    """
    frames = list(read_frames(path, list(columns.values()), bad, header))
    if not frames:
        raise UserError(f"{path}:1: holds no items{losses(bad.dropped)}; it needs one row per item")
    texts = [pl.col(theirs).fill_null("").alias(ours) for ours, theirs in columns.items()]
    table = pl.concat(frames).select(LINE, *texts).with_columns(pl.col("item").str.strip_chars())
    unnamed = is_missing(pl.col("item"))
    for line, item in table.filter(unnamed).select(LINE, "item").iter_rows():
        bad.found(path, line, "the item is empty", f"the item is empty (column '{columns['item']}' is '{item}')")
    table = table.filter(~unnamed)
    twice = table.select("item", line=LINE, first=pl.col(LINE).first().over("item"))
    for item, line, first in twice.filter(pl.col("line") != pl.col("first")).iter_rows():
        detail = f"item {item} is already on line {first}; keep one of the two"
        bad.found(path, line, "item described twice", detail)
    return table.filter(pl.col("item").is_first_distinct() & pl.col("item").is_in(ids.implode())).drop(LINE)


def read_frames(path: Path, columns: Sequence[str], bad: BadRows, header: bool = True) -> Iterator[pl.DataFrame]:
    """Read the named columns of a table as text, and last the column `LINE`, in one or more frames.

    Missing values are null. Lists and objects are JSON.

    Args:
        columns: their names; one that is named twice is read once.
        header: False: the file's columns are ``columns`` in this order.
    """
    name = path.name[:-3] if path.name.endswith(".gz") else path.name
    columns = list(dict.fromkeys(columns))
    kind = "parquet" if path.is_dir() else FORMATS.get(Path(name).suffix.lower())
    if kind is None:
        ends = ", ".join(suffix for suffix in FORMATS if FORMATS[suffix] != "recbole")
        raise UserError(f"{path}: unknown format; the name must end in {ends}, or in one of these and .gz")
    if kind == "json":
        return _json_frames(path, columns, bad)
    if kind == "parquet":
        frame = read_parquet(path, columns)
        return iter([frame.with_columns(pl.Series(LINE, range(1, frame.height + 1), pl.UInt32))])
    return _csv_frames(path, columns, bad, kind, header)


def _csv_frames(path: Path, columns: Sequence[str], bad: BadRows, kind: str, header: bool) -> Iterator[pl.DataFrame]:
    rows = csv_rows(path, _lines(path), delimiter="," if kind == "csv" else "\t", quotes=kind != "recbole")
    names = list(columns)
    if header:
        _, names = next(rows, (1, []))
        names = [name.split(":")[0] for name in names] if kind == "recbole" else names
        _require_columns(path, names, columns)
    places = [names.index(name) for name in columns]
    schema = {**dict.fromkeys(columns, pl.String), LINE: pl.UInt32}
    chunk: List[List[Any]] = []
    for line, row in rows:
        if len(row) != len(names):
            detail = f"{len(row)} columns instead of {len(names)}; put fields that hold separators in double quotes"
            bad.found(path, line, "another number of columns", detail)
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
        for first, count, block in _json_lines(path):
            waiting.append((first, block, pool.submit(_parse_block, columns, first, count, block)))
            if len(waiting) > AHEAD:
                yield first_waiting()
        while waiting:
            yield first_waiting()
    finally:  # without waiting: the garbage collector may close the generator in a thread that is being started
        pool.shutdown(wait=False, cancel_futures=True)


def _json_lines(path: Path) -> Iterator[Tuple[int, int, bytes]]:
    """The blocks of JSON lines; an array becomes one block, with a line for each element."""
    blocks = _blocks(path)
    for first, count, block in blocks:
        if first == 1 and block.lstrip().startswith(b"["):
            try:
                array = json.loads(b"".join([block, *(rest for _, _, rest in blocks)]).decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: not a JSON array: {error}; write one, or an object per line") from error
            count, block = len(array), b"\n".join(json.dumps(element).encode() for element in array)
        yield first, count, block


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
    return frame.with_columns(texts, lines.alias(LINE))


def _parse_lines(path: Path, columns: Sequence[str], bad: BadRows, first: int, block: bytes) -> pl.DataFrame:
    """The rows of a block, read line by line to find the bad ones."""
    rows: List[List[Any]] = []
    for number, line in enumerate(block.split(b"\n"), start=first):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8").strip()
            # Amazon's metadata of 2014 are Python literals
            content = ast.literal_eval(text) if text.startswith("{'") else json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("not an object")
            rows.append([*(_text(content.get(name)) for name in columns), number])
        except UnicodeDecodeError:
            bad.found(path, number, "not UTF-8")
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            bad.found(path, number, "not JSON", f"not JSON: {error}")
    return pl.DataFrame(rows, schema={**dict.fromkeys(columns, pl.String), LINE: pl.UInt32}, orient="row")


def read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read the named columns of a Parquet file, or of all part files in a folder in the order of their names, as text.

    Files and folders whose name begins with ``.`` or ``_`` are skipped. Dates and times are ISO 8601, durations
    seconds, whole numbers without a decimal point, lists and objects JSON.

    Raises:
        UserError: a part cannot be read, lacks a column, or has it with another type than the parts before it.
    """
    parts = [path]
    if path.is_dir():
        names = sorted(part.relative_to(path) for part in path.rglob("*.parquet") if part.is_file())
        parts = [path / name for name in names if not any(one.startswith((".", "_")) for one in name.parts)]
    if not parts:
        raise UserError(f"{path}: a folder without files *.parquet; name a file, or a folder of such parts")
    frames: List[pl.DataFrame] = []
    types: Dict[str, pl.DataType] = {}
    for part in parts:
        try:
            lazy = pl.scan_parquet(part, glob=False)
            schema = lazy.collect_schema()
            if not frames:
                _require_columns(part, list(schema), columns)
            for name in columns:
                dtype = schema.get(name)
                if dtype is None or (dtype != pl.Null and dtype != types.setdefault(name, dtype)):
                    found = f"has the type {dtype}" if dtype is not None else "is missing"
                    raise UserError(
                        f"{part}: column '{name}' {found}, but the parts before it have it as {types.get(name)}; write "
                        "all parts with the same columns and types"
                    )
            frame = lazy.select(columns).collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{part}: cannot be read as Parquet: {reason}; write or download it again") from error
        frames.append(pl.DataFrame([_parquet_texts(part, column) for column in frame]))
    return pl.concat(frames)


def _parquet_texts(path: Path, column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if dtype in (pl.Date, pl.Datetime):
        column = column.dt.to_string("iso")
    elif dtype == pl.Duration:
        column = column.dt.total_microseconds() / 1e6
    try:
        texts = column.cast(pl.String) if not dtype.is_nested() else None
    except pl.exceptions.PolarsError:
        texts = None
    if texts is None:
        values: List[Optional[str]] = []
        for row, value in enumerate(column.to_list(), start=1):
            try:
                values.append(_text(value))
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{row}: column '{column.name}' ({dtype}) is not text; convert it") from error
        texts = pl.Series(column.name, values, pl.String)
    if dtype.is_numeric() or dtype.is_temporal():
        texts = texts.str.replace(r"\.0+\b", "")  # an id of 1.0 is 1, as in JSON
    return texts.str.replace_all("\0", "?", literal=True)


def _require_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            columns = ", ".join(there)
            raise UserError(f"{path}:1: has no column '{name}'{nearest(name, there)}; its columns are: {columns}")
        if there.count(name) > 1:
            raise UserError(f"{path}:1: has {there.count(name)} columns '{name}'; rename one of them")


def _text(value: Any) -> Optional[str]:
    """A JSON value as polars reads it: text unchanged, null and NaN as None, everything else as JSON.

    Numbers have no exponent, whole numbers no decimal point: an id of 1.0 is 1 however its block is read.
    """
    value = clean(value)
    if value is None or isinstance(value, str) or value != value:
        return value if isinstance(value, str) else None
    if isinstance(value, float):
        number = f"{Decimal(repr(value)):f}"
        return number[:-2] if number.endswith(".0") else number
    return json.dumps(value, ensure_ascii=False, default=str)  # Parquet's lists may hold dates


def _log(path: Path, frame: pl.DataFrame, columns: Mapping[str, str], bad: BadRows, header: bool) -> pl.DataFrame:
    """The valid rows of a frame as user, item, time, unit, line; the others are reported to ``bad``.

    ``unit`` indexes `UNITS`: what a number looks like, or a date, whose time is in seconds.
    """
    texts = [pl.col(columns[name]).str.strip_chars().alias(name) for name in ("user", "item", "time")]
    log = frame.select(*texts, line=LINE).with_columns(number=pl.col("time").cast(pl.Float64, strict=False))
    number = pl.when(pl.col("number").is_finite()).then("number")
    unit = pl.when(number.is_null()).then(DATE).otherwise(pl.sum_horizontal(number.abs() >= least for least in LARGE))
    log = log.with_columns(number=number, unit=unit.cast(pl.UInt8))
    if log["number"].null_count():
        log = log.with_columns(pl.coalesce("number", _iso("time")))
    if not header:
        log = log.filter((pl.col("line") > 1) | pl.col("number").is_not_null())
    fault: pl.Expr = pl.when(pl.col("number").is_null()).then(pl.lit("time"))
    for name in ("item", "user"):
        fault = pl.when(pl.col(name).is_null() | is_missing(pl.col(name))).then(pl.lit(name)).otherwise(fault)
    log = log.with_columns(fault=fault)
    for row in log.filter(pl.col("fault").is_not_null()).iter_rows(named=True):
        name, value = row["fault"], row[row["fault"]]
        reason = "the time cannot be read" if name == "time" else f"the {name} is empty"
        found = f"{reason} (column '{columns[name]}' is '{value or ''}')"
        bad.found(path, row["line"], reason, f"{found}; accepted are {FORMS}" if name == "time" else found)
    log = log.filter(pl.col("fault").is_null())
    return log.select(pl.col("user", "item").cast(pl.Categorical), pl.col("number").alias("time"), "unit", "line")


def _iso(column: str) -> pl.Expr:
    """The seconds of a time in ISO 8601, in UTC where it has no offset; null for any other text."""
    date, hour, minute, second, zone = (pl.col(column).str.extract_groups(ISO).struct[part] for part in range(5))
    clock = [part.fill_null("00") for part in (hour, minute, second.str.replace(",", ".", literal=True))]
    offset = zone.str.replace("(?i)^(z|utc)$", "+00").fill_null("+00")
    text = pl.concat_str(date.str.replace_all("-", "", literal=True), pl.lit("T"), *clock, offset)
    moment = text.str.to_datetime("%Y%m%dT%H%M%S%.f%#z", time_zone="UTC", time_unit="us", strict=False)
    return moment.dt.timestamp("us") / 1e6
