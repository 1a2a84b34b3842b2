"""The shuffle test: histories are permuted, targets are not, and each kind of model ranks them again."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
import pytest
from adrec_helpers import save_tiny_model, tiny_adrec_dataset, tiny_settings
from stage2_helpers import only_run, read_metrics

from adrec import main as adrec_main
from common.errors import UserError
from reproduce import baseline, shuffle


def test_each_history_keeps_its_items() -> None:
    items, lengths = np.arange(30), np.array([1, 9, 20])
    drawn = [shuffle.shuffled(items, lengths, 7, draw) for draw in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for order in drawn:
        parts = np.split(order, np.cumsum(lengths)[:-1])
        assert [sorted(part.tolist()) for part in parts] == [[0], list(range(1, 10)), list(range(10, 30))]


def test_jaccard_is_that_of_sets() -> None:
    found = shuffle.jaccard(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), np.array([[3, 1, 2], [4, 7, 8], [1, 2, 3]]))
    assert found.tolist() == [1, 1 / 5, 0]


def lines_of(capsys: pytest.CaptureFixture[str]) -> List[str]:
    """What was printed since the last call."""
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("model", ["Pop", "SASRec", "ADRec"])
def test_models_rank_shuffled_histories(
    model: str, datasets_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original metrics are those of the run. Popularity does not depend on the history."""
    if model == "ADRec":
        datasets_dir = tmp_path / "datasets"
        tiny_adrec_dataset(datasets_dir)
        bert = save_tiny_model(tmp_path / "bert")
        own = {"text_model": bert, "results_dir": str(tmp_path / "r"), "epochs": 1, "device": "cpu", "positions": True}
        adrec_main.train(tiny_settings(datasets_dir, **own))
    else:
        small = [] if model == "Pop" else ["hidden_size=8", "inner_size=8"]
        words = [f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}", "device=cpu", "precision=fp32"]
        baseline.main([model, "-d", "Tiny", *words, *small, "epochs=1"])
    folder = only_run(tmp_path / "r", model)
    given = [model, "-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}", "device=cpu"]
    capsys.readouterr()
    shuffle.main(given)
    lines = lines_of(capsys)
    assert lines[0] == f"{model} on Tiny, test, 12 rows, checkpoints: 1, random orders: 5"
    metrics = read_metrics(folder)
    for line, (split, metric) in zip(
        lines[3:7], [(split, name) for split in ("test", "test_masked") for name in ("hit@10", "ndcg@10")]
    ):
        assert line.split("|")[3].strip() == f"{metrics[split][metric]:.4f}"
    constant = all("+0.0000 (+0.0000, +0.0000)" in line for line in lines[3:7])
    assert constant == (model == "Pop") and lines[7].endswith(" 1.00") == constant
    twice = str(folder / "best.pth")
    shuffle.main([*given, "--checkpoint", twice, twice])
    again = lines_of(capsys)
    assert "checkpoints: 2" in again[0] and [line.split("|")[:5] for line in again[3:7]] == [
        line.split("|")[:5] for line in lines[3:7]
    ]


def test_scores_made_elsewhere_cannot_be_shuffled() -> None:
    with pytest.raises(UserError, match="Scores: has no checkpoint"):
        shuffle.main(["Scores", "-d", "Tiny"])
