"""The temporal split in real runs: own folders, test rows and parts; what was trained on another split is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pandas as pd
import pytest
from stage2_helpers import SMALL, make_ready, read_metrics, settings_of
from tiny import tiny_sequences

from common.dataset import load_dataset, times_path
from common.errors import UserError
from common.run import best_run
from common.splits import LEAVE_ONE_OUT, SplitSettings, split_dataset
from reproduce import baseline, report, scores, shuffle, table
from reproduce import run as suite_run
from stage2_sequence_preference_learning import SICSRec_main1, evaluate, id_encoder_main1

TEMPORAL = ["split=temporal", "quantile=0.7"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set, times included, as datasets/Tiny."""
    folder = tmp_path_factory.mktemp("temporal")
    tiny = make_ready(folder / "datasets")
    times = [[10 * user + 7 * place for place in range(len(items))] for user, items in enumerate(tiny_sequences())]
    np.save(times_path(tiny), np.concatenate(times).astype(float))
    return folder


@pytest.fixture
def words(home: Path, tmp_path: Path) -> List[str]:
    """Arguments of every command."""
    return [f"datasets_dir={home / 'datasets'}", f"results_dir={tmp_path / 'r'}", "device=cpu"]


def runs_of(folder: Path) -> Dict[str, Path]:
    """The target of each temporal run, or "" → its folder."""
    found = {}
    for path in folder.glob("*/metrics.json"):
        split = read_metrics(path.parent)["protocol"]["split"]
        found["" if split == LEAVE_ONE_OUT else split["target"]] = path.parent
    return found


def test_each_split_has_runs_of_its_own(home: Path, words: List[str], tmp_path: Path) -> None:
    """Popularity counts train parts alone, and its ranks are those of the split's test rows."""
    for own in ([], TEMPORAL, [*TEMPORAL, "target=successive"]):
        baseline.main(["Pop", "-d", "Tiny", *words, *own])
    runs = runs_of(tmp_path / "r" / "Pop" / "Tiny")
    dataset = load_dataset(home / "datasets" / "Tiny", "Tiny")
    for target, folder in runs.items():
        chosen: Dict[str, Any] = {"split": "temporal", "quantile": 0.7, "target": target} if target else {}
        splits = split_dataset(dataset, SplitSettings(**chosen))
        counts = np.bincount(np.concatenate(splits.train_parts(dataset)), minlength=15)
        ranks = pd.read_csv(folder / "ranks.csv")
        assert ranks["user"].tolist() == splits.test.users.tolist()
        assert ranks["item"].tolist() == [tiny_sequences()[u][p] for u, p in zip(*splits.test)]
        own = counts[ranks["item"]]
        better, tied = (counts > own[:, None]).sum(1), (counts == own[:, None]).sum(1)
        assert np.allclose(ranks["rank"], 1 + better + (tied - 1) / 2)
    assert len(runs["successive"].name) and len(pd.read_csv(runs["successive"] / "ranks.csv")) > 12
    assert best_run(str(tmp_path / "r"), "Pop", "Tiny").parent == runs[""]  # validations of two splits do not compare


def test_a_suite_is_run_and_shown(words: List[str], tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    models = "[Pop, {model: SASRec, settings: {hidden_size: 8, inner_size: 8, precision: fp32}}]"
    suite.write_text(f"datasets: [Tiny]\nseeds: [1]\nsettings: {{epochs: 1}}\nmodels: {models}\n")
    suite_run.main([str(suite), *words, *TEMPORAL, "target=successive"])
    shown = [str(suite), *words[:2]]
    table.main(shown)
    report.main([*shown, "users=3"])
    assert (tmp_path / "r" / "suites" / "s" / "report.html").is_file()
    shuffle.main(["SASRec", "-d", "Tiny", *words, "draws=1"])


def id_encoder_of_another_split(words: List[str], home: Path, results: Path) -> None:
    settings = settings_of(home / "datasets", results, split="temporal")
    first = id_encoder_main1.train(SICSRec_main1.id_settings(settings_of(home / "datasets", results)))
    settings.pretrain_id = str(first / "best.pth")
    SICSRec_main1.train(settings)


def part_of_another_split(words: List[str], home: Path, results: Path) -> None:
    small = [f"{key}={value}" for key, value in SMALL.items() if key != "device"]
    baseline.main(["SASRec", "-d", "Tiny", *words, *small, "epochs=1"])
    part = next((results / "SASRec" / "Tiny").glob("*/best.pth"))
    parts = [f"id_checkpoint={part}", f"text_checkpoint={part}"]
    baseline.main(["Ensemble", "-d", "Tiny", *words, *parts, *TEMPORAL])


def scores_of_several_rows(words: List[str], home: Path, results: Path) -> None:
    np.save(results.parent / "s.npy", np.zeros((12, 15)))
    files = [f"{key}={results.parent / 's.npy'}" for key in ("scores", "valid_scores")]
    scores.main(["-d", "Tiny", *words, *files, *TEMPORAL, "target=successive"])


def written_scores_of_several_rows(words: List[str], home: Path, results: Path) -> None:
    baseline.main(["Pop", "-d", "Tiny", *words, *TEMPORAL, "target=successive"])
    checkpoint = str(next((results / "Pop" / "Tiny").glob("*/best.pth")))
    given = ["-d", "Tiny", words[0], "device=cpu", "--checkpoint", checkpoint]
    evaluate.main([*given, "--scores", str(results / "s.npy")], baseline.find("Pop").models())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (id_encoder_of_another_split, "pretrain_id=.*trained on another split: leave one out"),
        (part_of_another_split, "id_checkpoint=.*trained on another split: leave one out"),
        (scores_of_several_rows, "target=successive: a user has several rows"),
        (written_scores_of_several_rows, "target=successive: a user has several rows"),
    ],
)
def test_what_does_not_fit_the_split_is_an_error(
    words: List[str], home: Path, tmp_path: Path, act: Callable[[List[str], Path, Path], None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        act(words, home, tmp_path / "r")
