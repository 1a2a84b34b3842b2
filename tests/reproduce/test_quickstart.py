"""What the quickstart says about its table, and what it does without pretrained encoders."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from common.errors import UserError
from reproduce import quickstart
from reproduce.ranks import Ranks
from reproduce.rows import Row
from reproduce.suite import load_suite, suite_path

RANKS = {"Pop": 11, "SASRec": 1, "ID_SeqEncoder": 3, "SICSRec": 3, "ADRec, ours": 3}


def results(n_users: int = 40, **ranks: int) -> Any:
    """Results in which a model ranks the target of every second user at the given place, and of the others far away."""

    class Found:
        rows: List[Row] = []

        def ranks(self, dataset: str) -> Dict[str, Ranks]:
            users = np.arange(n_users)
            places = {**RANKS, "Pop": 10, **ranks}
            return {name: Ranks(users, users, np.where(users % 2, 99, rank)[None]) for name, rank in places.items()}

    values = {"valid": (0.5, 0.25), "test": (0.1, 0.05), "test_masked": (0.2, 0.15)}
    measured = {split: dict(zip(("hit@10", "ndcg@10"), pair)) for split, pair in values.items()}
    Found.rows = [Row(name, "ml-100k", [2024], [Path(name)], [measured]) for name in RANKS]
    return Found()


@pytest.mark.parametrize(("rank", "place"), [(1, "above"), (3, "level with"), (9, "below")])
def test_the_summary_is_computed_from_the_ranks(rank: int, place: str) -> None:
    text = quickstart.summary(results(SICSRec=rank))
    assert f"SICSRec is {place} its ID encoder" in text
    assert "1.7 times Pop's and 50% of SASRec's" in text  # 1 / log2(4) against 1 / log2(11) and 1


def test_the_table_has_validation_and_both_tests() -> None:
    header, _, *lines = quickstart.table(results()).splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[1::2] == ["valid HIT@10", "test HIT@10", "test, masked HIT@10"]
    assert len(lines) == len(RANKS)
    assert re.findall(r"[\w.]+", lines[0]) == ["Pop", "0.5000", "0.2500", "0.1000", "0.0500", "0.2000", "0.1500"]


@pytest.mark.parametrize("pretrained", [True, False])
def test_without_pretrained_encoders_it_says_twice_that_the_numbers_mean_nothing(
    pretrained: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Path:
        raise UserError(f"no {name}")

    given: Dict[str, List[str]] = {}
    monkeypatch.setattr(quickstart, "named_model_folder", Path if pretrained else missing)
    monkeypatch.setattr(quickstart, "read_results", lambda *_: results())
    for script in ("run", "recommend", "report"):
        monkeypatch.setattr(getattr(quickstart, script), "main", lambda words, name=script: given.update({name: words}))
    quickstart.main([])
    assert given["recommend"][-1] == str(Path("SICSRec") / "best.pth") and given["report"] == ["quickstart"]
    words = [word for word in given["run"][1:] if not word.startswith("jobs=")]
    assert words == ([] if pretrained else quickstart.RANDOM)
    assert len(load_suite(suite_path("quickstart"), words)) == len(RANKS)
    shown = capsys.readouterr().out
    assert shown.count("mean nothing") == (0 if pretrained else 2) and "Next:" in shown


@pytest.mark.parametrize("line", quickstart.NEXT.splitlines()[1:])
def test_the_commands_it_ends_with_can_be_copied_with_their_comments(line: str) -> None:
    commands = " ".join(shlex.split(line, comments=True)).split(" && ")
    for _, script, *words in map(str.split, commands):
        assert script in ("run_train.sh", "run_test.sh") and all(word in words[:2] or "=" in word for word in words)
        assert words[:2] in ([], ["SICSRec", "ml-100k"], ["SICSRec", "Bili_Food"])
