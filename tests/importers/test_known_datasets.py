"""Known counts, where data is to be had, and what the doctor and docs/data_formats.md say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_prepare_letter import make_letter

from common.doctor_origin import check_record, item_fields, where_from
from common.files import read_text
from common.known_datasets import KNOWN, ORIGINS, Statistics, known_counts, origins_of
from common.settings import REPOSITORY
from stage1_content_modality_semantic_alignment.prepare_dataset import Settings, run
from stage1_content_modality_semantic_alignment.sources.kinds import SOURCES


def test_the_documentation_tells_every_kind_and_every_known_count() -> None:
    text = read_text(REPOSITORY / "docs" / "data_formats.md")
    for kind in SOURCES:
        assert f"`{kind}`" in text
    for kind, sets in KNOWN.items():
        for name, known in sets.items():
            row = next(line for line in text.splitlines() if name in line and kind in line and "|" in line)
            assert f"| {known.users:,} | {known.items:,} | {known.interactions:,} |" in row


def test_counts_are_those_of_a_kind() -> None:
    assert known_counts("Scientific", "unisrec") != known_counts("Scientific", "recformer")
    assert known_counts("Bili_Food", "prepared") == known_counts("Bili_Food", "ninerec")
    assert known_counts("Bili_Food", "table") is None
    assert set(KNOWN) <= set(ORIGINS)
    assert list(origins_of("Bili_Food")) == ["ninerec"]
    assert origins_of("Bili_Cinema") == ORIGINS
    assert list(origins_of("Arts")) == ["unisrec", "recformer", "amazon2018", "amazon2023"]
    assert Statistics(1, 2, 3).agrees(Statistics(1, 2, 3, 4, 5))
    assert not Statistics(1, 2, 3, 4, 5).agrees(Statistics(1, 2, 3, 4, 6))


def test_the_doctor_says_where_it_is_to_be_had() -> None:
    found = list(where_from("Bili_Food"))
    assert "must not be passed on; 6,549 users" in found[0].detail
    assert not any(finding.cure for finding in found)


def test_the_doctor_tells_origin_counts_and_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_letter(tmp_path / "raw", "Scientific")
    run(Settings(dataset="Scientific", datasets_dir=str(tmp_path), data_dir=str(raw)))
    assert "warning: Scientific of the kind letter is known with 8,317 users" in capsys.readouterr().out
    home = tmp_path / "Scientific"
    origin, counts = check_record(home, "Scientific", [4, 3], 3)
    assert origin.detail == "letter"
    assert counts.detail.startswith("differ: known with 8,317 users")
    assert item_fields(home, "Scientific", 3) == "brand 33%, category 100%, description 100%"
