"""Reading, checking and writing a prepared data set: every fault names its file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import N_ITEMS, make_tiny_dataset, tiny_sequences, tiny_titles

from common import dataset as dataset_module
from common.covers import check_covers
from common.dataset import cover_path, load_dataset, read_times, times_path, write_dataset
from common.errors import UserError

ITEMS = "0,面,noodles\n1,舞,dance\n2,猫,cat\n3,书,book\n"
SEQUENCES = "0 0 1 2\n1 3 2 1 0\n"


def write(folder: Path, items: str = ITEMS, sequences: str = SEQUENCES) -> Path:
    (folder / "D_item_sort.csv").write_bytes(items.encode("utf-8"))
    (folder / "sequential_data.txt").write_bytes(sequences.encode("utf-8"))
    return folder


def test_tiny_dataset_is_read_as_written(tmp_path: Path) -> None:
    dataset = load_dataset(make_tiny_dataset(tmp_path), "Tiny")
    assert dataset.users.tolist() == list(range(12))
    assert [s.tolist() for s in dataset.sequences] == tiny_sequences()
    assert (dataset.items.dtype, dataset.starts.dtype, dataset.users.dtype) == (np.int32, np.int64, np.int64)
    assert (dataset.titles_cn, dataset.titles_en) == tiny_titles()
    assert dataset.n_items == N_ITEMS
    assert dataset.covers == tmp_path / "Tiny" / "covers"
    check_covers(dataset)


def test_what_is_harmless_is_admitted(tmp_path: Path) -> None:
    """Byte-order mark, CRLF, blank lines, trailing blanks, rows out of order, an item that nobody saw."""
    items = "\ufeff1,舞,dance\r\n0,面,noodles\r\n\r\n2,猫,cat\r\n3,无人,unseen\r\n"
    dataset = load_dataset(write(tmp_path, items, "\n7 0 1 2 \r\n\n3 2 1 0\n\n"), "D")
    assert dataset.titles_en == ["noodles", "dance", "cat", "unseen"]
    assert dataset.users.tolist() == [7, 3]
    assert [s.tolist() for s in dataset.sequences] == [[0, 1, 2], [2, 1, 0]]
    assert dataset.covers is None


def test_a_missing_title_is_filled_from_the_other_language(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, "0,,noodles\n1,舞, \n2,猫,cat\n3,书,book\n"), "D")
    assert dataset.titles_cn[:2] == ["noodles", "舞"]
    assert dataset.titles_en[:2] == ["noodles", "舞"]


ITEM_FAULTS: List[Tuple[str, int, str]] = [
    ("0,面,noodles\n1,舞\n", 2, "2 columns instead of 3 .*; put a comma between fields"),
    ("0\n", 1, "1 column instead of 3 .*; put a comma between fields"),
    ("0,面,noodles, hot\n", 1, "4 columns instead of 3 .* in double quotes"),
    ("item,cn,en\n0,面,noodles\n", 1, "no header"),
    ("0,面,noodles\n-1,舞,dance\n", 2, "not a zero-based integer"),
    ("0,面,noodles\n1.0,舞,dance\n", 2, "not a zero-based integer"),
    ('0,面,"noo\ndles"\n1,舞,dance\n0,猫,cat\n', 4, "item 0 is already on line 1"),
    ("0,面,noodles\n2,舞,dance\n", 2, "item 1 has none"),
    ("", 1, "holds no items"),
    ('0,面,"noodles" hot\n', 1, "not CSV"),
    ('0,面,noodles\n1,舞,"dance\n', 2, "not CSV"),
]


SEQUENCE_FAULTS: List[Tuple[str, int, str]] = [
    ("0 0 1 2\n\n1 0 4 2\n", 3, "item 4 has no row in"),
    ("0 0 1 2\n1 0 x 2\n", 2, "'x' is not a zero-based integer"),
    ("0 0 1 2\n1 0 -1 2\n", 2, "'-1' is not a zero-based integer"),
    ("0 0 1 2\n1 0 1.5 2\n", 2, "'1.5' is not a zero-based integer"),
    ("0 0 1 99999999999999999999\n", 1, "is not a zero-based integer"),
    ("0 0 1 0000000000000000002\n", 1, "is not a zero-based integer"),
    ("0 0 1 2\n1 0 1 2 4294967297\n", 2, "item 4294967297 has no row in"),
    ("0 0 1 2\n0 0 1 2\n1 0 9 2\n", 2, "user 0 is already on line 1"),
    ("0 0 1 2\n1 0 9 2\n0 0 1 2\n", 2, "item 9 has no row in"),
    ("0 0 1 2\n\0 0 1 2\n", 2, "is not a zero-based integer"),
    ("0 0 1 2\n1,0,1,2\n", 2, "is not a zero-based integer"),
    ("0 0 1 2\n1 0 1 2\n\n0 2 1 0\n", 4, "user 0 is already on line 1"),
    ("0 0 1 2\n1 0 1\n", 2, "user 1 has 2 items, fewer than 3"),
    ("0 0 1 2\n1\n", 2, "user 1 has 0 items, fewer than 3"),
    ("\n \n", 1, "holds no users"),
]


FAULTS = [("D_item_sort.csv", *fault) for fault in ITEM_FAULTS]
FAULTS += [("sequential_data.txt", *fault) for fault in SEQUENCE_FAULTS]


@pytest.mark.parametrize("block", [7, 1 << 20])
@pytest.mark.parametrize("blank", [" ", "  ", "\t", "\u3000", " " * 40])
@pytest.mark.parametrize("end", ["", "\n", "\r\n \n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_files_that_hold_the_same_numbers_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, blank: str, end: str, start: str
) -> None:
    """Well-formed files are parsed in blocks of whole lines; those with other blanks line by line."""
    monkeypatch.setattr(dataset_module, "_BLOCK", block)
    lines = ["123456789012345678 0 1 02", "7 3 2 1 0 3", "0 1 1 1"]
    data = load_dataset(write(tmp_path, sequences=start + "\n".join(lines).replace(" ", blank) + end), "D")
    assert data.users.tolist() == [123456789012345678, 7, 0]
    assert data.starts.tolist() == [0, 3, 8, 11]
    assert data.items.tolist() == [0, 1, 2, 3, 2, 1, 0, 3, 1, 1, 1]
    assert [one.tolist() for one in data.sequences] == [[0, 1, 2], [3, 2, 1, 0, 3], [1, 1, 1]]
    assert data.sequences[-1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name, text, line, words", FAULTS)
def test_faults_name_file_and_line(tmp_path: Path, name: str, text: str, line: int, words: str) -> None:
    write(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{tmp_path}/{name}:{line}: .*{words}"):
        load_dataset(tmp_path, "D")


def test_a_title_that_is_blank_in_both_languages_is_an_empty_text(tmp_path: Path) -> None:
    """As three items of Bili_Cartoon have it."""
    data = load_dataset(write(tmp_path, items="0,面,noodles\n1, , \n2,,dance\n3,猫,cat\n"), "D")
    assert data.titles_cn == ["面", " ", "dance", "猫"]
    assert data.titles_en == ["noodles", " ", "dance", "cat"]


@pytest.mark.parametrize("name", ["sequential_data.txt", "D_item_sort.csv"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file; .*prepare_dataset.py -d D"):
        load_dataset(tmp_path, "D")


@pytest.mark.parametrize(
    "times, words",
    [
        (None, "no such file; prepare the data set again"),
        ([1, 2, 3, 1, 2], r"shape \(5,\); it must hold the times of 6 interactions"),
        ([1, 2, 3, 1, 2, float("nan")], "all finite"),
        ([1, 2, 3, 9, 2, 3], "the times of user 7 are not in order"),
        (["a"] * 6, "not a whole npy file of numbers"),
    ],
)
def test_times_that_do_not_fit_are_errors(tmp_path: Path, times: Any, words: str) -> None:
    write_dataset(tmp_path, "D", [(3, [0, 1, 2]), (7, [2, 1, 0])], [("a", "b")] * 3)
    if times is not None:
        np.save(times_path(tmp_path), times)
    with pytest.raises(UserError, match=f"interaction_times.npy: .*{words}"):
        read_times(load_dataset(tmp_path, "D"))


def test_covers_that_are_missing_or_broken_are_listed(tmp_path: Path) -> None:
    dataset = load_dataset(make_tiny_dataset(tmp_path), "Tiny")
    assert dataset.covers is not None
    cover_path(dataset.covers, 3).unlink()
    whole = cover_path(dataset.covers, 5).read_bytes()
    cover_path(dataset.covers, 5).write_bytes(whole[: len(whole) // 2])
    cover_path(dataset.covers, 8).write_text("no picture")
    with pytest.raises(UserError) as fault:
        check_covers(dataset)
    first, *listed = str(fault.value).splitlines()
    assert "3 of 15 covers cannot be used" in first
    assert [line.split(":")[0].rsplit("/")[-1] for line in listed] == ["3.jpg", "5.jpg", "8.jpg"]
    assert "missing" in listed[0]
    assert "does not decode" in listed[1]


def test_of_many_missing_covers_twenty_are_listed(tmp_path: Path) -> None:
    titles = [("a", "b")] * 30
    write_dataset(tmp_path, "D", [(0, [0, 1, 2])], titles)
    (tmp_path / "covers").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "covers" / "0.jpg")
    with pytest.raises(UserError) as fault:
        check_covers(load_dataset(tmp_path, "D"))
    assert "29 of 30" in str(fault.value)
    assert str(fault.value).count(": missing") == 20
    assert "and 9 more" in str(fault.value)


def test_a_data_set_without_covers_says_so(tmp_path: Path) -> None:
    dataset = load_dataset(make_tiny_dataset(tmp_path, covers=False), "Tiny")
    assert dataset.covers is None
    with pytest.raises(UserError, match=r"covers: no such folder; .*modalities=\[text\]"):
        check_covers(dataset)


texts = st.text(
    st.one_of(
        st.sampled_from("\",\n\r\t'; 面é"), st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])
    ),
    max_size=12,
)
titles_of_items = st.lists(
    st.tuples(texts, texts).filter(lambda t: t[0].strip() and t[1].strip()), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(titles=titles_of_items, data=st.data())
def test_what_is_written_is_read_back(tmp_path: Path, titles: List[Tuple[str, str]], data: st.DataObject) -> None:
    item = st.integers(0, len(titles) - 1)
    users = st.integers(0, 10**12)
    sequences = data.draw(st.dictionaries(users, st.lists(item, min_size=3, max_size=9), min_size=1, max_size=6))
    write_dataset(tmp_path, "D", sequences.items(), titles)
    dataset = load_dataset(tmp_path, "D")
    assert list(zip(dataset.titles_cn, dataset.titles_en)) == titles
    assert dict(zip(dataset.users, (s.tolist() for s in dataset.sequences))) == sequences
    assert dataset.users.tolist() == list(sequences)
