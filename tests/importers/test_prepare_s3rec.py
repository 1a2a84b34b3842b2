"""Preparation from S3-Rec's text files, which hold no titles."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_prepare_dataset import prepare

from common.dataset import load_dataset
from common.errors import UserError
from common.files import read_json

GOOD = "10 3 1 20\n2 20 3 1 3\r\n\n7 1 3 20\n"


def make_s3rec(folder: Path, text: str = GOOD) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Toys.txt").write_bytes(text.encode())
    return folder


def test_s3rec_is_found_and_numbered_by_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = prepare(tmp_path, "Toys", data_dir=str(make_s3rec(tmp_path / "raw")))
    assert (home / "sequential_data.txt").read_text() == "0 2 1 0 1\n1 0 1 2\n2 1 0 2\n"
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,2\n1,7\n2,10\n"
    assert (home / "item_ids.csv").read_text() == "id,original_id\n0,1\n1,3\n2,20\n"
    assert load_dataset(home, "Toys").titles_en == ["", "", ""]
    printed = capsys.readouterr().out
    assert "no covers: for models on IDs alone" in printed and "warning" not in printed


@pytest.mark.parametrize(
    "line, message, reason",
    [
        ("5 1 x 3", "5: 'x' is not a number from 1", "not a number"),
        ("5 0 1 3", "5: '0' is not a number from 1", "not a number"),
        ("5 1 2.5 3", "5: '2.5' is not a number from 1", "not a number"),
        ("5", "5: a user without items", "a user without items"),
        ("2 1 3 20", "5: user 2 is already on line 2", "a user again"),
    ],
)
def test_a_bad_line_is_reported_or_counted(tmp_path: Path, line: str, message: str, reason: str) -> None:
    raw = make_s3rec(tmp_path / "raw", GOOD + line + "\n")
    with pytest.raises(UserError, match=f"Toys.txt:{message}"):
        prepare(tmp_path, "Toys", data_dir=str(raw))
    assert not (tmp_path / "datasets" / "Toys" / "sequential_data.txt").exists()
    home = prepare(tmp_path, "Toys", data_dir=str(raw), bad_rows="drop")
    assert len(load_dataset(home, "Toys").users) == 3
    assert read_json(home / "prepare.json")["bad_rows"] == {f"Toys.txt: {reason}": 1}


def test_a_short_user_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Toys.txt:5: user 5 has 2 interactions"):
        prepare(tmp_path, "Toys", data_dir=str(make_s3rec(tmp_path / "raw", GOOD + "5 1 3\n")))
    with pytest.raises(UserError, match="Toys.txt:1: holds no interactions"):
        prepare(tmp_path, "Toys", data_dir=str(make_s3rec(tmp_path / "raw", "")))
