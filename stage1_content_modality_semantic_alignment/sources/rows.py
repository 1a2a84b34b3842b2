"""Reads any table of interactions in the form that its name tells: CSV, TSV, JSON lines (each also gzipped), Parquet.

The fast way is polars', block by block. Where a block holds anything out of order, it is read again row by row, by
Python's own csv or json, which know the line; so an error names it, or ``bad_rows=drop`` leaves that row out.
"""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import polars as pl

from common.errors import UserError
from stage1_content_modality_semantic_alignment.sources.blocks import (
    ahead,
    blocks,
    decoded,
    header_of,
    read_bytes,
    require_columns,
)
from stage1_content_modality_semantic_alignment.sources.raw import BadRows, whole

CHUNK = 500_000  # rows of CSV turned into a frame at a time, the slow way
DATES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # from this on it is ns, µs, ms: as seconds, 1e11 is the year 5138


def kind_of_file(path: Path) -> str:
    """csv, tsv, json or parquet, by the file's name."""
    name = path.name[:-3] if path.name.endswith(".gz") else path.name
    kinds = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
    kind = kinds.get(Path(name).suffix.lower())
    if kind is None:
        raise UserError(f"{path}: not a table by its name; it must end in {', '.join(kinds)}, or one of these and .gz")
    return kind


def read_interactions(path: Path, columns: Mapping[str, str], bad: BadRows, header: bool = True) -> pl.DataFrame:
    """The log in a file, with the columns of `raw.LOG`; rows keep their order.

    Args:
        columns: user, item, time → the file's names for them.
        header: False: the columns are in the order of ``columns``, and a first row whose time is not one is a header.
    """
    kind = kind_of_file(path)
    parts: Iterable[Any] = [_Parquet(path, columns)] if kind == "parquet" else []
    if kind == "json":
        parts = _json_parts(path, list(columns.values()))
    elif kind != "parquet":
        parts = [_Csv(path, columns, "\t" if kind == "tsv" else ",", header)]
    read = ahead(lambda part: _fast(part, columns), parts)
    frames = [_log(_slow(part, path, columns, bad) if frame is None else frame) for part, frame in read]
    log = pl.concat(frames) if frames else pl.DataFrame()
    if not log.height:
        raise UserError(f"{path}:1: holds no interactions; the columns are {', '.join(columns.values())}")
    return log


def json_rows(path: Path, columns: Sequence[str], bad: BadRows) -> Iterator[pl.DataFrame]:
    """Frames of the named keys of a file of JSON lines, as texts, with the line; lists and objects stay JSON."""
    for part, frame in ahead(_Json.fast, _json_parts(path, columns)):
        yield part.slow(bad) if frame is None else frame


def csv_rows(path: Path, separator: str, bad: BadRows, header: bool) -> Iterator[Tuple[int, List[str]]]:
    """(line, fields) of each row as wide as the first; without the header, which is checked to be there.

    Raises:
        UserError: not UTF-8, broken quotes, or, unless bad rows are dropped, a row of another width.
    """
    reader = csv.reader(io.StringIO(decoded(path, read_bytes(path)), newline=""), strict=True, delimiter=separator)
    line, width = 1, 0
    try:
        for row in reader:
            if row and width and len(row) != width:
                detail = f"{len(row)} columns where {width} belong; put fields that hold commas between double quotes"
                bad.found(f"{path}:{line}", "another number of columns", detail)
            elif row:
                first, width = not width, len(row)
                if not (first and header):
                    yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not CSV: {error}; double the quotes inside a quoted field") from error


