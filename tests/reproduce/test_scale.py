"""The benchmark over sizes: each part runs, and tables and plots hold what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pandas as pd
import pytest

from benchmarks import scale


def test_every_part_is_measured_and_a_second_run_adds_to_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(part: str, home: Path, settings: scale.Settings, processes: int = 1) -> Dict[str, Any]:
        return {**scale.run_part(part, home, settings), "GB": 0.5}

    monkeypatch.setattr(scale, "in_process", here)
    words = ["of_items=600", "steps=2", "device=cpu", f"folder={tmp_path}"]
    scale.main(["interactions=[600]", "items=[50]", "processes=2", *words])
    scale.main(["interactions=[1200]", "items=[]", *words])
    rows = json.loads((tmp_path / "scale.json").read_text())
    parts = [[row["part"] for row in rows if row["size"] == size] for size in (600, 50, 1200)]
    assert parts == [
        [*scale.AXES["interactions"][:5], "ID_SeqEncoder epoch, 2 processes", scale.AXES["interactions"][5]],
        scale.AXES["items"],
        scale.AXES["interactions"],
    ]
    assert all(row["seconds"] > 0 for row in rows)
    lines = (tmp_path / "scale-interactions.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == parts[0]
    assert (tmp_path / "scale-items.png").stat().st_size > 0
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "the data are deleted"
    assert lines[0] in capsys.readouterr().out


def test_the_exponent_is_that_of_the_last_two_decades() -> None:
    rows = pd.DataFrame({"size": [10, 1000, 10_000, 100_000], "seconds": [50.0, 1.0, 10.0, 100.0]})
    assert scale.exponent(rows) == "1.00"
    assert scale.exponent(rows[:1]) == ""
