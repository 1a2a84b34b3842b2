"""Suites: checked before they start, run in processes of their own, skipped when done."""

import json
import shutil

import pytest
from small_suite import write

from common.errors import UserError
from common.files import read_json, write_json
from reproduce import baseline, run, suite, train
from reproduce.steps import PIPELINES
from reproduce.train import plan


@pytest.mark.parametrize("name", suite.suite_names())
def test_each_suite_fits_the_models(name):
    text = (suite.SUITES / f"{name}.yaml").read_text()
    if "ADRec" in text and "ADRec" not in PIPELINES:
        pytest.skip("ADRec is not here")
    loaded = suite.load_suite(name, seeds=[1])
    assert loaded.runs and set(loaded.against) <= set(loaded.rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [a]\nmodels: [Popp]", "did you mean 'Pop'"),
        ("datasets: [a]\nmodel: [Pop]", "unknown key 'model'; did you mean 'models'"),
        ("datasets: [a]\nmodels: [{model: SASRec, settings: {hiden_size: 3}}]", "did you mean 'hidden_size'"),
        ("datasets: [a]\nmodels: [{model: SASRec, settings: {hidden_size: 0}}]", "at least 1"),
        ("datasets: [a]\nmodels: [Pop]\nsettings: {windw: 3}", "known to none of the suite's models$"),
        ("datasets: [a]\nmodels: [SASRec]\nsettings: {hiden_size: 3}", "known to none.*did you mean 'hidden_size'"),
        ("datasets: [a]\nmodels: [SASRec]\nof_dataset: {a: {epocs: 3}}", "mine.yaml: .*'epocs'.*did you mean 'epochs'"),
        ("datasets: [a]\nmodels: [SASRec]\nof_dataset: {b: {epochs: 3}}", "of_dataset: unknown key 'b'"),
        ("datasets: [a]\nmodels: [SASRec]\nsettings: {epochs: two}", "mine.yaml: SASRec on a: setting 'epochs'"),
        ("datasets: [a]\nmodels: [SASRec, Pop, Pop]", "two rows have the name 'Pop'"),
        ("datasets: [a]\nmodels: [Pop]\nseeds: []", r"seeds: \[\]: name one or more"),
        ("datasets: [a]\nmodels: [{model: Pop, seeds: [3, 3]}]", "none of them twice"),
        ("datasets: [a]\nmodels: [Pop, SASRec]\nagainst: [Pop]\nbase: SASRec", "'against' and 'base' both"),
        ("models: [Pop]", "no runs"),
        ("datasets: Mine\nmodels: [Pop]", r"'datasets' must be a list, as in datasets: \[Mine\]"),
        ("datasets: [a]\nmodels: [Pop]\nsettings: [1]", "'settings' is .1.; it must be a mapping"),
        ("datasets: [a]\nmodels: [Pop]\nseeds: [1, -1]", "mine.yaml: seeds: -1 must be a number from 0"),
        ("datasets: [a]\nmodels: [{model: Pop, seeds: [x]}]", "mine.yaml: models: seeds: 'x' must be a number"),
        ("datasets: [a]\nmodels: [Pop]\nagainst: [Markov]", "against, base: unknown row 'Markov'; there are Pop"),
        ("datasets: [a]\nmodels: [Pop]\nbase: Popp", "against, base: unknown row 'Popp'; did you mean 'Pop'"),
        ("datasets: [a]\nmodels: [Pop]\nbase: [Pop]", "'base' is .*; it must be a name"),
        ("datasets: [a]\nmodels: [Pop]\nagainst: [[Pop]]", "'against' holds .*; it must hold names"),
        ("datasets: [a]\nmodels: [Pop]\nagainst: [5]", "'against' holds 5; it must hold names"),
        ("datasets: [a]\nmodels: [Pop]\nof_dataset: {a: [1]}", "of_dataset: 'a' is .*must be a mapping"),
        ("datasets: [a]\nmodels: [{model: Pop, settings: [1]}]", "models: 'settings' is .*must be a mapping"),
        ("datasets: [a]\nmodels: [{model: Pop, settings: one}]", "models: 'settings' is 'one'; it must be a mapping"),
        ("models: [{model: Pop, datasets: Mine}]", r"models: 'datasets' must be a list, as in datasets: \[Mine\]"),
        ("datasets: [a]\nmodels: [{model: Pop, name: 5}]", "models: 'name' is 5; it must be a name, in quotes"),
        ("datasets: [a]\nmodels: [{name: Pop}]", "an entry without a model"),
        ("datasets: [a]\nmodels: [5]", "models: 'model' is 5; it must be a name"),
        ("datasets: [a]\nmodels: Pop", r"'models' must be a list, as in models: \[Pop, "),
        ("datasets: [5]\nmodels: [Pop]", "'datasets' holds 5; it must hold names, in quotes"),
        ("datasets: [a, a]\nmodels: [Pop]", "'datasets' is .*none of them twice"),
        ("datasets: [a]\nmodels: [{model: Pop, datasets: []}]", "models: 'datasets' is .*name one or more"),
        ("datasets: [a]\nmodels: [{1: Pop}]", "models: unknown key '1'"),
        ('datasets: [a]\nmodels: [{model: Pop, name: "a\\nb"}]', "'name' is 'a.*it must be a name"),
        ("datasets: [a]\nmodels: [{model: Pop, settings: {seed: 7}}]", "mine.yaml: 'seed' is not for suites"),
        ("datasets: [a]\nmodels: [Pop]\nof_dataset: {a: {run: x}}", "mine.yaml: 'run' is not for suites"),
        ("datasets: [a]\nmodels: [Pop]\nsettings: {results_dir: r}", "'results_dir' .* on the command line"),
        ("datasets: [a]\nmodels: [Popp]", "mine.yaml: models: unknown model 'Popp'"),
        (
            "datasets: [a]\nmodels: [{model: SASRec, settings: {n_trials: 1, search_space: {learning_rat: [1]}}}]",
            "mine.yaml: SASRec on a: search_space: unknown setting 'learning_rat'; did you mean 'learning_rate'",
        ),
    ],
)
def test_faults_stop_before_anything_starts(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        suite.load_suite(write(tmp_path, text))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"epochs": 0}, "^command line: SASRec on a: setting 'epochs' is 0"),
        ({"n_heads": 3}, "^command line: SASRec on a: .*n_heads"),  # with the YAML's width
        (
            {"n_trials": 2, "search_space": {"hidden_size": []}},
            "^command line: .*search_space: 'hidden_size'",
        ),
    ],
)
def test_a_fault_of_the_command_line_is_not_the_yamls(tmp_path, words, message):
    text = "datasets: [a]\nmodels: [SASRec]\nsettings: {hidden_size: 64, n_trials: 0}"
    with pytest.raises(UserError, match=message):
        suite.load_suite(write(tmp_path, text), settings=words)