class _Json:
    """A block of JSON lines."""

    def __init__(self, path: Path, columns: Sequence[str], first: int, lines: int, block: bytes) -> None:
        self._path, self._columns, self._first, self._lines, self._block = path, columns, first, lines, block

    def fast(self) -> Optional[pl.DataFrame]:
        """The named keys as texts, and the line; None where anything is out of order."""
        lines = self._lines
        try:
            scan = pl.scan_ndjson(self._block, schema=dict.fromkeys(self._columns, pl.String))
            frame = scan.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError):
            return None
        if frame.height != lines:  # blank lines
            return None
        return frame.with_columns(line=pl.int_range(self._first, self._first + lines, dtype=pl.UInt32, eager=True))

    def slow(self, bad: BadRows) -> pl.DataFrame:
        """The same, line by line; what is not a JSON object in UTF-8 is told to ``bad``."""
        rows: List[List[Any]] = []
        for number, line in enumerate(self._block.split(b"\n"), start=self._first):
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8"))
                if not isinstance(found, dict):
                    raise ValueError("not an object")
                rows.append([*(_text(found.get(name)) for name in self._columns), number])
            except UnicodeDecodeError:
                bad.found(f"{self._path}:{number}", "not UTF-8")
            except (ValueError, RecursionError) as error:
                bad.found(f"{self._path}:{number}", "not JSON", f"not JSON: {error}")
        schema = {**dict.fromkeys(self._columns, pl.String), "line": pl.UInt32}
        return pl.DataFrame(rows, schema=schema, orient="row")


class _Csv:
    """A whole file of CSV or TSV."""

    def __init__(self, path: Path, columns: Mapping[str, str], separator: str, header: bool) -> None:
        self._path, self._columns, self._separator = path, list(columns.values()), separator
        names = header_of(path, separator)
        if header:
            require_columns(path, names, self._columns)
        else:
            named = len(names) == len(self._columns) and not _is_time(names[-1])
            names, header = self._columns, named
        self._names, self._header = names, header

    def fast(self) -> Optional[pl.DataFrame]:
        """The named columns as texts, and the line; None where polars finds a fault."""
        data = read_bytes(self._path)
        try:
            frame = pl.read_csv(
                io.BytesIO(data),
                has_header=False,
                skip_rows=int(self._header),
                columns=[self._names.index(name) for name in self._columns],
                new_columns=[name for name in self._names if name in self._columns],
                separator=self._separator,
                infer_schema=False,
            )
        except (pl.exceptions.PolarsError, OSError, ValueError):
            return None
        lines = data.count(b"\n") + (not data.endswith(b"\n")) - self._header
        if frame.height != lines:  # blank lines, or fields with line breaks
            return None
        return frame.with_columns(
            line=pl.int_range(1 + self._header, 1 + self._header + lines, dtype=pl.UInt32, eager=True)
        )

    def slow(self, bad: BadRows) -> pl.DataFrame:
        """The same, row by row."""
        schema = {**dict.fromkeys(self._columns, pl.String), "line": pl.UInt32}
        places = [self._names.index(name) for name in self._columns]
        frames, rows = [pl.DataFrame(schema=schema)], []
        for line, row in csv_rows(self._path, self._separator, bad, self._header):
            if len(row) != len(self._names):  # the first row, without a header
                bad.found(
                    f"{self._path}:{line}",
                    "another number of columns",
                    f"{len(row)} columns where {len(self._names)} belong",
                )
                continue
            rows.append([*(row[place] for place in places), line])
            if len(rows) == CHUNK:
                frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
                rows = []
        return pl.concat([*frames, pl.DataFrame(rows, schema=schema, orient="row")])


class _Parquet:
    """A whole Parquet file; its lines are rows."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self._path, self._columns = path, list(columns.values())

    def fast(self) -> pl.DataFrame:
        """The named columns as texts, and the row from 1 on."""
        return read_parquet(self._path, self._columns).with_row_index("line", offset=1)

    def slow(self, bad: BadRows) -> pl.DataFrame:
        """The same: there is no other way."""
        return self.fast()


def read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of a Parquet file as texts; points in time become seconds, lists and objects JSON."""
    try:
        there = pl.read_parquet_schema(path)
        require_columns(path, list(there), columns)
        frame = pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not Parquet, or cut short: {str(error).splitlines()[0]}; fetch it again") from error
    nested = [name for name in frame.columns if there[name].is_nested()]
    frame = frame.with_columns(
        pl.Series(name, [_text(value) for value in frame[name].to_list()], pl.String) for name in nested
    )
    return frame.select(
        (pl.col(name).dt.timestamp("us") / 1e6 if there[name] in (pl.Date, pl.Datetime) else pl.col(name))
        .cast(pl.String)
        .alias(name)
        for name in columns
    )


