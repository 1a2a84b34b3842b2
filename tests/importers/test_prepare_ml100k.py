"""Preparation from MovieLens 100K as RecBole ships it, and the covers drawn for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_prepare_dataset import prepare
from tiny import tiny_cover

from common.covers import check_covers
from common.dataset import load_dataset, read_times
from common.item_fields import read_item_fields
from importers.drawn_covers import draw_cover
from importers.ml100k import dated


def test_ml100k_has_the_stated_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = prepare(tmp_path, "ml-100k", draw_covers=False)
    dataset = load_dataset(home, "ml-100k")
    assert len(dataset.users) == 943
    assert dataset.n_items == 1382
    assert {len(sequence) for sequence in dataset.sequences} == {20}
    assert dataset.covers is None
    assert dataset.titles_en[0] == "Toy Story (1995): Animation, Children's, Comedy"
    assert dataset.titles_cn == dataset.titles_en
    fields = read_item_fields(home, "ml-100k", 1382)
    assert {name: texts[0] for name, texts in fields.items()} == {
        "title": "Toy Story (1995)",
        "category": "Animation, Children's, Comedy",
    }
    originals = [line.split(",")[1] for line in (home / "item_ids.csv").read_text().splitlines()[1:]]
    assert [int(original) for original in originals] == sorted(int(original) for original in originals)
    assert {int(item) for sequence in dataset.sequences for item in sequence} == set(range(1382))
    printed = capsys.readouterr().out
    assert "users 943  items 1,382  interactions 18,860" in printed
    assert "min 20  mean 20.00  max 20" in printed
    assert "no covers: text only" in printed


def make_ratings(folder: Path) -> Path:
    """Two users; user 7 saw 10 and 9 at one time."""
    folder.mkdir()
    ratings = ["7 10 1 300", "7 9 5 300", "7 2 3 100", "7 30 3 200", "2 2 1 9", "2 9 1 8", "2 10 1 7"]
    inter = ["user_id:token item_id:token rating:float timestamp:float", *ratings]
    (folder / "ml-100k.inter").write_bytes("\r\n".join(line.replace(" ", "\t") for line in inter).encode())
    films = ["2\tTwo, The\t1990\tDrama War", "9\tNine\t1991\tHorror", "10\tTen (1992)\tV\tunknown", "30\tX\t1993\tWar"]
    item = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", *films]
    (folder / "ml-100k.item").write_text("\n".join(item) + "\n")
    return folder


def test_ml100k_orders_by_time_then_item_and_keeps_the_last(tmp_path: Path) -> None:
    home = prepare(tmp_path, "Small", data_dir=str(make_ratings(tmp_path / "raw")), last_items=3)
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,2\n1,7\n"
    assert (home / "item_ids.csv").read_text() == "id,original_id\n0,2\n1,9\n2,10\n3,30\n"
    assert (home / "sequential_data.txt").read_text() == "0 2 1 0\n1 3 1 2\n"
    assert read_times(load_dataset(home, "Small")).tolist() == [7, 8, 9, 200, 300, 300]
    prepare(tmp_path, "Small", data_dir=str(tmp_path / "raw"), last_items=3, ties="row")
    assert (home / "sequential_data.txt").read_text() == "0 2 1 0\n1 3 2 1\n"
    dataset = load_dataset(home, "Small")
    assert dataset.titles_en == [
        "Two, The (1990): Drama, War",
        "Nine (1991): Horror",
        "Ten (1992): unknown",
        "X (1993): War",
    ]
    check_covers(dataset)
    with Image.open(home / "covers" / "3.jpg") as cover:
        assert (cover.size, cover.mode, cover.format) == ((224, 224), "RGB", "JPEG")


def test_ml100k_takes_covers_by_original_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "posters").mkdir()
    for original in (2, 9, 10, 30):
        tiny_cover(original % 9).save(tmp_path / "posters" / f"{original}.jpg")
    raw = str(make_ratings(tmp_path / "raw"))
    home = prepare(tmp_path, "Small", data_dir=raw, last_items=3, covers_dir=str(tmp_path / "posters"))
    printed = capsys.readouterr().out
    assert "with cover 100.0%\n" in printed and "field category 100.0%\n" in printed
    for item, original in enumerate((2, 9, 10, 30)):
        assert (home / "covers" / f"{item}.jpg").samefile(tmp_path / "posters" / f"{original}.jpg")


def test_the_year_is_not_repeated() -> None:
    assert dated("Toy Story", "1995") == "Toy Story (1995)"
    assert dated("Toy Story (1995)", "1995") == "Toy Story (1995)"
    assert dated("Land (1995)", "V") == "Land (1995)"


def test_drawn_covers_are_deterministic_and_tell_genres_apart() -> None:
    one = draw_cover("Misérables, Les (1995)", ["Drama", "Musical"])
    assert one.tobytes() == draw_cover("Misérables, Les (1995)", ["Drama", "Musical"]).tobytes()
    assert one.tobytes() != draw_cover("Misérables, Les (1995)", ["War"]).tobytes()
    assert draw_cover("", []).size == (224, 224)
    assert draw_cover("word" * 40 + " 面" * 30, ["no such genre"] * 9).size == (224, 224)
