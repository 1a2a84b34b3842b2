"""run_test.sh averages the runs that differ by their seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from common.errors import UserError
from common.files import recipe, record, write_json, write_text
from common.settings import split_overrides
from reproduce import test as test_script
from reproduce.pipeline import Step
from reproduce.ranks import METRICS


def run_of(home: Path, seed: int, inputs: Dict[str, Path], step_1: int = 9, **settings: Any) -> test_script.Run:
    """A run of SICSRec from an ID encoder of the same seed; each test metric is a tenth of the seed."""
    encoder = home / "results" / "ID_SeqEncoder" / "D" / f"seed{seed}-{step_1}" / "best.pth"
    write_text(encoder, f"{seed} {step_1}")
    made_from = recipe("ID_SeqEncoder", {"seed": seed, "epochs": step_1}, {})
    record(encoder.with_name("made.json"), made_from, {"best": encoder})
    made = recipe("SICSRec", {"seed": seed, "variant": "paper", **settings}, {**inputs, "id_encoder": encoder})
    metrics = dict.fromkeys(METRICS, seed / 10)
    result = {"dataset": "D", "test": metrics, "valid": {"hit@10": 0.5, "ndcg@10": 0.25}, "epochs": 4, "seconds": 2.0}
    return test_script.Run(Step("SICSRec"), home / "results" / "SICSRec" / "D" / f"{seed}{settings}", made, result)


def n_rows(runs: List[test_script.Run], results_dir: Path) -> int:
    """How many rows the table has."""
    return len(test_script.table(runs, "test", results_dir))


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, {}, processes=1) for seed in (1, 3)]
    runs += [run_of(tmp_path, 2, {}, alpha=0.1 + 0.2, processes=1), run_of(tmp_path, 2, {}, processes=2)]
    found = test_script.table(runs, "test", tmp_path / "results")
    assert found["model"].tolist() == [f"SICSRec (paper{more})" for more in ("", ", alpha=0.3", ", processes=2")]
    assert found["HIT@5"].tolist() == ["0.2000 ± 0.1414", "0.2000", "0.2000"]  # of 0.1 and 0.3: √(2 · 0.1² / (2 − 1))
    assert found.iloc[1, 1:].tolist() == ["1", *["0.2000"] * 5, "0.5000", "0.2500", "4", "2"]
    again = test_script.table([*runs[:2], run_of(tmp_path, 3, {}, processes=1)], "test", tmp_path / "results")
    assert again.iloc[0, 1:3].tolist() == ["2 (3 runs)", "0.2000 ± 0.1414"]  # a seed that was run twice counts once


def test_id_encoders_count_by_what_they_were_made_from(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, {}) for seed in (1, 2)]
    assert n_rows([*runs, run_of(tmp_path, 3, {}, step_1=8)], tmp_path / "results") == 2
    (tmp_path / "results").rename(tmp_path / "moved")
    assert n_rows(runs, tmp_path / "moved") == 1
    write_text(
        tmp_path / "moved" / "ID_SeqEncoder" / "D" / "seed2-9" / "made.json", '{"outputs": {"best": {"sha256": ""}}}'
    )
    assert n_rows(runs, tmp_path / "moved") == 2  # made again since


@pytest.mark.parametrize(
    ("seeds", "files", "expected"),
    [
        ((7, 8), ("paper-7/D.pth", "paper-8/D.pth"), 1),
        ((7, 8), ("paper-7/D.pth", "other-8/D.pth"), 2),
        ((7, 8), ("mine-7-test.npy", "mine-8-test.npy"), 1),
        ((17, 18), ("a170.npy", "a180.npy"), 2),  # 170 is not seed 17
        ((7, 8), ("a.pth", "b.pth"), 2),  # other content
    ],
)
def test_features_and_scores_belong_together_where_their_paths_differ_by_the_seed(
    tmp_path: Path, seeds: List[int], files: List[str], expected: int
) -> None:
    runs = []
    for seed, file in zip(seeds, files):
        write_text(tmp_path / file, file)
        runs.append(run_of(tmp_path, seed, {"text" if file.endswith(".pth") else "scores": tmp_path / file}))
    assert n_rows(runs, tmp_path / "results") == expected


def test_a_setting_selects_runs_however_its_value_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "SICSRec" / "Tiny" / "one"
    write_json(folder / "made.json", {})
    write_json(folder / "metrics.json", {})
    write_text(folder / "settings.yaml", "features_dir: here\nlearning_rate: 0.001\nseed: 7\n")
    for word, count in (("learning_rate=1e-3", 1), ("seed=007", 1), ("seed=8", 0), ("features_dir=here", 1)):
        assert len(test_script.find_runs(Step("SICSRec"), tmp_path, "Tiny", split_overrides([word]))) == count, word
    with pytest.raises(UserError, match="id_tuning"):
        test_script.find_runs(Step("SICSRec"), tmp_path, "Tiny", {"id_tuning": "frozn"})
