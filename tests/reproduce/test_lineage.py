"""run_test.sh averages the runs that differ by their seed alone, whatever they were made from."""

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


def step(file: Path, name: str, settings: Dict[str, Any], inputs: Dict[str, Path]) -> Path:
    """A file that a step made, with its record; the content depends on what made it."""
    made_from = recipe(name, settings, inputs)
    write_text(file, str(sorted((n, e["sha256"]) for n, e in made_from["inputs"].items())) + str(settings))
    record(file.with_suffix(".json"), made_from, {"made": file})
    return file


def features(home: Path, seed: int, losses: List[str]) -> Path:
    """Text features of encoders that were fine-tuned on pairs which the seed drew."""
    pairs = step(home / "pairs.txt", "llm_driven_sample", {"asked_of": {"selector": "random", "seed": seed}}, {})
    encoder = step(home / "bert.bin", "sft_content_encoder", {"seed": seed, "losses": losses}, {"pairs": pairs})
    return step(home / "text.pth", "text_features", {"pooling": "cls"}, {"model": encoder})


def run_of(home: Path, seed: int, inputs: Dict[str, Path], model: str = "SICSRec", **settings: Any) -> test_script.Run:
    """A run with an ID encoder of the same seed; each test metric is a tenth of the seed."""
    encoder = home / "results" / "ID_SeqEncoder" / "D" / f"seed{seed}" / "best.pth"
    write_text(encoder, str(seed))
    write_json(encoder.with_name("made.json"), recipe("ID_SeqEncoder", {"seed": seed}, {}))
    variant = {"variant": "paper"} if model == "SICSRec" else {}
    made = recipe(model, {"seed": seed, **variant, **settings}, {**inputs, "id_encoder": encoder})
    metrics = dict.fromkeys(METRICS, seed / 10)
    result = {"dataset": "D", "test": metrics, "valid": {"hit@10": 0.5, "ndcg@10": 0.25}, "epochs": 4, "seconds": 2.0}
    return test_script.Run(Step(model), home / "results" / model / "D" / f"{seed}{settings}", made, result)


def groups(runs: List[test_script.Run], home: Path) -> int:
    """How many rows the table has."""
    return len(test_script.table(runs, "test", home / "results"))


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, {}, processes=1) for seed in (1, 3)]
    runs += [run_of(tmp_path, 2, {}, alpha=0.1 + 0.2, processes=1), run_of(tmp_path, 2, {}, processes=2)]
    found = test_script.table(runs, "test", tmp_path)
    assert found["model"].tolist() == [f"SICSRec (paper{more})" for more in ("", ", alpha=0.3", ", processes=2")]
    assert found["HIT@5"].tolist() == ["0.2000 ± 0.1414", "0.2000", "0.2000"]  # of 0.1 and 0.3: √(2 · 0.1² / (2 − 1))
    assert found.iloc[1, 1:].tolist() == ["1", *["0.2000"] * 5, "0.5000", "0.2500", "4", "2"]
    again = test_script.table([*runs[:2], run_of(tmp_path, 3, {}, processes=1)], "test", tmp_path)
    assert again.iloc[0, 1:3].tolist() == ["2 (3 runs)", "0.2000 ± 0.1414"]  # a seed that was run twice counts once


def test_features_of_each_seed_belong_together_and_those_of_other_losses_do_not(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, {"text": features(tmp_path / f"a{seed}", seed, ["t2t", "i2i"])}) for seed in (1, 2)]
    texts = [run.made_from["inputs"]["text"]["sha256"] for run in runs]
    assert texts[0] != texts[1] and groups(runs, tmp_path) == 1
    assert groups([*runs, run_of(tmp_path, 1, {"text": features(tmp_path / "b1", 1, ["t2t"])})], tmp_path) == 2


def test_features_that_were_made_again_since_count_by_their_content(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, 1, {"text": features(tmp_path / "a", 1, ["t2t"])})]
    runs.append(run_of(tmp_path, 2, {"text": features(tmp_path / "a", 2, ["t2t"])}))  # in the same place
    assert groups(runs, tmp_path) == 2


def test_id_encoders_of_moved_results_are_found(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, {}) for seed in (1, 2)]
    (tmp_path / "results").rename(tmp_path / "moved")
    assert len(test_script.table(runs, "test", tmp_path / "moved")) == 1


def test_files_from_elsewhere_belong_together_where_their_names_differ_by_the_seed(tmp_path: Path) -> None:
    def run(seed: int, file: str) -> test_script.Run:
        write_text(tmp_path / file, file)
        return run_of(tmp_path, seed, {"scores": tmp_path / file}, model="Scores")

    assert groups([run(7, "mine-7-test.npy"), run(8, "mine-8-test.npy")], tmp_path) == 1
    assert groups([run(7, "mine-7-test.npy"), run(8, "yours-8-test.npy")], tmp_path) == 2
    assert groups([run(7, "a17.npy"), run(8, "a18.npy")], tmp_path) == 2  # 17 is not seed 7


def test_a_setting_selects_runs_however_its_value_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "SICSRec" / "Tiny" / "one"
    write_json(folder / "made.json", {"settings": {"learning_rate": 0.001, "seed": 7}, "inputs": {}})
    write_json(folder / "metrics.json", {"model": "SICSRec"})
    write_text(folder / "settings.yaml", "features_dir: here\n")
    for word, count in (("learning_rate=1e-3", 1), ("seed=007", 1), ("seed=8", 0), ("features_dir=here", 1)):
        assert len(test_script.find_runs(Step("SICSRec"), tmp_path, "Tiny", split_overrides([word]))) == count, word
    with pytest.raises(UserError, match="id_tuning"):
        test_script.find_runs(Step("SICSRec"), tmp_path, "Tiny", {"id_tuning": "frozn"})
