"""Preparation from LETTER's JSON files, and the items' further fields on their way through the preparation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest
from test_prepare_dataset import contents, prepare
from tiny import make_tiny_dataset

from common.dataset import load_dataset
from common.errors import UserError
from common.item_fields import item_fields_path, read_item_fields, write_item_fields


def entry(title: str, brand: str = "") -> Dict[str, str]:
    return {"title": title, "description": 'a "d",\nb', "brand": brand, "categories": "Tools,Saws"}


HISTORIES: Dict[str, Any] = {"7": [10, 2, 10], "3": [2, 0, 10, 0]}
ITEMS: Dict[str, Any] = {"2": entry("Two, the"), "0": entry("Nought", "B"), "9": entry("unseen"), "10": entry("Ten")}
ITEMS["10"]["category"] = ""  # beside categories: the one that is filled is taken


def make_letter(folder: Path, name: str = "Tools", inter: Any = HISTORIES, item: Any = ITEMS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.inter.json").write_text(json.dumps(inter))
    (folder / f"{name}.item.json").write_text(json.dumps(item))
    return folder


def test_letter_keeps_order_and_fields(tmp_path: Path) -> None:
    home = prepare(tmp_path, "Tools", data_dir=str(make_letter(tmp_path / "raw")))
    assert (home / "sequential_data.txt").read_text() == "0 1 0 2 0\n1 2 1 2\n"
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,3\n1,7\n"
    assert (home / "item_ids.csv").read_text() == "id,original_id\n0,0\n1,2\n2,10\n"
    assert not (home / "interaction_times.npy").exists()  # the order is known, the times are not
    assert load_dataset(home, "Tools").titles_en == ["Nought", "Two, the", "Ten"]
    fields = read_item_fields(home, "Tools", 3)
    assert fields["brand"] == ["B", "", ""]
    assert fields["category"] == ["Tools,Saws"] * 3
    assert fields["description"] == ['a "d",\nb'] * 3


@pytest.mark.parametrize(
    "files, message",
    [
        ({"inter": []}, "Tools.inter.json:1: not a JSON object with content"),
        ({"inter": {"1": "2"}}, "user 1: not a list of items"),
        ({"item": {**ITEMS, "2": {"title": 5}}}, "item 2: not an object of texts"),
    ],
)
def test_letter_faults(tmp_path: Path, files: Any, message: str) -> None:
    raw = make_letter(tmp_path / "raw", **files)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, "Tools", data_dir=str(raw))
    assert not (tmp_path / "datasets" / "Tools" / "sequential_data.txt").exists()


def test_files_of_another_source_do_not_stay(tmp_path: Path) -> None:
    home = prepare(tmp_path, "Tools", data_dir=str(make_letter(tmp_path / "raw")))
    old = [item_fields_path(home, "Tools"), home / "item_ids.csv", home / "user_ids.csv"]
    assert all(path.is_file() for path in old)
    make_tiny_dataset(tmp_path / "other", "Tools", covers=False)
    prepare(tmp_path, "Tools", data_dir=str(tmp_path / "other"))
    assert not any(path.exists() for path in old)


def test_prepared_fields_are_checked_and_copied(tmp_path: Path) -> None:
    source = make_tiny_dataset(tmp_path / "mine", covers=False)
    write_item_fields(source, "Tiny", {"brand": ["B"] * 15})
    home = prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "mine"))
    assert read_item_fields(home, "Tiny", 15) == {"brand": ["B"] * 15}
    write_item_fields(source, "Tiny", {"brand": ["C"] * 14})
    before = contents(home)
    with pytest.raises(UserError, match="14 items instead of 15"):
        prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "mine"))
    assert contents(home) == before
