from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence, Tuple

import numpy as np
import pytest
from read_only import read_only
from stage1_helpers import pairs_settings
from tiny import make_tiny_dataset, tiny_titles

from common.errors import UserError
from stage1_content_modality_semantic_alignment import llm_driven_sample, pair_report
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, write_rows
from stage1_content_modality_semantic_alignment.pair_report import Settings, overlap, random_pairs
from stage1_content_modality_semantic_alignment.settings import pairs_dir

ALIKE = [(0, 5), (1, 6), (5, 0), (0, 5)]  # items i, i + 5 and i + 10 are of one kind


def report(folder: Path, pairs: Sequence[Tuple[int, int]] = ALIKE, covers: bool = True, **changes: Any) -> Any:
    home = make_tiny_dataset(folder, covers=covers)
    write_rows(pairs_path(pairs_dir(home, "hand"), "id"), pairs)
    write_rows(pairs_path(pairs_dir(home, "other"), "id"), [(5, 0), (0, 7), (3, 4)])
    values = {"dataset": "Tiny", "datasets_dir": str(folder), "strategy": "hand"}
    return pair_report.run(Settings(**{**values, **changes}))


def page_of(folder: Path) -> str:
    return (folder / "Tiny" / "pairs" / "hand" / "pair_report.html").read_text(encoding="utf-8")


def test_numbers_by_hand(tmp_path: Path) -> None:
    found = report(tmp_path)["pairs"]
    assert (found["pairs"], found["distinct pairs"], found["given both ways"]) == (4, 3, 2)
    assert found["share of items that are in a pair"] == round(4 / 15, 4)
    assert found["share of items that are a target"] == round(3 / 15, 4)
    assert found["share of identical titles"] == 0 == found["of one item with itself"]
    assert found["text similarity of pairs: mean"] > found["text similarity of random pairs: mean"]
    written = json.loads((tmp_path / "Tiny" / "pairs" / "hand" / "pair_report.json").read_text())
    assert written["pairs"] == found
    with read_only(tmp_path):  # nothing changed, so nothing is written
        pair_report.run(Settings(dataset="Tiny", datasets_dir=str(tmp_path), strategy="hand"))


def test_identical_titles_and_an_item_with_itself_are_counted(tmp_path: Path) -> None:
    found = report(tmp_path, [(3, 3), (0, 5)])["pairs"]
    assert found["share of identical titles"] == 0.5 and found["of one item with itself"] == 1
    assert found["text similarity of pairs: three quarters"] > 0.5


def test_random_pairs_keep_the_targets_and_never_pair_an_item_with_itself() -> None:
    pairs = [(target, 0) for target in range(10)] * 200
    drawn = random_pairs(pairs, 10, seed=1)
    assert [target for target, _ in drawn] == [target for target, _ in pairs]
    assert not [1 for target, item in drawn if target == item]
    counts = np.bincount([item for _, item in drawn], minlength=10)
    assert counts.min() > 150 and drawn != random_pairs(pairs, 10, seed=2)


def test_the_overlap_of_two_sets(tmp_path: Path) -> None:
    found = report(tmp_path, against="other")["overlap with other"]
    assert found == overlap(ALIKE, [(5, 0), (0, 7), (3, 4)])
    assert (found["pairs of this set"], found["pairs of the other"], found["in both"]) == (2, 3, 1)
    assert found["Jaccard"] == 0.25 and found["share of this set"] == 0.5
    assert (found["targets of both"], found["targets with a choice in common"]) == (2, 1)
    assert "Overlap with other" in page_of(tmp_path)


def test_the_page_shows_titles_and_covers_and_needs_nothing_else(tmp_path: Path) -> None:
    report(tmp_path, [(5, 0), (6, 1)])
    page = page_of(tmp_path)
    assert page.count("data:image/jpeg;base64,") == 4 and "http" not in page
    for item in (5, 0, 6, 1):
        assert tiny_titles()[0][item] in page
    assert "<script>" not in page


def test_titles_are_escaped_and_broken_covers_passed_over(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    items = home / "Tiny_item_sort.csv"
    items.write_text(items.read_text(encoding="utf-8").replace("spicy noodles", "<script>alert(1)</script>"))
    (home / "covers" / "0.jpg").write_text("no picture")
    write_rows(pairs_path(pairs_dir(home, "hand"), "id"), [(0, 1)])
    pair_report.main(["-d", "Tiny", f"datasets_dir={tmp_path}", "strategy=hand"])
    page = page_of(tmp_path)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "no cover" in page and page.count("base64") == 1


def test_as_many_examples_as_asked_for_and_none_without_covers(tmp_path: Path) -> None:
    many = [(a, b) for a in range(10) for b in range(10, 15)]
    report(tmp_path / "a", many)
    assert page_of(tmp_path / "a").count("<small>item") == 20
    report(tmp_path / "b", many, examples=3, covers=False)
    assert page_of(tmp_path / "b").count("<small>item") == 6 and "base64" not in page_of(tmp_path / "b")


def test_verdicts_of_a_run_are_shown(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path)
    llm_driven_sample.run(pairs_settings(tmp_path, strategy="hand"))
    found = pair_report.run(Settings(dataset="Tiny", datasets_dir=str(tmp_path), strategy="hand"))
    assert found["verdicts"]["verdict pair"] == found["pairs"]["pairs"] and "verdict none" in page_of(tmp_path)


def test_pairs_that_are_not_there_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        report(tmp_path, strategy="none")
