"""Suites: checked before they start, run in processes, recorded in runs.csv."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pandas as pd
import pytest
from small_suite import write

from common.errors import UserError
from common.settings import REPOSITORY
from reproduce import run, suite
from reproduce.pipeline import PIPELINES, STAGE_1
from reproduce.train import plan

Small = Tuple[Path, List[str]]


@pytest.fixture(autouse=True)
def no_data_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites are loaded though their data sets do not exist."""
    monkeypatch.setattr(suite, "check_inputs", lambda planned: None)


def load(name: str, *words: str) -> List[suite.SuiteRun]:
    return suite.load_suite(suite.suite_path(name), words)


@pytest.mark.parametrize("name", suite.suite_names())
def test_each_suite_fits_the_models_and_runs_of_a_strategy_make_the_same_in_stage_1(name: str) -> None:
    """Otherwise each run would make stage 1 again in place of the other."""
    made: Dict[Any, Dict[str, Any]] = {}
    for one in load(name, "seeds=[1,2]"):
        if not set(STAGE_1).isdisjoint(PIPELINES[one.model]):
            for step, settings in plan(one.model, one.dataset, one.words):
                if step.name in STAGE_1:
                    values = vars(settings)
                    shared = (step.name, one.dataset, values["strategy"])
                    assert made.setdefault(shared, values) == values, (str(one), step)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [Pop]", "mine.yaml: unknown setting 'model'; did you mean 'models'"),
        ("models: [Popp]", "mine.yaml: unknown model 'Popp'; did you mean 'Pop'"),
        ("models: [{model: SASRec, settings: {hiden_size: 3}}]", "did you mean 'hidden_size'"),
        ("models: [{model: SASRec, settings: {hidden_size: 0}}]", "mine.yaml: SASRec on a: .*at least 1"),
        ("models: [SASRec]\nsettings: {hiden_size: 3}", "no model of the suite has it; did you mean 'hidden_size'"),
        ("models: [SASRec]\nsettings: {epochs: two}", "mine.yaml: SASRec on a: .*'epochs'"),
        ("models: [SASRec]\nof_dataset: {a: {epocs: 3}}", "mine.yaml: .*'epocs'.*did you mean 'epochs'"),
        ("models: [SASRec]\nof_dataset: {b: {epochs: 3}}", "of_dataset: unknown data set 'b'"),
        ("models: [SASRec, Pop, Pop]", "mine.yaml: Pop-a-seed2024 occurs twice"),
        ("models: [{model: Pop, seeds: [3, 3]}]", "mine.yaml: Pop-a-seed3 occurs twice"),
        ("models: [{model: Pop, seeds: [-1]}]", "mine.yaml: models: setting 'seeds' is -1; it must be from 0"),
        ("models: [Pop, SASRec]\nagainst: [Pop]\nbase: SASRec", "'against' and 'base' exclude each other"),
        ("models: [Pop]\nbase: Popp", "against, base: unknown row 'Popp'; did you mean 'Pop'"),
        ("models: [{model: Pop, datasets: Mine}]", r"'datasets': must be a list, as in datasets=\[Mine\]"),
        ("models: [{name: Pop}]", "has no model; add model: NAME"),
        ("models: []", "has no runs"),
        ("models: [{model: Pop, settings: {seed: 7}}]", "mine.yaml: 'seed' is not a setting of a suite; use .* seeds"),
        ("models: [Pop]\nof_dataset: {a: {run: x}}", "mine.yaml: 'run' is not a setting of a suite"),
        ("models: [Pop]\nsettings: {results_dir: r}", "'results_dir' .* on the command line"),
    ],
)
def test_faults_of_a_yaml_stop_before_anything_starts(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, f"datasets: [a]\n{text}"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs=0", "SASRec on a: setting 'epochs' is 0"),
        ("epocs=1", "command line: setting 'epocs': no model of the suite has it; did you mean 'epochs'"),
        ("seeds=[-1]", "command line: setting 'seeds' is -1; it must be from 0"),
        ("rows=Popp", "unknown row 'Popp'; did you mean 'Pop'"),
        ("seed=7", "'seed' is not a setting of a suite; use datasets and seeds"),
        ("jobs=0", "setting 'jobs' is 0; it must be at least 1"),
    ],
)
def test_faults_of_the_command_line_stop_before_anything_starts(tmp_path: Path, word: str, message: str) -> None:
    given = write(tmp_path, "datasets: [a]\nmodels: [SASRec, Pop]")
    with pytest.raises(UserError, match=message):
        run.main([given, word, "--dry-run"])


