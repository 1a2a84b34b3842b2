"""A model trained elsewhere: its scores have the ranks that they have here, and faulty ones are told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
from elsewhere import SMALL, only, read, words_of

from common.errors import UserError
from reproduce import baseline, run, scores
from reproduce import test as test_script
from stage2_sequence_preference_learning import evaluate


@pytest.fixture
def words(datasets_dir: Path, tmp_path: Path) -> List[str]:
    """What every command is told."""
    return words_of(datasets_dir, tmp_path)[:2]


def exported(words: List[str], tmp_path: Path) -> Path:
    """A trained run whose scores lie in tmp_path/Tiny-1-{test,valid}.npy."""
    baseline.main(["SASRec", "-d", "Tiny", *words, *SMALL, "device=cpu", "precision=fp32"])
    made = only(tmp_path / "r" / "SASRec" / "Tiny")
    for split in ("test", "valid"):
        file = ["--scores", str(tmp_path / f"Tiny-1-{split}.npy"), "--split", split]
        evaluate.main(["-d", "Tiny", "--checkpoint", str(made / "best.pth"), *file, words[0], "device=cpu"])
    return made


def test_scores_of_a_model_have_its_ranks(words: List[str], tmp_path: Path) -> None:
    made = exported(words, tmp_path)
    files = [f"scores={tmp_path / 'Tiny-1-test.npy'}", f"valid_scores={tmp_path / 'Tiny-1-valid.npy'}"]
    for _ in range(2):
        scores.main(["-d", "Tiny", "max_seq_length=10", *files, *words])
    again = only(tmp_path / "r" / "Scores" / "Tiny")
    assert [read(again)[key] for key in ("valid", "test", "test_masked")] == [
        read(made)[key] for key in ("valid", "test", "test_masked")
    ]
    assert (again / "ranks.csv").read_text() == (made / "ranks.csv").read_text()
    assert (np.load(again / "top.npy") == np.load(made / "top.npy")).all()


@pytest.mark.parametrize("changed", ["s.npy", "test.inter"])
def test_what_was_validated_is_tested(words: List[str], tmp_path: Path, datasets_dir: Path, changed: str) -> None:
    data, path = tmp_path / "data", tmp_path / "s.npy"
    shutil.copytree(datasets_dir, data)
    np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    given = [f"datasets_dir={data}", *words[1:]]
    scores.main(["-d", "Tiny", f"scores={path}", f"valid_scores={path}", "max_seq_length=10", "test=false", *given])
    if changed == "s.npy":
        np.save(path, np.random.default_rng(1).normal(size=(12, 15)))
    else:
        split = data / "Tiny" / "recbole" / "Tiny" / "Tiny.test.inter"
        split.write_text(split.read_text().rsplit("\t", 1)[0] + "\t1\n")
    with pytest.raises(UserError, match=f"was made with another .*{changed} than lies there now"):
        test_script.main(["Scores", "Tiny", *given])
    assert "test" not in read(only(tmp_path / "r" / "Scores" / "Tiny"))


def test_a_suite_has_scores_from_elsewhere_beside_other_models(words: List[str], tmp_path: Path) -> None:
    exported(words, tmp_path)
    files = {split: f"{tmp_path}/{{dataset}}-{{seed}}-{split}.npy" for split in ("test", "valid")}
    settings = f"{{scores: '{files['test']}', valid_scores: '{files['valid']}'}}"
    suite = tmp_path / "s.yaml"
    suite.write_text(
        f"datasets: [Tiny]\nseeds: [1]\nmodels: [Pop, {{model: Scores, name: Mine, settings: {settings}}}]"
    )
    given = [str(suite), *words, "device=cpu", "max_seq_length=10", "epochs=1"]
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


def test_items_without_a_score_stand_last_and_are_items_all_the_same(words: List[str], tmp_path: Path) -> None:
    """As of a retrieval model: -inf but for three items. A target among the others shares their mean rank."""
    array = np.full((12, 15), -np.inf)
    array[:, :3] = [3.0, 2.0, 1.0]
    path = tmp_path / "s.npy"
    np.save(path, array)
    scores.main(["-d", "Tiny", f"scores={path}", f"valid_scores={path}", "max_seq_length=10", *words])
    made = only(tmp_path / "r" / "Scores" / "Tiny")
    assert np.load(made / "top.npy").min() >= 0 and (np.load(made / "top.npy")[:, :3] == [0, 1, 2]).all()
    n_items = 15  # all occur
    lines = [line.split(",") for line in (made / "ranks.csv").read_text().splitlines()[1:]]
    assert {int(item) > 2 for _, item, _, _ in lines} == {True, False}
    for _, item, rank, _ in lines:
        assert float(rank) == (int(item) + 1 if int(item) < 3 else (4 + n_items) / 2)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"x"), "cannot be read as npy"),
        (lambda path: np.save(path, np.load(path)[:, 1:]), r"\(12, 14\).*of shape \(12, 15\) are needed"),
        (in_row_2(np.nan), "row 2: a score is not a number"),
        (in_row_2(np.inf), "row 2: a score is infinite"),
    ],
)
def test_faulty_scores_are_told(words: List[str], tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    path = tmp_path / "s.npy"
    np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    np.save(tmp_path / "valid.npy", np.load(path))
    spoil(path)
    files = [f"scores={path}", f"valid_scores={tmp_path / 'valid.npy'}"]
    with pytest.raises(UserError, match=told):  # before the validation's ranks are written
        scores.main(["-d", "Tiny", *files, "max_seq_length=10", *words])
    assert not list((tmp_path / "r").rglob("metrics.json"))
