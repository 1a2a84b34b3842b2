"""Known counts and sources of data sets, and what docs/data_formats.md says about them."""

from __future__ import annotations

import re

import pytest
from tiny import dataset_of

from common.files import read_text
from common.settings import REPOSITORY
from importers.kinds import KINDS
from importers.known_datasets import KNOWN, ORIGINS, describe, known_counts, origins_of


def test_the_documentation_lists_every_kind_and_only_known_counts() -> None:
    text = read_text(REPOSITORY / "docs" / "data_formats.md")
    for kind in KINDS:
        assert f"`{kind}`" in text
    rows = re.findall(r"^\| (\w+)(?: ✓)? \| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert rows
    for name, kind, *counts in rows:
        known = KNOWN[kind][name]
        assert counts == [f"{known.users:,}", f"{known.items:,}", f"{known.interactions:,}"]


@pytest.mark.parametrize("kind, setting", [("table", " (setting 'title_column')"), ("letter", "")])
@pytest.mark.parametrize("blank, warned", [(18, False), (19, True), (20, True)])
def test_titles_that_are_nearly_all_blank_give_a_warning(kind: str, setting: str, blank: int, warned: bool) -> None:
    titles = [" "] * blank + ["a"] * (20 - blank)
    dataset = dataset_of([range(20)], titles, "Mine")
    found = [line for line in describe(dataset, kind, 0, drawn=False).splitlines() if line.startswith("warning")]
    line = f"warning: {blank} of 20 titles are blank; the likely cause is the title column{setting}"
    assert found == [line] * warned


def test_counts_are_those_of_a_kind() -> None:
    assert known_counts("Scientific", "unisrec") != known_counts("Scientific", "recformer")
    assert known_counts("Bili_Food", "prepared") == known_counts("Bili_Food", "ninerec")
    assert known_counts("Bili_Food", "table") is None
    assert set(KNOWN) <= set(ORIGINS)
    assert list(origins_of("Bili_Food")) == ["ninerec"]
    assert origins_of("Bili_Cinema") == ORIGINS
    assert list(origins_of("Arts")) == ["unisrec", "recformer", "amazon2018", "amazon2023"]