def test_seeds_of_the_command_line_are_checked_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="command line: seeds: -1 must be a number from 0"):
        run.asked_for(write(tmp_path, "datasets: [a]\nmodels: [Pop]"), ["seeds=[-1]"], None)


def test_a_suite_or_a_data_set_that_is_not_there_is_told_before_anything_starts(tmp_path, capsys):
    with pytest.raises(UserError, match="mine.yaml: no such file"):
        suite.load_suite("mine.yaml")
    given = [write(tmp_path, "datasets: [ml100k]\nmodels: [Pop]"), f"results_dir={tmp_path / 'r'}"]
    with pytest.raises(UserError, match="no data set 'ml100k' in .*data_dir=FOLDER; did you mean 'ml-100k'"):
        run.main(given)
    missing = "none/ml-100k_text_llm_stage1.pth: no such features; .*reproduce.standin"
    with pytest.raises(UserError, match=missing):
        run.main(["quickstart", "rows=[SASRecText]", "features_dir=none", *given[1:]])
    assert not (tmp_path / "r").exists()
    with pytest.raises(UserError, match=missing):  # before the ID encoder is trained
        train.main(["SICSRec", "ml-100k", "features_dir=none", f"datasets_dir={tmp_path / 'd'}", *given[1:]])
    assert not (tmp_path / "d").exists()
    run.main([*given, "--dry-run"])  # listing needs no data, and tells of it
    assert "note: no data set 'ml100k'" in capsys.readouterr().err


