"""Bad input to the importer: one clear error or a counted drop, and nothing half-written. Properties of the parsers."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_importer_kinds import META, REVIEWS, make_2018, make_table, prepare_table, review, write_form, zipped
from test_prepare_dataset import prepare

from common.dataset import load_dataset
from common.errors import UserError
from common.files import read_json
from common.item_fields import read_item_fields
from importers import tables
from importers.raw import MISSING, BadRows
from importers.tables import read_frames, read_interactions

LOOSE: Dict[str, Any] = {"k_core": 0, "min_length": 3}
COLUMNS = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
TABLE = {"user": "user", "item": "item", "time": "time"}
GOOD = [review("A", "abc"[n], n) for n in range(3)]


@pytest.mark.parametrize(
    "line, message, reason",
    [
        ('{"reviewerID": "A", "as', "4: not JSON", "not JSON"),
        ("[1, 2]", "4: not JSON: not an object", "not JSON"),
        (review("", "a", 1), "4: the user is empty", "the user is empty"),
        ({"reviewerID": "A", "unixReviewTime": 1}, "4: the item is empty", "the item is empty"),
        *(
            (
                review("A", "a", time),
                f"4: the time cannot be read (column 'unixReviewTime' is '{text}'); accepted are a number "
                "of s, ms, µs or ns, 2024-01-31,",
                "the time cannot be read",
            )
            for time, text in (("late", "late"), (None, ""), (float("nan"), ""), ("2024-13-01", "2024-13-01"))
        ),
        *(
            (review(name, "a", 1), f"4: the user is empty (column 'reviewerID' is '{name}')", "the user is empty")
            for name in ("NaN", "None", "none", "NULL", "<NA>", "<na>", "NaT", "n/a", "N/A", "#N/A", "Undefined")
        ),
    ],
)
def test_a_bad_line_of_json_is_reported_or_counted(tmp_path: Path, line: Any, message: str, reason: str) -> None:
    path = zipped(tmp_path / "Tools.json.gz", [*GOOD, line, GOOD[0]])
    with pytest.raises(UserError) as raised:
        read_interactions(path, COLUMNS, BadRows("stop"))
    assert str(raised.value).startswith(f"{path}:{message}")
    assert str(raised.value).endswith("bad_rows=drop")
    bad = BadRows("drop")
    log = read_interactions(path, COLUMNS, bad)
    assert log["line"].to_list() == [1, 2, 3, 5]
    assert dict(bad.dropped) == {f"{path.name}: {reason}": 1}


@pytest.mark.parametrize(
    "form, bad",
    [
        *((form, bad) for form in ("line", "lines", "array", "literal") for bad in ("\ud83d", "\ude00", "\0")),
        *(("csv", "\0"), ("parquet", "\0")),
    ],
)
def test_what_csv_cannot_hold_is_a_question_mark(tmp_path: Path, form: str, bad: str) -> None:
    """Half an emoji, or NUL, in every format that can hold it."""
    row = {"item": f"a{bad}", "title": f"cut {bad}", "tags": [f"x{bad}"]}
    path = tmp_path / (f"x.{form}" if form in ("csv", "parquet") else "x.json")
    if path.suffix == ".json":
        text = json.dumps([row] if form == "array" else row)
        path.write_text(repr(row) if form == "literal" else text + "\n\n" * (form == "lines"))
    else:
        write_form(pl.DataFrame({**row, "tags": '["x\0"]'}), path)
    (frame,) = read_frames(path, ["item", "title", "tags"], BadRows())
    assert frame.rows()[0][:3] == ("a?", "cut ?", '["x?"]')


@pytest.mark.parametrize("bad", ["\ud83d", "\0"])
def test_texts_of_other_readers_are_cleaned(tmp_path: Path, bad: str) -> None:
    meta = [{"asin": "a", "title": f"A{bad}", "category": [f"c{bad}", ["d"]], "brand": [f"b{bad}"]}]
    home = prepare(tmp_path, "Tools", data_dir=str(make_2018(tmp_path / "raw", meta=[*meta, *META[1:]])), **LOOSE)
    assert load_dataset(home, "Tools").titles_en[0] == "A?"
    fields = read_item_fields(home, "Tools", 3)
    assert (fields["category"][0], fields["brand"][0]) == ("c?, d", "b?")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "Mine.inter.json").write_text(json.dumps({f"u{bad}": [f"a{bad}", "b", "c"]}))
    texts = {item: {"title": item, "brand": [f"\ud83d\ude00{bad}"]} for item in (f"a{bad}", "b", "c")}
    (tmp_path / "json" / "Mine.item.json").write_text(json.dumps(texts))
    home = prepare(tmp_path, "Mine", data_dir=str(tmp_path / "json"))
    assert load_dataset(home, "Mine").titles_en[0] == "a?"
    assert read_item_fields(home, "Mine", 3)["brand"][0] == "\U0001f600?", "both halves are one emoji"
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,u?\n"
    with open(home / "Mine_item_sort.csv", "a", encoding="utf-8") as out:
        out.write('3,"","n\0"\n')
    assert load_dataset(home, "Mine").titles_en[3] == "n?", "prepared files, too"


@pytest.mark.parametrize("policy", ["stop", "drop"])
def test_gzip_that_is_cut_short_or_damaged_stops(tmp_path: Path, policy: str) -> None:
    path = zipped(tmp_path / "Tools.json.gz", [review(f"U{n}", str(n * 7919 % 997), n) for n in range(3000)])
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:1000] + bytes(200) + whole[1200:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"Tools.json.gz:\d+: gzip is cut short or damaged"):
            read_interactions(path, COLUMNS, BadRows(policy))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"user": "u", "item": "i", "time": 1}\n\n{"user": "\xff"}', "x.json:3: not UTF-8"),
        (b"[1, 2]", "x.json:1: not JSON: not an object"),
        (b'["user"]\n["u"]', "x.json: not a JSON array: .*an object per line"),
        (b"[{", "x.json: not a JSON array: .*an object per line"),
        (b'[{"user": "\xff"}]', "x.json: not a JSON array: .*an object per line"),
        (b"", "x.csv:1: has no column 'user'"),
        (b"usr,item,time\nu,i,1\n", "x.csv:1: has no column 'user'; did you mean 'usr'"),
        (b"user:token\titem:token\ttime:float\nu\ti\n", "x.inter:2: 2 columns instead of 3"),
        (b"user,item,time\n", "x.csv:1: holds no interactions"),
        (b"user,item,time\nu,i,1\nu,i\n", "x.csv:3: 2 columns instead of 3"),
        (b"user,item,time\nu,i,1\nu,i,1,2\n", "x.csv:3: 4 columns instead of 3"),
        (b"user,item,time\nu,i,1\nu,,1\n", "x.csv:3: the item is empty"),
        (b'user,item,time\n"u\n\nv",i,1\nu,i,late\n', "x.csv:5: the time cannot be read .column 'time' is 'late'"),
        (b"user,item,time,user\nu,i,1,v\n", "x.csv:1: has 2 columns 'user'; rename one of them"),
        (b'user,item,time\nu,"i"j,1\n', "x.csv:2: not CSV"),
        (b'user,item,time\nu,i,1\nu,"i,2\n', "x.csv:3: not CSV"),
        ("user,item,time\nu,i,1\nu,é,1\n".encode("latin-1"), "x.csv:3: not UTF-8"),
        ("user,item,time\nu,i,1\n".encode("utf-16"), "x.csv:1: "),
    ],
)
def test_what_stops_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_interactions(write(tmp_path / message.partition(":")[0], content), TABLE, BadRows("stop"))


def test_na_can_be_an_id(tmp_path: Path) -> None:
    log = read_interactions(write(tmp_path / "x.csv", b"user,item,time\nNA,na,1\n"), TABLE, BadRows())
    assert log.select("user", "item").rows() == [("NA", "na")]


def test_bad_rows_of_csv_are_counted(tmp_path: Path) -> None:
    bad = BadRows("drop")
    path = write(tmp_path / "x.csv", b"user,item,time\nu,i,1\nu,i\nu,,1\n\nu,j,2\nu,i,x\n")
    log = read_interactions(path, TABLE, bad)
    assert log.select("item", "line").rows() == [("i", 2), ("j", 6)]
    assert sum(bad.dropped.values()) == 3


@pytest.mark.parametrize(
    "name, content, lines",
    [
        ("x.csv", b"\xef\xbb\xbfuser,item,time\nu,i,1\nv,i,2\n", [2, 3]),
        ("x.csv", b"user,item,time\r\nu,i,1\r\nv,i,2\r\n", [2, 3]),
        ("x.csv", b"user,item,time\nu,i,1\n\n\nv,i,2", [2, 5]),
        ("x.csv", b'time,"user",more,item\n1,u,x,i\n2," v ","a,\nb","i"\n', [2, 3]),
        ("x.json", b'\xef\xbb\xbf{"user":"u","item":"i","time":1}\r\n\r\n{"user":"v","item":"i","time":2}', [1, 3]),
    ],
)
def test_harmless_forms(tmp_path: Path, name: str, content: bytes, lines: List[int]) -> None:
    log = read_interactions(write(tmp_path / name, content), TABLE, BadRows("stop"))
    assert log.rows() == [("u", "i", 1.0, lines[0]), ("v", "i", 2.0, lines[1])]


def test_rows_that_are_all_bad_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"user,item,time\nu,i,late\nu,i\n")
    reasons = "x.csv: another number of columns: 1, x.csv: the time cannot be read: 1"
    with pytest.raises(UserError, match=rf"x.csv:1: holds no interactions \(dropped: {reasons}\); the columns are"):
        read_interactions(path, TABLE, BadRows("drop"))


def test_a_number_is_one_id_however_its_block_is_read(tmp_path: Path) -> None:
    """pandas writes ids as 1.0 where some are missing: a bad row must not make others of those in its block."""
    ids = ("1.0", "1", "2.5", "1e5", "1e-7", "-0.0", "1e20", "12345678901234567890", "true", '"1.0"')
    text = "".join(f'{{"user_id":{id_},"parent_asin":{id_},"timestamp":1}}\n' for id_ in ids)
    found = []
    for name, more in (("fast", ""), ("slow", "{}\n")):
        columns = {"user": "user_id", "item": "parent_asin", "time": "timestamp"}
        log = read_interactions(write(tmp_path / f"{name}.jsonl", (text + more).encode()), columns, BadRows("drop"))
        found.append(log.select("user", "item", "line").rows())
    assert found[0] == found[1] and found[0][0][0] == found[0][1][0] == "1"


def times(path: Path, texts: Sequence[str]) -> List[float]:
    write(path, "".join(["user,item,time\n", *(f'u,i,"{text}"\n' for text in texts)]).encode())
    return read_interactions(path, TABLE, BadRows("stop"))["time"].to_list()


@pytest.mark.parametrize(
    "texts, seconds",
    [
        (["1500000000", "1.5e9", "-1", " 7 "], [1.5e9, 1.5e9, -1, 7]),
        (["1500000000000"], [1.5e9]),
        (["1500000000000000"], [1.5e9]),
        (["1500000000000000000"], [1.5e9]),
        (["2017-07-14 02:40:00", "2017-07-14T02:40", "2017-07-14T02:40:00Z", "20170714T024000Z"], [1.5e9] * 4),
        (
            ["2017-07-14T10:40:00+08:00", "2017-07-13T22:10-0430", "2017-07-14 03+00", "2017-07-14"],
            [1.5e9, 1.5e9, 1.5e9 + 1200, 1.5e9 - 9600],
        ),
        (["2017-07-14T02:40:00.25Z", "2017-07-14 02:40:00,250000000 UTC"], [1.5e9 + 0.25] * 2),
    ],
)
def test_units_of_time(
    tmp_path: Path, texts: List[str], seconds: List[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert times(tmp_path / "x.csv", texts) == seconds
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "texts, seconds, mix",
    [
        (["5000", "1500000000000", "1500000001000"], [5, 1.5e9, 1.5e9 + 1], "s 1, ms 2); .* read as ms"),
        (["1500000000", "1500000001", "1500000000000"], [1.5e9, 1.5e9 + 1, 1.5e12], "s 2, ms 1); .* read as s"),
        (["2017-07-14 02:40", "1500000000000000"], [1.5e9, 1.5e9], "µs 1, date 1); .* read as µs"),
    ],
)
def test_a_column_has_one_unit(
    tmp_path: Path, texts: List[str], seconds: List[float], mix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert times(tmp_path / "x.csv", texts) == seconds
    assert re.search(
        r"warning: .*x.csv: column 'time' mixes units \(" + mix.replace(")", r"\)"), capsys.readouterr().out
    )


def test_nothing_is_half_written_or_lost(tmp_path: Path) -> None:
    home = prepare(tmp_path, "Tools", data_dir=str(make_2018(tmp_path / "raw")), **LOOSE)
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    make_2018(tmp_path / "raw", [*REVIEWS, "{"])
    with pytest.raises(UserError, match="Tools.json.gz:10: not JSON"):
        prepare(tmp_path, "Tools", data_dir=str(tmp_path / "raw"), **LOOSE)
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before
    prepare(tmp_path, "Tools", data_dir=str(tmp_path / "raw"), bad_rows="drop", **LOOSE)
    assert read_json(home / "prepare.json")["bad_rows"] == {"Tools.json.gz: not JSON": 1}


def test_items_without_a_title_stop_or_drop(tmp_path: Path) -> None:
    raw = str(make_2018(tmp_path / "raw", meta=META[:2]))
    with pytest.raises(UserError, match=r"Tools.json.gz:3: item c has no row in .*meta_Tools.*\(1 of them: c\)"):
        prepare(tmp_path, "Tools", data_dir=raw, preset="none", **LOOSE)
    with pytest.raises(UserError, match="the filters leave no interaction .*items without a title: 2.*; loosen them"):
        prepare(tmp_path, "Tools", data_dir=raw, missing_titles="drop", **LOOSE)


def test_an_empty_file_of_products_is_reported(tmp_path: Path) -> None:
    raw = make_2018(tmp_path / "raw", meta=[])
    with pytest.raises(UserError, match="meta_Tools.json.gz:1: holds no products; download it again"):
        prepare(tmp_path, "Tools", data_dir=str(raw), **LOOSE)


def test_a_folder_without_rights_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = str(make_2018(tmp_path / "raw"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            prepare(tmp_path, "Tools", data_dir=raw, **LOOSE)
    home = tmp_path / "datasets" / "Tools"
    assert not [path for path in home.iterdir() if path.name != ".lock"]
    os.chmod(tmp_path / "raw" / "Tools.json.gz", 0)
    if os.geteuid():
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            prepare(tmp_path, "Tools", data_dir=raw, **LOOSE)


@pytest.mark.parametrize(
    "row, message, reason",
    [
        ("b,again,\n", "item b is already on line 3", "item described twice"),
        ("x\n", "1 columns instead of 3", "another number of columns"),
        (",no id,\n", "the item is empty", "the item is empty"),
        ("<NA>,no id,\n", "the item is empty", "the item is empty"),
    ],
)
def test_rows_of_items_stop_or_are_dropped_and_counted(
    tmp_path: Path, row: str, message: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = make_table(tmp_path / "raw", "csv")
    with open(tmp_path / "raw" / "products.csv", "a", encoding="utf-8") as out:
        out.write(row * 2)
    with pytest.raises(UserError, match=f"products.csv:6: {message}"):
        prepare_table(tmp_path, *words)
    home = prepare_table(tmp_path, *words, "bad_rows=drop")
    assert load_dataset(home, "Mine").titles_en == ["A, a", 'the "B"', "C"]
    assert read_json(home / "prepare.json")["bad_rows"] == {f"products.csv: {reason}": 2}
    assert f"left out: 2 rows, products.csv: {reason}" in capsys.readouterr().out


def test_items_whose_rows_were_dropped_are_explained(tmp_path: Path) -> None:
    raw = make_2018(tmp_path / "raw", meta=[*META[1:], '{"asin": "a", '])
    with pytest.raises(UserError, match=r"item a has no row in .*gz \(dropped: meta_Tools.json.gz: not JSON: 1\)"):
        prepare(tmp_path, "Tools", data_dir=str(raw), preset="none", bad_rows="drop", **LOOSE)


def test_python_literals_are_read_as_json(tmp_path: Path) -> None:
    """Amazon's metadata of 2014 are single-quoted."""
    plain = prepare(tmp_path, "Tools", data_dir=str(make_2018(tmp_path / "raw")), **LOOSE)
    expected = (plain / "Tools_item_sort.csv").read_text(), read_item_fields(plain, "Tools", 3)
    quoted = prepare(tmp_path, "Tools", data_dir=str(make_2018(tmp_path / "raw", meta=list(map(repr, META)))), **LOOSE)
    assert ((quoted / "Tools_item_sort.csv").read_text(), read_item_fields(quoted, "Tools", 3)) == expected