def _fast(part: Any, columns: Mapping[str, str]) -> Optional[pl.DataFrame]:
    """What `_typed` makes of a part; None where a row of it cannot be used."""
    frame = part.fast()
    typed = None if frame is None else _typed(frame, columns)
    return None if typed is None or typed["fault"].is_not_null().any() else typed


def _slow(part: Any, path: Path, columns: Mapping[str, str], bad: BadRows) -> pl.DataFrame:
    """The same; rows that cannot be used are told to ``bad``."""
    typed = _typed(part.slow(bad), columns)
    for line, fault, text in typed.filter(pl.col("fault").is_not_null()).select("line", "fault", "text").iter_rows():
        told = fault
        if fault.startswith("timestamp"):
            told = f"timestamp '{text or ''}' is not a number; the columns are {', '.join(columns.values())}"
        bad.found(f"{path}:{line}", fault, told)
    return typed.filter(pl.col("fault").is_null())


def _log(typed: pl.DataFrame) -> pl.DataFrame:
    """The log of a part. One thread alone makes categories: several would wait for one another."""
    return typed.select(pl.col("user", "item").cast(pl.Categorical), "time", "line")


def _typed(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """user, item, time in seconds, line, and the fault of the row or null, with the time as text."""
    users_and_items = [pl.col(columns[name]).str.strip_chars().alias(name) for name in ("user", "item")]
    frame = frame.select(*users_and_items, "line", text=columns["time"])
    frame = frame.with_columns(time=_number("text"))
    if frame["time"].null_count():
        frame = frame.with_columns(pl.col("text").str.strip_chars())
        frame = frame.with_columns(time=_number("text"))
        dates = [pl.col("text").str.to_datetime(form, strict=False, time_unit="us") for form in DATES]
        frame = frame.with_columns(time=pl.coalesce("time", pl.coalesce(dates).dt.timestamp("us") / 1e6))
    size, seconds = pl.col("time").abs(), pl.col("time")
    scaled: Any = pl
    for least, unit in UNITS:
        scaled = scaled.when(size >= least).then(seconds / unit)
    frame = frame.with_columns(time=scaled.otherwise(seconds))
    absent = {name: pl.col(name).is_null() | pl.col(name).is_in(["", "nan", "NaN"]) for name in ("user", "item")}
    fault = (
        pl.when(absent["user"]).then(pl.lit("the user is empty")).when(absent["item"]).then(pl.lit("the item is empty"))
    )
    return frame.with_columns(fault=fault.when(pl.col("time").is_null()).then(pl.lit("timestamp is not a number")))


def _number(column: str) -> pl.Expr:
    """A text as a finite number, or null."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _is_time(text: str) -> bool:
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "time": [text], "line": [1]})
    return bool(_typed(frame, {name: name for name in ("user", "item", "time")})["fault"].is_null()[0])


def _json_parts(path: Path, columns: Sequence[str]) -> Iterator[_Json]:
    return (_Json(path, columns, *block) for block in blocks(path))


def _text(value: Any) -> Optional[str]:
    """A JSON value as polars gives it: texts as they are, null and NaN as None, the rest as JSON.

    Numbers without exponent, whole ones without point: an id of 1.0 is 1 in every block, however that is read.
    """
    if value is None or isinstance(value, str) or value != value:
        return whole(value) if isinstance(value, str) else None
    if isinstance(value, float):
        plain = f"{Decimal(repr(value)):f}"
        return plain[:-2] if plain.endswith(".0") else plain
    return whole(json.dumps(value, ensure_ascii=False, default=str))  # Parquet's lists may hold points in time