def test_seconds_of_a_resumed_run_are_those_of_both_parts_and_of_a_repeated_one_the_longer(tmp_path):
    one = suite.SuiteRun("Pop", "Pop", "Tiny", 1, ())
    ledger = one.ledger(str(tmp_path))

    def go(before, code, seconds, trained=0.0):
        write_json(ledger, before)
        run.start(one, str(tmp_path), 1).kill()
        write_json(tmp_path / "metrics.json", {"seconds": trained})
        write_json(ledger.with_suffix(".part"), {"folder": str(tmp_path), "seconds": {}})
        run.finish(one, str(tmp_path), code, seconds)
        return read_json(ledger)["seconds"]

    assert go({"state": "failed", "seconds": 600.0}, 0, 400.0) == 1000.0
    assert go({"state": "done", "seconds": 600.0}, 0, 400.0) == 600.0
    assert go({"state": "to do"}, 0, 400.0) == 400.0
    assert go({"state": "begun"}, 0, 100.0, trained=700.0) == 700.0  # the suite that began it was killed


@pytest.mark.parametrize("value", [" ", " | ", "a # b", "a: b", "[MASK] für 😀", "null", "1e3", "two\nlines", "plain"])
def test_a_string_reaches_the_model_as_it_is(tmp_path, value):
    rows = json.dumps([{"model": "ADRec", "settings": {"prompt": value}}], ensure_ascii=False)
    (one,) = suite.load_suite(write(tmp_path, f"datasets: [a]\nmodels: {rows}")).runs
    assert plan("ADRec", "a", one.words)[-1][1].prompt == value
    assert value != "plain" or "prompt=plain" in one.words  # quotes only where they are needed: a run keeps its name


def test_settings_reach_the_models_that_know_them(tmp_path):
    text = """
datasets: [a, b]
seeds: [1, 2]
settings: {hidden_size: 8, max_seq_length: 20}
of_dataset: {b: {max_seq_length: 10}}
models: [Pop, {model: SASRec, name: wide, settings: {hidden_size: 32}}]
"""
    loaded = suite.load_suite(write(tmp_path, text), settings={"data_dir": "x/{dataset}"})
    assert [(r.name, r.dataset, r.seed) for r in loaded.runs[:4]] == [
        ("Pop", "a", 1), ("Pop", "b", 1), ("wide", "a", 1), ("wide", "b", 1)
    ]  # fmt: skip
    assert loaded.runs[1].words == ("max_seq_length=10", "data_dir=x/b", "seed=1")
    assert loaded.runs[2].words == ("hidden_size=32", "max_seq_length=20", "data_dir=x/a", "seed=1")
    given = {"data_dir": "x/{dataset}", "features_dir": "f"}
    orders = [suite.load_suite("bili", settings=dict(order)).runs for order in (given.items(), reversed(given.items()))]
    assert [r.key for r in orders[0]] == [r.key for r in orders[1]]
    again = suite.load_suite(write(tmp_path, text), settings={"data_dir": "x/{dataset}"})
    assert [r.key for r in again.runs] == [r.key for r in loaded.runs] and len({r.key for r in loaded.runs}) == 8


def test_done_runs_are_skipped_and_failed_ones_tried_again(small_suite, capsys):
    folder, words = small_suite
    run.main([*words, "--dry-run"])
    listed = capsys.readouterr().out
    assert listed.count("\ndone ") + listed.startswith("done ") == 4 and "failed" in listed and "4 of 5" in listed
    with pytest.raises(UserError):
        run.main(words)
    assert "4 of 5 runs stand, 1 to do" in capsys.readouterr().out
    (gone,) = (folder / "r" / "Pop" / "Tiny").glob("*/metrics.json")
    text = gone.read_text()
    gone.unlink()
    run.main([*words, "--dry-run"])
    assert "3 of 5" in capsys.readouterr().out
    gone.write_text(text)