def test_missing_suites_data_and_features_stop_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(UserError, match="mine.yaml: no such suite"):
        load("mine.yaml")
    (tmp_path / "bili.yaml").write_text("datasets: [a]\nmodels: [Pop]")
    with pytest.raises(UserError, match="bili.yaml: this project has a suite with this name"):
        load(str(tmp_path / "bili.yaml"))
    for more in ([], ["--dry-run"]):
        given = [write(tmp_path, "datasets: [ml100k]\nmodels: [Pop]"), f"results_dir={tmp_path / 'r'}", *more]
        with pytest.raises(UserError, match="no data set 'ml100k' in .*did you mean 'ml-100k'.*data_dir=FOLDER"):
            run.main(given)
        with pytest.raises(UserError, match="none/ml-100k_text_llm_stage1.pth: .*reproduce.standin"):
            run.main(["all-models", "rows=[SASRecText]", "features_dir=none", *given[1:]])
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("value", [" ", " | ", "a # b", "a: b", "[MASK] für 😀", "null", "1e3", "two\nlines", "plain"])
def test_text_reaches_the_model_unchanged(tmp_path: Path, value: str) -> None:
    rows = json.dumps([{"model": "ADRec", "settings": {"prompt": value}}], ensure_ascii=False)
    (one,) = load(write(tmp_path, f"datasets: [a]\nmodels: {rows}"))
    assert vars(plan("ADRec", "a", one.words)[-1][1])["prompt"] == value
    assert value != "plain" or "prompt=plain" in one.words  # quotes only where they are needed


@pytest.mark.parametrize("value", [1e-5, 0.0005, True, None, [1, 2], ["a", "b, c"], {"alpha": [0.1, 0.2]}])
def test_other_values_reach_the_model_unchanged(value: Any) -> None:
    word = f"key={suite._text('key', value)}"
    assert suite.split_overrides([word])["key"] == value


def test_settings_reach_the_models_that_have_them(tmp_path: Path) -> None:
    text = """
datasets: [a, b]
seeds: [1, 2]
settings: {hidden_size: 8, max_seq_length: 20}
of_dataset: {b: {max_seq_length: 10}}
models: [Pop, {model: SASRec, name: wide, settings: {hidden_size: 32}}]
"""
    runs = load(write(tmp_path, text), "data_dir=x/{dataset}-{seed}")
    assert [(r.row, r.dataset, r.seed) for r in runs[:5]] == [
        ("Pop", "a", 1), ("Pop", "b", 1), ("wide", "a", 1), ("wide", "b", 1), ("Pop", "a", 2)
    ]  # fmt: skip
    assert runs[1].words == ("max_seq_length=10", "data_dir=x/b-1", "seed=1")
    assert runs[2].words == ("hidden_size=32", "max_seq_length=20", "data_dir=x/a-1", "seed=1")
    assert runs[2].command.startswith("bash run_train.sh SASRec a hidden_size=32 ")
    (one,) = load(write(tmp_path, text), "rows=wide", "dataset=c", "seeds=3", "hidden_size=16")
    assert (one.row, one.dataset, one.seed) == ("wide", "c", 3) and "hidden_size=16" in one.words


