"""Scores made elsewhere have the ranks that their model has here, and faulty ones are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
from stage2_helpers import only_run, read_metrics

from common.errors import UserError
from reproduce import baseline, run, scores
from stage2_sequence_preference_learning import evaluate


@pytest.fixture
def words(datasets_dir: Path, tmp_path: Path) -> List[str]:
    """Arguments of every command."""
    return ["-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}", "device=cpu"]


def rank(words: List[str], tmp_path: Path, test: Path, valid: Path, *more: str) -> Path:
    """Rank two files; returns the folder of the only run."""
    scores.main([*words, f"scores={test}", f"valid_scores={valid}", "max_seq_length=10", *more])
    return only_run(tmp_path / "r", "Scores")


def test_scores_of_a_model_have_its_ranks(words: List[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline.main(["SASRec", *words, "max_seq_length=10", "epochs=2", "precision=fp32"])
    made = only_run(tmp_path / "r", "SASRec")
    test, valid = tmp_path / "test.npy", tmp_path / "valid.npy"
    models = baseline.find("SASRec").models()
    for path, split in ((test, "test"), (valid, "valid")):
        written = ["--scores", str(path), "--split", split, "--checkpoint", str(made / "best.pth")]
        evaluate.main([*words[:3], "device=cpu", *written], models)
    for _ in range(2):
        again = rank(words, tmp_path, test, valid)
    assert "is up to date" in capsys.readouterr().out
    for key in ("valid", "test", "test_masked"):
        assert read_metrics(again)[key] == read_metrics(made)[key]
    assert (again / "ranks.csv").read_text() == (made / "ranks.csv").read_text()
    assert (np.load(again / "top.npy") == np.load(made / "top.npy")).all()
    np.save(test, -np.load(test))  # other scores: another run
    scores.main([*words, f"scores={test}", f"valid_scores={valid}", "max_seq_length=10"])
    assert len(list(again.parent.glob("*/metrics.json"))) == 2


def test_a_run_that_was_not_tested_is_tested_later(words: List[str], tmp_path: Path) -> None:
    path = tmp_path / "s.npy"
    np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    assert "test" not in read_metrics(rank(words, tmp_path, path, path, "test=false"))
    assert "test" in read_metrics(rank(words, tmp_path, path, path))


def test_items_without_a_score_come_last(words: List[str], tmp_path: Path) -> None:
    """As of a retrieval model: -inf but for three items. A target among the others shares their mean rank."""
    array = np.full((12, 15), -np.inf)
    array[:, :3] = [3.0, 2.0, 1.0]
    path = tmp_path / "s.npy"
    np.save(path, array)
    made = rank(words, tmp_path, path, path)
    assert np.load(made / "top.npy").min() >= 0 and (np.load(made / "top.npy")[:, :3] == [0, 1, 2]).all()
    n_items = 15  # all occur
    lines = [line.split(",") for line in (made / "ranks.csv").read_text().splitlines()[1:]]
    assert {int(item) > 2 for _, item, _, _ in lines} == {True, False}
    for _, item, found, _ in lines:
        assert float(found) == (int(item) + 1 if int(item) < 3 else (4 + n_items) / 2)


def test_a_suite_has_scores_from_elsewhere_beside_other_models(words: List[str], tmp_path: Path) -> None:
    for split in ("test", "valid"):
        np.save(tmp_path / f"Tiny-1-{split}.npy", np.random.default_rng(0).normal(size=(12, 15)))
    files = {split: f"{tmp_path}/{{dataset}}-{{seed}}-{split}.npy" for split in ("test", "valid")}
    settings = f"{{scores: '{files['test']}', valid_scores: '{files['valid']}'}}"
    suite = tmp_path / "s.yaml"
    suite.write_text(
        f"datasets: [Tiny]\nseeds: [1]\nmodels: [Pop, {{model: Scores, name: Mine, settings: {settings}}}]"
    )
    given = [str(suite), *words[2:], "max_seq_length=10", "epochs=1"]
    folders = []
    for _ in range(2):
        run.main(given)
        records = run.read_records(tmp_path / "r" / "suites" / "s" / "runs.csv").values()
        assert [record["state"] for record in records] == ["done", "done"]
        folders.append([record["folder"] for record in records])
        again = np.load(tmp_path / "Tiny-1-test.npy")
        np.save(tmp_path / "Tiny-1-test.npy", -again)  # other scores are another run
    assert folders[0][0] == folders[1][0] and folders[0][1] != folders[1][1]


def in_row_2(value: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        array = np.load(path)
        array[2, 3] = value
        np.save(path, array)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"x"), "not an npy file"),
        (lambda path: np.save(path, np.load(path)[:, 1:]), r"\(12, 14\); it must hold numbers of shape \(12, 15\)"),
        (in_row_2(np.nan), "row 2: a score is NaN"),
        (in_row_2(np.inf), "row 2: a score is infinite"),
    ],
)
@pytest.mark.parametrize("faulty", ["test", "valid"])
def test_faulty_scores_are_errors(
    words: List[str], tmp_path: Path, faulty: str, spoil: Callable[[Path], None], message: str
) -> None:
    paths = {split: tmp_path / f"{split}.npy" for split in ("test", "valid")}
    for path in paths.values():
        np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    spoil(paths[faulty])
    with pytest.raises(UserError, match=message):
        rank(words, tmp_path, paths["test"], paths["valid"])
    assert not list((tmp_path / "r").rglob("metrics.json"))