@pytest.mark.parametrize("text", ["null", "[]", " {} ", "None", "NaN", "<NA>", " ", " none ", "#n/a", "UNDEFINED"])
def test_texts_that_mean_nothing_are_blank(tmp_path: Path, text: str) -> None:
    words = make_table(tmp_path / "raw", "csv")
    (tmp_path / "raw" / "products.csv").write_text(f"id,name,Main colour\na/1,{text},{text}\nb,B,red\nc\td,C,\n")
    home = prepare_table(tmp_path, *words)
    assert load_dataset(home, "Mine").titles_en == ["", "B", "C"]
    assert read_item_fields(home, "Mine", 3) == {"main_colour": ["", "red", ""]}


ID = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=8).filter(
    lambda text: text.strip() == text and text.lower() not in MISSING
)
ROWS = st.lists(st.tuples(ID, ID, st.integers(-(10**10), 10**10)), min_size=1, max_size=12)
PROPERTY = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(ROWS, st.sampled_from(["\n", "\r\n"]))
def test_csv_gives_back_what_was_written(tmp_path: Path, rows: List[Tuple[str, str, int]], end: str) -> None:
    path = tmp_path / "x.csv"
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("user", "item", "time"), *rows])
    log = read_interactions(path, TABLE, BadRows("stop"))
    assert log.select("user", "item", "time").rows() == [(user, item, float(time)) for user, item, time in rows]


@PROPERTY
@given(ROWS, st.booleans(), st.integers(1, 200))
def test_json_gives_back_what_was_written(
    tmp_path: Path, rows: List[Tuple[str, str, int]], ascii_only: bool, block: int
) -> None:
    lines = [json.dumps(dict(zip(TABLE, row)), ensure_ascii=ascii_only) for row in rows]
    path = write(tmp_path / "x.json.gz", gzip.compress("\n".join(lines).encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK", block)
        log = read_interactions(path, TABLE, BadRows("stop"))
    assert log.rows() == [(user, item, float(time), n) for n, (user, item, time) in enumerate(rows, start=1)]


@PROPERTY
@given(st.binary(max_size=200), st.sampled_from(["x.csv", "x.json", "x.tsv", "x.parquet", "x.csv.gz"]))
def test_any_bytes_give_a_log_or_one_clear_error(tmp_path: Path, content: bytes, name: str) -> None:
    path = write(tmp_path / name, b"user\titem\ttime\n" * (name == "x.tsv") + content)
    try:
        log = read_interactions(path, TABLE, BadRows("drop"))
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert log.height