def test_a_run_is_done_until_a_yaml_changes_and_check_asks_all_again(small_suite, capsys, tmp_path, monkeypatch):
    folder, words = small_suite
    props = tmp_path / "props"
    shutil.copytree(baseline.PROPS, props)
    monkeypatch.setattr(baseline, "PROPS", props)
    run.main([*words, "rows=[Pop,Markov]", "--dry-run"])
    assert "2 of 2 runs done" in capsys.readouterr().out
    (props / "Markov" / "default.yaml").write_text("window: 3\n")
    run.main([*words, "rows=[Pop,Markov]", "--dry-run"])
    told = capsys.readouterr().out
    assert "1 of 2 runs done" in told and "to do" in [line[:5] for line in told.splitlines() if "Markov:" in line]
    monkeypatch.undo()
    run.main([*words, "rows=[Pop,Markov]", "--check"])
    told = capsys.readouterr().out
    assert "0 of 2 runs stand, 2 to check" in told and told.count("done    ") == 2
    logs = [path.read_text() for path in (folder / "r" / "suite-runs").glob("*.log")]
    assert sum("stands, nothing to train" in log for log in logs) == 2  # and the runs say so themselves


def test_some_rows_are_taken_and_a_mistyped_one_is_told(small_suite, capsys):
    _, words = small_suite
    run.main([*words, "rows=[Pop,Markov]", "--dry-run"])
    assert "2 of 2 runs done" in capsys.readouterr().out
    with pytest.raises(UserError, match="rows: suite mine has no row 'Markow'; did you mean 'Markov'"):
        run.main([*words, "rows=Markow", "--dry-run"])
    for word, told in (
        ("seed=7", "'seed' is not for suites: seeds=.7. names seeds"),
        ("config=mine.yaml", "'config' is not for suites"),
        ("seeds=[1,1]", "none of them twice"),
        ("dataset=[]", "name one or more"),
    ):
        with pytest.raises(UserError, match=told):
            run.main([*words, word, "--dry-run"])
    with pytest.raises(UserError, match="no row '1.5'"):
        run.main([*words, "rows=1.5", "--dry-run"])
    with pytest.raises(UserError, match=r"rows=\[\]: name one or more"):
        run.main([*words, "rows=[]", "--dry-run"])
    for jobs in ("0", "[]", "[1,2]", "two"):
        with pytest.raises(UserError, match="jobs=.*: must be a number of at least 1"):
            run.main([*words, f"jobs={jobs}", "--dry-run"])
    with pytest.raises(UserError, match="base: suite mine has no row 'Markow'; did you mean 'Markov'"):
        run.main([*words, "base=Markow", "--dry-run"])
    for word, told in (
        ("base=Pop", "base=Pop: name one row, of those that rows= names"),
        ("masked=true", "'masked' is not for suites: --masked"),
        ("rows=[Pop,Pop]", "none of them twice"),
    ):
        with pytest.raises(UserError, match=told):
            run.main([*words, word, *(["rows=[Markov]"] if "rows" not in word else []), "--dry-run"])


def test_names_are_read_as_they_are_typed(tmp_path, capsys):
    text = """
datasets: ["007", "on"]
settings: {data_dir: "{dataset}/x"}
models: [{model: Pop, name: "1.10"}, {model: Pop, name: "on"}]
"""
    given = [write(tmp_path, text), "--dry-run"]
    run.main([*given, "rows=[1.10]", "dataset=[007,on]", "results_dir={dataset}"])
    told = capsys.readouterr().out
    assert "Pop 007 " in told and "Pop on " in told and told.count("1.10: ") == 2 and "results_dir=007" in told


def test_the_command_line_wins_over_a_narrower_word_of_the_yaml(tmp_path, capsys):
    rows = "models: [SASRec, {model: SASRec, name: long, settings: {SASRec.epochs: 9}}]"
    given = write(tmp_path, f"datasets: [a]\nsettings: {{SASRec.epochs: 5}}\n{rows}")
    assert all("SASRec.epochs" in " ".join(one.words) for one in suite.load_suite(given).runs)
    for one in run.asked_for(given, ["epochs=2"], None).suite.runs:
        assert plan("SASRec", "a", one.words)[-1][1].epochs == 2
    assert "'long' runs with epochs=2 of the command line, not with its own SASRec.epochs=9" in capsys.readouterr().err