def test_a_config_stands_for_its_settings(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("momentum: 0.5\nqueue_size: 77\n")
    row = "{model: ADRec, settings: {momentum: 0.6}}"
    text = f"datasets: [a]\nsettings: {{config: {tmp_path / 'own.yaml'}}}\nmodels: [Pop, {row}]"
    pop, adrec = load(write(tmp_path, text))
    assert pop.words == ("seed=2024",) and {"momentum=0.6", "queue_size=77"} <= set(adrec.words)


def test_a_long_name_of_a_row_has_a_log(tmp_path: Path) -> None:
    runs = load(write(tmp_path, f"datasets: [a]\nmodels: [{{model: Pop, name: {'面' * 90}}}, Pop]"))
    (tmp_path / f"{runs[0].file_name}.folder.part").touch()
    assert runs[1].file_name == "Pop-a-seed2024"


def test_names_are_read_as_they_are_typed(tmp_path: Path) -> None:
    given = write(tmp_path, 'datasets: ["007", "on"]\nmodels: [{model: Pop, name: "1.10"}, {model: Pop, name: "on"}]')
    (one,) = load(given, "rows=1.10", "dataset=007")
    assert (one.row, one.dataset) == ("1.10", "007")


def test_settings_need_only_fit_the_selected_rows() -> None:
    alone = "modalities=[text]"  # t2i needs a second modality
    with pytest.raises(UserError, match="without t2t on Bili_Food: losses="):
        load("ablation-sicsrec", alone)
    found = load("ablation-sicsrec", alone, 'rows=[random pairs,"without stage 1"]')
    assert {one.row for one in found} == {"random pairs", "without stage 1"}


def records(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "r" / "suites" / "mine" / "runs.csv", dtype=str, keep_default_na=False)


def test_a_suite_goes_on_after_a_failure_and_records_all_runs(
    small_suite: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = small_suite
    found = records(folder)
    assert found.columns.tolist() == run.COLUMNS
    assert found["row"].tolist() == ["Pop", "Markov", "fails", "SASRec", "ADRec"]
    assert found["state"].tolist() == ["done", "done", "failed", "done", "done"]
    for one in found[found["state"] == "done"].itertuples():
        assert (Path(one.folder) / "metrics.json").is_file() and float(one.seconds) > 0
        assert one.command.startswith(f"bash run_train.sh {one.model} Tiny ")
    assert all(Path(log).is_file() for log in found["log"])
    assert "data_dir=nowhere: no such folder" in Path(found["log"][2]).read_text(encoding="utf-8")
    run.main([*words, "--dry-run"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == found["state"].tolist()


def test_a_part_of_a_suite_leaves_the_other_runs_recorded(small_suite: Small) -> None:
    folder, words = small_suite
    before = records(folder)
    run.main([*words, "rows=Pop"])
    after = records(folder)
    assert after.drop(columns="seconds").equals(before.drop(columns="seconds"))  # the run was up to date
    run.main([*words, "rows=Pop", "seeds=[2]"])
    assert records(folder).iloc[:5].equals(after) and records(folder)["seed"].tolist() == [*["1"] * 5, "2"]


def test_a_stopped_suite_stops_its_runs(tmp_path: Path, small_suite: Small) -> None:
    folder, _ = small_suite
    endless = "{model: SASRec, settings: {epochs: 100000, stopping_step: 100000}}"
    given = write(tmp_path, f"datasets: [Tiny]\nmodels: [{endless}]")
    words = [given, f"datasets_dir={folder / 'd'}", f"results_dir={tmp_path / 'r'}", "device=cpu"]
    process = subprocess.Popen([sys.executable, "-m", "reproduce.run", *words], cwd=REPOSITORY)
    lock = tmp_path / "r" / "SASRec" / "Tiny"
    until = time.monotonic() + 120
    while not list(lock.glob("*/.lock")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    (held,) = lock.glob("*/.lock")
    trains = int(held.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert records(tmp_path)["state"].tolist() == ["waiting"]
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(trains, 0)
            time.sleep(0.2)


def test_progress_names_the_steps_that_run_and_estimates_the_time_left(tmp_path: Path) -> None:
    rows = ", ".join(f"{{model: Pop, name: {name}, seconds: {n}}}" for name, n in zip("abcd", (1, 2, 3, 60)))
    a, b, c, d = runs = load(write(tmp_path, f"datasets: [x]\nmodels: [{rows}]"))
    runner = run.Runner(runs, tmp_path, jobs=2)
    log = Path(runner.records[b.key]["log"])
    log.parent.mkdir()
    log.write_text("== 1/2 prepare_dataset\n0.1 s\n== 2/2 Pop\nepoch 1\n", encoding="utf-8")
    Path(runner.records[c.key]["log"]).touch()
    assert runner.progress({c: 0.0}, [a, b, d]) == "[0/4] now c (starts); 3 waiting"
    runner.took[a] = 10.0  # ten times the seconds of the file
    text = runner.progress({b: 5.0, c: 0.0}, [d])
    assert text == "[1/4] now b (2/2 Pop), c (starts); 1 waiting; about 10 min left"
