"""Scores made elsewhere have the ranks that their model has here, and faulty ones are errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
from stage2_helpers import ENVIRONMENT, only_run, read_metrics

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


FULL_DISK = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from common.errors import UserError
from stage2_sequence_preference_learning import data, evaluate
data.EvalLoader = lambda *_: [(np.arange(9), torch.zeros(9))]
splits = SimpleNamespace(users=np.arange(9), item_of_row=np.arange(-1, 5000), n_catalogue=5000, n_items=5001)
model = SimpleNamespace(data=splits, full_sort_scores=lambda _: torch.ones(9, 5001))
folder = Path(sys.argv[1])
try:
    evaluate.write_scores(folder / "s.npy", model, splits, torch.device("cpu"))
except UserError as error:
    print(error, list(folder.iterdir()))
"""


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k none "{tmp_path}" && exec "$@"', "sh"]
    try:
        subprocess.run([*mount, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small disk")
    command = [*mount, sys.executable, "-c", FULL_DISK, str(tmp_path)]
    found = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert found.stdout == f"{tmp_path}/s.npy: cannot be written: No space left on device []\n"


def as_npz(path: Path) -> None:
    array = np.load(path)
    with open(path, "wb") as out:
        np.savez(out, array)


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
        (lambda path: path.write_bytes(b"x"), "not a whole npy file"),
        (lambda path: path.write_bytes(b""), "not a whole npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole npy file"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"False", b"F(lse")), "not a whole npy file"),
        (as_npz, "not a whole npy file"),
        (lambda path: np.save(path, np.load(path).astype(object)), "not a whole npy file of numbers: .*objects"),
        (lambda path: np.save(path, np.load(path).astype(str)), "<U32 .*it must hold numbers"),
        (lambda path: np.save(path, np.load(path) > 0), "bool .*it must hold numbers"),
        (lambda path: np.save(path, np.load(path)[:, 1:]), r"\(12, 14\); it must hold numbers of shape \(12, 15\)"),
        (lambda path: np.save(path, np.load(path)[1:]), r"\(11, 15\); it must hold numbers of shape \(12, 15\)"),
        (lambda path: np.save(path, np.pad(np.load(path), ((1, 0), (0, 0)))), r"float64 \(13, 15\)"),
        (lambda path: np.save(path, np.pad(np.load(path), ((0, 0), (0, 1)))), r"float64 \(12, 16\)"),
        (lambda path: np.save(path, np.load(path)[None]), r"float64 \(1, 12, 15\)"),
        (in_row_2(np.nan), "row 2: a score is NaN; write a finite number, or -inf"),
        (in_row_2(np.inf), "row 2: a score is infinite; write a finite number"),
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