def test_words_that_do_something_else_than_meant_are_told(tmp_path, capsys):
    text = "datasets: [ml-100k]\nmodels: [Pop, SASRec, {model: SASRec, name: wide, settings: {hidden_size: 64}}]"
    given = [write(tmp_path, text), "--dry-run"]
    run.main([*given, "hidden_size=8", "rows=[Pop,SASRec]"])
    assert capsys.readouterr().err == ""
    run.main([*given, "hidden_size=8"])
    told = "note: row 'wide' runs with hidden_size=8 of the command line, not with its own hidden_size=64"
    assert told in capsys.readouterr().err
    run.main([*given, "SASRec.hidden_size=8", "rows=wide"])  # as the row's own key is written, or narrower
    assert told.replace("with hid", "with SASRec.hid") in capsys.readouterr().err
    run.main([*given, "hidden_size=64", "rows=[Pop,wide]"])  # its own value
    assert capsys.readouterr().err == ""
    run.main([*given, "hidden_size=8", "rows=Pop"])
    assert "note: hidden_size is read by none of the rows asked for" in capsys.readouterr().err


def test_a_file_of_a_built_in_suites_name_is_refused(tmp_path):
    mine = tmp_path / "bili.yaml"
    mine.write_text("datasets: [a]\nmodels: [Pop]")
    with pytest.raises(UserError, match="bili.yaml: a suite of this name is built in .*; rename the file"):
        suite.load_suite(str(mine))
    assert suite.load_suite(str(suite.SUITES / "bili.yaml")).name == "bili"


def test_settings_need_only_fit_the_rows_that_are_asked_for():
    alone = {"modalities": ["text"]}  # no t2i without a second modality
    with pytest.raises(UserError, match="without t2t on Bili_Food: losses="):
        suite.load_suite("ablation-sicsrec", settings=alone)
    found = suite.load_suite("ablation-sicsrec", settings=alone, rows=["random pairs", "without stage 1"])
    assert found.rows == ["random pairs", "without stage 1"] and all(one.made_of for one in found.runs)


def test_one_text_model_for_a_whole_suite():
    # a word of the command line goes to each model that knows it: no two may mean different things by one word
    for name in ("amazon", "figures", "quickstart"):
        runs = suite.load_suite(name, settings={"text_model": "FOLDER"}).runs
        assert any("text_model=FOLDER" in run.words for run in runs if run.model == "ADRec")


def test_settings_of_a_yaml_and_words_that_win(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text("momentum: 0.5\nqueue_size: 77\n")
    words = [f"config={own}", "queue_size=8", "text_model=small"]
    settings = plan("ADRec", "ml-100k", words)[-1][1]
    assert (settings.momentum, settings.queue_size) == (0.5, 8)
    made = tmp_path / "s.yaml"
    made.write_text(
        f"datasets: [ml-100k]\nsettings: {{config: {own}}}\nmodels:\n"
        "- Pop\n- {model: ADRec, settings: {momentum: 0.6, text_model: small}}\n"
    )
    pop, adrec = suite.load_suite(str(made)).runs
    assert pop.words == ("seed=2024",) and {"momentum=0.6", "queue_size=77"} <= set(adrec.words)
    monkeypatch.chdir(tmp_path)
    assert plan("ADRec", "Scientific", ["config=adrec/ours.yaml"])[-1][1].item_offsets  # from any folder
    own.write_text("momentun: 0.5\n")
    with pytest.raises(UserError, match="own.yaml: unknown setting 'momentun'; did you mean 'momentum'"):
        plan("ADRec", "ml-100k", words)
    own.write_text("momentum: 7\n")
    with pytest.raises(UserError, match="own.yaml: setting 'momentum' is 7.0; it must be from 0 to 1"):
        plan("ADRec", "ml-100k", words)
    with pytest.raises(UserError, match="none.yaml: no such settings file"):
        plan("ADRec", "ml-100k", ["config=none.yaml"])
