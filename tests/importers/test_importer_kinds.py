"""Preparation from Amazon's, RecFormer's and UniSRec's files and from tables of one's own, in their public formats."""

from __future__ import annotations

import gzip
import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import polars as pl
import pytest
from test_prepare_dataset import prepare
from tiny import tiny_cover

from common.dataset import load_dataset, read_times
from common.errors import UserError
from common.files import read_json
from common.item_fields import read_item_fields
from importers.raw import BadRows, joined, parsed_list
from importers.tables import read_frames, read_interactions, read_parquet
from stage1_content_modality_semantic_alignment.prepare_dataset import main

LOOSE: Dict[str, Any] = {"k_core": 0, "min_length": 3}


def zipped(path: Path, lines: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sequences(home: Path) -> List[List[str]]:
    """Users' items by their original ids."""
    originals = [line.partition(",")[2] for line in (home / "item_ids.csv").read_text().splitlines()[1:]]
    return [[originals[item] for item in items] for items in load_dataset(home, home.name).sequences]


def review(user: str, item: str, time: Any) -> Dict[str, Any]:
    return {"overall": 5.0, "reviewerID": user, "asin": item, "reviewText": "fine", "unixReviewTime": time}


REVIEWS = [review(u, i, t) for u, i, t in ["Aa2", "Ab1", "Ac3", "Bb5", "Ba4", "Bc6", "Ba9", "Ce1", "Cf2"]]
META: List[Any] = [
    {
        "asin": "a",
        "title": "The <b>A</b> &amp; co",
        "brand": "B",
        "category": ["Tools", "Saws"],
        "description": ["x", "y"],
    },
    {
        "asin": "b",
        "title": 'B, "b"',
        "brand": "",
        "category": [],
        "imageURLHighRes": ["http://x/b.jpg", "http://x/c.jpg"],
    },
    {"asin": "c", "title": "C"},
    {"asin": "c", "title": "C again"},
    {"asin": "e", "title": "var getTime = 5"},
]


def make_2018(folder: Path, reviews: Sequence[Any] = REVIEWS, meta: Sequence[Any] = META) -> Path:
    zipped(folder / "Tools.json.gz", reviews)
    zipped(folder / "meta_Tools.json.gz", meta)
    return folder


def test_amazon2018(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = prepare(tmp_path, "Tools", data_dir=str(make_2018(tmp_path / "raw")), **LOOSE)
    assert sequences(home) == [["b", "a", "c"], ["a", "b", "c"]]
    assert read_times(load_dataset(home, "Tools")).tolist() == [1, 2, 3, 4, 5, 6]
    assert load_dataset(home, "Tools").titles_en == ["The A & co", 'B, "b"', "C"]
    assert read_item_fields(home, "Tools", 3) == {
        "brand": ["B", "", ""],
        "category": ["Tools, Saws", "", ""],
        "description": ["x y", "", ""],
        "image_url": ["", "http://x/b.jpg", ""],
    }
    assert read_json(home / "prepare.json")["dropped"] == {
        "duplicates": 1,
        "users with fewer than 3 interactions": 2,
    }
    assert "left out: 1 interactions, duplicates" in capsys.readouterr().out


def test_the_five_core_file_goes_before_all_reviews(tmp_path: Path) -> None:
    raw = make_2018(tmp_path / "raw")
    zipped(raw / "Tools_5.json.gz", REVIEWS[:3])
    assert len(sequences(prepare(tmp_path, "Tools", data_dir=str(raw), **LOOSE))) == 1


@pytest.mark.parametrize("form", ["jsonl.gz", "csv", "split"])
def test_amazon2023(tmp_path: Path, form: str) -> None:
    raw = tmp_path / "raw"
    rows = [("A", "a", 1500000002000), ("A", "b", 1500000001000), ("A", "c", 1500000003000), ("A", "d", 1500000004000)]
    meta = [
        {
            "parent_asin": i,
            "title": i * 2,
            "store": "S",
            "categories": ["T", "U"],
            "images": [{"large": "L", "hi_res": None}],
        }
        for i in "abcd"
    ]
    if form == "jsonl.gz":
        keys = ("user_id", "parent_asin", "timestamp")
        zipped(raw / "Tools.jsonl.gz", [{**dict(zip(keys, row)), "asin": "variant"} for row in rows])
    else:
        header = "user_id,parent_asin,rating,timestamp"
        parts = {"": rows} if form == "csv" else {".train": rows[:2], ".valid": rows[2:3], ".test": rows[3:]}
        for part, some in parts.items():
            zipped(raw / f"Tools{part}.csv", [header, *(f"{u},{i},5.0,{t}" for u, i, t in some)])
    zipped(raw / "meta_Tools.jsonl.gz", meta)
    home = prepare(tmp_path, "Tools", data_dir=str(raw), source="amazon2023", **LOOSE)
    assert sequences(home) == [["b", "a", "c", "d"]]
    assert read_times(load_dataset(home, "Tools")).tolist() == [1500000001, 1500000002, 1500000003, 1500000004]
    fields = read_item_fields(home, "Tools", 4)
    assert {name: texts[0] for name, texts in fields.items()} == {"brand": "S", "category": "T, U", "image_url": "L"}


def test_recformer(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    meta = {item: {"title": f"t{item}", "brand": "", "category": "Tools Saws"} for item in ("X", "Y", "Z", "W")}
    files = {
        "train": {"0": [2, 0], "1": [1]},
        "val": {"0": [1], "1": [0]},
        "test": {"0": [2], "1": [2]},
        "umap": {"u": 0, "v": 1},
        "smap": {"X": 0, "Y": 1, "Z": 2, "W": 3},
        "meta_data": meta,
    }
    for name, content in files.items():
        zipped(raw / f"{name}.json", [content])
    home = prepare(tmp_path, "Tools", data_dir=str(raw))
    assert sequences(home) == [["Z", "X", "Y", "Z"], ["Y", "X", "Z"]]
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,u\n1,v\n"
    assert load_dataset(home, "Tools").titles_en == ["tX", "tY", "tZ"]
    assert read_item_fields(home, "Tools", 3) == {"category": ["Tools Saws"] * 3}


def make_unisrec(folder: Path, longest_first: bool, cut: int = 50) -> Path:
    """One user of seven items and one of three, histories cut to their last ``cut``."""
    rows: Dict[str, List[str]] = {"train": [], "valid": [], "test": []}
    for user, items in {"7": [3, 1, 2, 0, 3, 2, 4], "12": [0, 1, 2]}.items():
        prefixes = [(items[:end][-cut:], items[end]) for end in range(1, len(items))]
        lines = [f"{user}\t{' '.join(map(str, history))}\t{target}" for history, target in prefixes]
        rows["test"].append(lines.pop())
        rows["valid"].append(lines.pop())
        rows["train"] += lines[::-1] if longest_first else lines
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for part, lines in rows.items():
        zipped(folder / f"Tools.{part}.inter", [header, *lines])
    zipped(folder / "Tools.text", ["item_id:token\ttext:token_seq", *(f"{item}\ttext {item}" for item in range(5))])
    zipped(folder / "Tools.user2index", ["u\t7", "v\t12"])
    zipped(folder / "Tools.item2index", [f"B0{item}\t{item}" for item in range(5)])
    return folder


@pytest.mark.parametrize("longest_first", [True, False])
@pytest.mark.parametrize("cut", [2, 50])
def test_unisrec_sequences_are_whole_again(tmp_path: Path, longest_first: bool, cut: int) -> None:
    raw = make_unisrec(tmp_path / "raw", longest_first, cut)
    home = prepare(tmp_path, "Tools", data_dir=str(raw))
    assert sequences(home) == [[f"B0{item}" for item in items] for items in ([3, 1, 2, 0, 3, 2, 4], [0, 1, 2])]
    assert load_dataset(home, "Tools").titles_en == [f"text {item}" for item in range(5)]


def test_unisrec_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    raw = make_unisrec(tmp_path / "raw", True)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    zipped(raw / "Tools.test.inter", [header, "7\t0 2\t4", "12\t0 1\t2"])
    with pytest.raises(UserError, match="user 7: the rows are not prefixes of one sequence"):
        prepare(tmp_path, "Tools", data_dir=str(raw))


CLICKS = [("u 1", "a/1", 5), ("u 1", "b", 4), ("u 1", "c\td", 6), ("w", "b", 1), ("w", "a/1", 2), ("w", "c\td", 3)]
PRODUCTS = [("a/1", "A, a", "red"), ("b", 'the "B"', ""), ("c\td", "C", "blue"), ("e", "E", "")]


def write_form(frame: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parts":
        path.mkdir()
        for row in range(frame.height):
            frame[row : row + 1].write_parquet(path / f"part-{row:05}.snappy.parquet")
        (path / "_SUCCESS").touch()
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(frame.to_dicts(), indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


def make_table(folder: Path, form: str) -> List[str]:
    """The two tables in one form, and the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    clicks = pl.DataFrame(CLICKS, schema=["who", "what", "when"], orient="row")
    products = pl.DataFrame(PRODUCTS, schema=["id", "name", "Main colour"], orient="row")
    for name, frame in (("clicks", clicks), ("products", products)):
        write_form(frame, folder / f"{name}.{form}")
    files = [f"data_dir={folder}", f"inter_file=clicks.{form}", f"item_file=products.{form}"]
    columns = ["user_column=who", "item_column=what", "time_column=when", "item_id_column=id", "title_column=name"]
    return [*files, *columns, "field_columns=[Main colour]"]


def prepare_table(tmp_path: Path, *words: str) -> Path:
    main(["--from", "table", "-d", "Mine", f"datasets_dir={tmp_path}/datasets", *words])
    return tmp_path / "datasets" / "Mine"


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet", "parts"])
def test_tables_of_every_form_give_one_data_set(tmp_path: Path, form: str) -> None:
    words = make_table(tmp_path / "raw", form)
    home = prepare_table(tmp_path, *words)
    assert (home / "sequential_data.txt").read_text() == "0 1 0 2\n1 1 0 2\n"
    assert load_dataset(home, "Mine").titles_en == ["A, a", 'the "B"', "C"]
    assert read_item_fields(home, "Mine", 3) == {"main_colour": ["red", "", "blue"]}
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,u 1\n1,w\n"


def test_lists_and_objects_of_parquet_are_those_of_json(tmp_path: Path) -> None:
    table = pl.DataFrame({"id": ["a", "b"], "tags": [["x", "é y"], None], "size": [{"w": 1}, {"w": 2}]})
    table.write_parquet(tmp_path / "x.parquet")
    table.write_ndjson(tmp_path / "x.jsonl")
    names = ["id", "tags", "size"]
    of_json = pl.concat(read_frames(tmp_path / "x.jsonl", names, BadRows()))
    read = read_parquet(tmp_path / "x.parquet", names)
    assert read["tags"].to_list() == ['["x", "é y"]', None]
    assert [list(map(json.loads, read[name].drop_nulls())) for name in names[1:]] == [
        list(map(json.loads, of_json[name].drop_nulls())) for name in names[1:]
    ]
    pl.DataFrame({"tags": [['"y"']]}).write_parquet(tmp_path / "y.parquet")  # polars 1.36 reads it from JSON unescaped
    assert read_parquet(tmp_path / "y.parquet", ["tags"])["tags"].to_list() == ['["\\"y\\""]']


LISTS = [["a", "", None, ["b"]], ["a"], [" "], []]


@pytest.mark.parametrize("kind", ["letter", "json", "parquet", "amazon2018"])
def test_lists_of_texts_are_joined(tmp_path: Path, kind: str) -> None:
    """Every reader gives the same text, without empty parts."""
    ids = ["a", "b", "c", "d"]
    nested = pl.Series([[["a"], [""], None, ["b"]], [["a"]], [[" "]], []], dtype=pl.List(pl.List(pl.String)))
    items = [{"asin": item, "title": title, "category": title} for item, title in zip(ids, LISTS)]
    if kind == "letter":
        zipped(tmp_path / "Mine.inter.json", [{"u": ids}])
        zipped(tmp_path / "Mine.item.json", [dict(zip(ids, items))])
        home = prepare(tmp_path, "Mine", data_dir=str(tmp_path), source=kind)
    elif kind == "amazon2018":
        zipped(tmp_path / "Mine.json.gz", [review("u", item, n) for n, item in enumerate(ids)])
        zipped(tmp_path / "meta_Mine.json.gz", items)
        home = prepare(tmp_path, "Mine", data_dir=str(tmp_path), source=kind, preset="none")
    else:
        pl.DataFrame({"user": "u", "item": ids, "timestamp": range(4)}).write_csv(tmp_path / "i.csv")
        if kind == "json":
            zipped(tmp_path / "t.json", items)
        else:
            pl.DataFrame({"asin": ids, "title": nested, "category": nested}).write_parquet(tmp_path / "t.parquet")
        words = ["user_column=user", "item_column=item", "time_column=timestamp", "item_id_column=asin"]
        files = [f"data_dir={tmp_path}", "inter_file=i.csv", f"item_file=t.{kind}", "title_column=title"]
        home = prepare_table(tmp_path, *files, *words, "field_columns=[category]")
    assert load_dataset(home, "Mine").titles_en == ["a, b", "a", "", ""]
    assert read_item_fields(home, "Mine", 4) == {"category": ["a, b", "a", "", ""]}


@pytest.mark.parametrize(
    "text, title",
    [('["a", "b"]', "a, b"), ("[Deluxe] saw", "[Deluxe] saw"), ("[" * 3000, "[" * 3000), ('[{"w": 1}]', '{"w": 1}')],
)
def test_only_lists_are_joined(text: str, title: str) -> None:
    assert joined(parsed_list(text)) == title


DAY = date(2024, 1, 2)


@pytest.mark.parametrize(
    "values, texts",
    [
        ([b"a", None], ["a", None]),
        ([1.0, 2.5], ["1", "2.5"]),
        ([Decimal("1.10"), None], ["1.10", None]),
        ([Decimal("0.00"), Decimal("10.00"), Decimal("2.05")], ["0", "10", "2.05"]),
        ([timedelta(minutes=1), timedelta(days=1)], ["60", "86400"]),
        ([DAY, None], ["2024-01-02", None]),
        ([datetime(2024, 1, 2, 8), datetime(2024, 1, 2)], ["2024-01-02 08:00:00", "2024-01-02 00:00:00"]),
        (pl.Series([datetime(2024, 1, 2, 8)]).dt.replace_time_zone("Asia/Shanghai"), ["2024-01-02 08:00:00+08:00"]),
        ([True, None], ["true", None]),
        ([None], [None]),
        (
            [{"b": "\ufffd".encode(), "d": timedelta(1), "t": [DAY]}],
            ['{"b": "\ufffd", "d": "1 day, 0:00:00", "t": ["2024-01-02"]}'],
        ),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2)), ["[1, 2]"]),
        (pl.Series(["x"], dtype=pl.Categorical), ["x"]),
    ],
)
def test_columns_of_parquet_as_text(tmp_path: Path, values: Any, texts: List[Any]) -> None:
    pl.DataFrame({"x": values}).write_parquet(tmp_path / "x.parquet")
    assert read_parquet(tmp_path / "x.parquet", ["x"])["x"].to_list() == texts


@pytest.mark.parametrize("column", [DAY, datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=timezone.utc)])
def test_dates_of_parquet_are_times(tmp_path: Path, column: date) -> None:
    pl.DataFrame({"user": ["u"], "item": [DAY], "time": [column]}).write_parquet(tmp_path / "x.parquet")
    log = read_interactions(tmp_path / "x.parquet", {name: name for name in ("user", "item", "time")}, BadRows())
    assert log.rows() == [("u", "2024-01-02", 1704153600.0, 1)]


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [text], lambda text: {"a": [text]}])
def test_bytes_of_parquet_that_are_not_text_are_named(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    values = [wrap("\ufffd".encode()), None, wrap(b"\xff")]
    pl.DataFrame({"x": values}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x.parquet:3: column 'x' \(.*Binary.*\) is not text; convert it"):
        read_parquet(tmp_path / "x.parquet", ["x"])


def make_parts(folder: Path, parts: Dict[str, Dict[str, List[Any]]]) -> Path:
    for name, columns in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(columns).write_parquet(folder / name)
    return folder


ONE: Dict[str, List[Any]] = {"x": [1], "y": ["a"]}


@pytest.mark.parametrize(
    "parts",
    [
        {"0.parquet": ONE, "1.parquet": {"new": [0], "y": ["b"], "x": [2]}},
        {"0.parquet": ONE, "[1].parquet": {"x": [2], "y": ["b"]}},
        {"0.parquet": ONE, "1.parquet": {"x": [2], "y": ["b"]}, "2.parquet": {"x": [None], "y": [None]}},
        {"day=1/p.parquet": ONE, "day=2/hour=1/p.parquet": {"x": [2], "y": ["b"]}},
        {"0.parquet": ONE, "1.parquet": {"x": [2], "y": ["b"]}, "._0.parquet": {"z": [1]}, "_old/1.parquet": ONE},
    ],
)
def test_parts_are_read_whatever_else_they_hold(tmp_path: Path, parts: Dict[str, Dict[str, List[Any]]]) -> None:
    make_parts(tmp_path / ".parts", parts)
    (tmp_path / ".parts" / "_metadata").write_text("no data")
    assert read_parquet(tmp_path / ".parts", ["y", "x"]).drop_nulls().rows() == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize(
    "part, found",
    [
        ({"x": ["2"], "y": ["b"]}, "column 'x' has the type String, but the parts before it have it as Int64"),
        ({"x": [2], "y": [DAY]}, "column 'y' has the type Date, but the parts before it have it as String"),
        ({"x": [2]}, "column 'y' is missing, but the parts before it have it as String"),
    ],
)
def test_a_part_of_another_form_is_named(tmp_path: Path, part: Dict[str, List[Any]], found: str) -> None:
    parts = make_parts(tmp_path, {"0.parquet": ONE, "1.parquet": part})
    with pytest.raises(UserError, match=f"1.parquet: {found}; write all parts with the same columns and types$"):
        read_parquet(parts, ["x", "y"])


def test_parts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder without files \*.parquet"):
        read_parquet(tmp_path, ["x"])
    make_parts(tmp_path, {"0.parquet": ONE})
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="1.parquet: cannot be read as Parquet: .*; write or download it again"):
        read_parquet(tmp_path, ["x"])


def test_a_time_of_day_is_no_point_in_time(tmp_path: Path) -> None:
    pl.DataFrame({"user": ["u"], "item": ["i"], "time": [time(1, 2)]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="x.parquet:1: the time cannot be read .column 'time' is '01:02:00'"):
        read_interactions(tmp_path / "x.parquet", {name: name for name in ("user", "item", "time")}, BadRows())


def test_pictures_of_a_table_are_found_by_id_in_any_format(tmp_path: Path) -> None:
    words = make_table(tmp_path / "raw", "csv")
    pictures = tmp_path / "raw" / "pictures"
    pictures.mkdir()
    tiny_cover(1).save(pictures / "b.png")
    tiny_cover(2).resize((64, 16)).save(pictures / "c\td.jpg")
    more = [f"covers_dir={pictures}", "missing_covers=zero", "cover_side=16"]
    home = prepare_table(tmp_path, *words, *more)
    assert sorted(path.name for path in (home / "covers").glob("*.jpg")) == ["1.jpg", "2.jpg"]
    assert [one["original_id"] for one in read_json(home / "prepare.json")["missing_covers"]] == ["a/1"]
    from PIL import Image

    assert Image.open(home / "covers" / "2.jpg").size == (16, 4)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--from", "tabel"], "did you mean 'table'"),
        (["--from", "table", "source=letter"], "'source' is given twice"),
        (["--from", "table"], "inter_file=FILE item_file=FILE"),
        (["inter_file=x.csv"], "add --from table"),
        (["--from", "ml-100k", "k_core=5"], "setting 'k_core' is for"),
        (["--from", "table", "inter_file=c.txt", "item_file=i.csv"], "inter_file: .*c.txt: no such file"),
        (["--from", "table", "max_length=2"], "max_length=2: a user needs 3 items"),
        (["--from", "table", "user_column=item"], "user_column, item_column, time_column: two of them"),
        (["--from", "table", "dataset=ml-100k"], "is recbole's MovieLens, not --from table; .* -d NAME"),
    ],
)
def test_commands_that_are_refused(tmp_path: Path, words: List[str], message: str) -> None:
    dataset = [] if "dataset=ml-100k" in words else ["-d", "Mine"]
    with pytest.raises(UserError, match=message):
        main([*words, *dataset, f"datasets_dir={tmp_path}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_column_may_have_any_name(tmp_path: Path, form: str) -> None:
    """Those that the reader adds do not collide with a user's."""
    words = [f"data_dir={tmp_path}", f"inter_file=i.{form}", f"item_file=t.{form}", "item_id_column=first"]
    for names in (
        ("line", "first", "item"),
        ("user", "line", "time"),
        ("time", "item", "line"),
        ("unit", "date", "number"),
    ):
        columns = [f"{key}_column={name}" for key, name in zip(("user", "item", "time"), names)]
        products = [(item, f"{item} line", f"{item} again") for item in ("a/1", "b", "c\td")]
        write_form(pl.DataFrame(CLICKS, schema=list(names), orient="row"), tmp_path / f"i.{form}")
        write_form(pl.DataFrame(products, schema=["first", "line", "twice"], orient="row"), tmp_path / f"t.{form}")
        fields = ["title_column=twice", "field_columns=[line, first]"]
        home = prepare_table(tmp_path, *words, *columns, *fields)
        assert (home / "sequential_data.txt").read_text() == "0 1 0 2\n1 1 0 2\n"
        assert load_dataset(home, "Mine").titles_en == ["a/1 again", "b again", "c\td again"]
        assert read_item_fields(home, "Mine", 3)["line"] == ["a/1 line", "b line", "c\td line"]


@pytest.mark.parametrize("columns", ["title_en", "Title-CN", "item", "name, name", "Name, name", "名"])
def test_fields_that_would_hide_a_text_are_refused(tmp_path: Path, columns: str) -> None:
    words = make_table(tmp_path / "raw", "csv")[:-1]
    with pytest.raises(
        UserError, match="setting 'field_columns': column '.*' cannot be the field '.*rename the column"
    ):
        prepare_table(tmp_path, *words, f"field_columns=[{columns}]")
