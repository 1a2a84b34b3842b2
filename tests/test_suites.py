"""Suites: checked before they start, run in processes of their own, skipped when done; their tables by hand."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from stage2 import make_ready

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_json, write_json
from common.ranking import train_counts
from reproduce import baseline, formats, run, significance, suite, table
from reproduce.rows import Row, collect
from reproduce.steps import PIPELINES
from reproduce.train import plan

COLUMNS = ("ndcg@10", "valid ndcg@10", "trained", "frozen", "epochs", "seconds", "operations")


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


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
        ("datasets: [a]\nmodels: [Pop]\nsettings: [1]", "'settings' must be a mapping"),
        ("datasets: [a]\nmodels: [Pop]\nseeds: [1, -1]", "mine.yaml: seeds: -1 must be a number from 0"),
        ("datasets: [a]\nmodels: [{model: Pop, seeds: [x]}]", "mine.yaml: seeds: 'x' must be a number"),
        ("datasets: [a]\nmodels: [Pop]\nagainst: [Markov]", "unknown key 'Markov'"),
    ],
)
def test_faults_stop_before_anything_starts(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        suite.load_suite(write(tmp_path, text))


def test_seeds_of_the_command_line_are_checked_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="command line: seeds: -1 must be a number from 0"):
        run.asked_for(write(tmp_path, "datasets: [a]\nmodels: [Pop]"), ["seeds=[-1]"], None)


def test_a_suite_or_a_data_set_that_is_not_there_is_told_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="mine.yaml: no such file"):
        suite.load_suite("mine.yaml")
    given = [write(tmp_path, "datasets: [ml100k]\nmodels: [Pop]"), f"results_dir={tmp_path / 'r'}"]
    with pytest.raises(UserError, match="no data set 'ml100k' in .*data_dir=FOLDER; did you mean 'ml-100k'"):
        run.main(given)
    with pytest.raises(
        UserError, match="features_dir=none: no such folder; correct it, or .*reproduce.standin -d ml-100k"
    ):
        run.main(["quickstart", "rows=[SASRecText]", "features_dir=none", *given[1:]])
    assert not (tmp_path / "r").exists()
    run.main([*given, "--dry-run"])  # listing needs no data


def test_seconds_of_a_resumed_run_are_those_of_both_parts_and_of_a_repeated_one_the_longer(tmp_path):
    one = suite.SuiteRun("Pop", "Pop", "Tiny", 1, ())
    ledger = one.ledger(str(tmp_path))

    def go(before, code, seconds):
        write_json(ledger, before)
        run.start(one, str(tmp_path), 1).kill()
        write_json(ledger.with_suffix(".part"), {"folder": "f", "seconds": {}})
        run.finish(one, str(tmp_path), code, seconds)
        return read_json(ledger)["seconds"]

    assert go({"state": "failed", "seconds": 600.0}, 0, 400.0) == 1000.0
    assert go({"state": "done", "seconds": 600.0}, 0, 400.0) == 600.0
    assert go({"state": "to do"}, 0, 400.0) == 400.0


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


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A suite of two runs that end well and one that fails, run once."""
    folder = tmp_path_factory.mktemp("suite")
    make_ready(folder / "d")
    adrec = "{model: ADRec, settings: {text_model: small, queue_size: 8, fields: [title], max_text_tokens: 40}}"
    rows = (
        "[Pop, Markov, {model: Markov, name: fails, datasets: [Nothing], settings: {data_dir: nowhere}}, SASRec, "
        + adrec
        + "]"
    )
    text = f"datasets: [Tiny]\nseeds: [1]\nagainst: [Markov]\nsettings: {{epochs: 1}}\nmodels: {rows}"
    words = [write(folder, text), f"datasets_dir={folder / 'd'}", f"results_dir={folder / 'r'}", "device=cpu"]
    with pytest.raises(UserError, match="1 of 5 runs failed"):
        run.main([*words, "jobs=2"])
    return folder, words


def test_done_runs_are_skipped_and_failed_ones_tried_again(ran, capsys):
    folder, words = ran
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


def test_a_run_is_done_until_a_yaml_changes_and_check_asks_all_again(ran, capsys, tmp_path, monkeypatch):
    folder, words = ran
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


def test_some_rows_are_taken_and_a_mistyped_one_is_told(ran, capsys):
    _, words = ran
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
    with pytest.raises(UserError, match=r"rows=\[\]: names none; suite mine has Pop, Markov"):
        run.main([*words, "rows=[]", "--dry-run"])


def test_settings_need_only_fit_the_rows_that_are_asked_for():
    alone = {"modalities": ["text"]}  # no t2i without a second modality
    with pytest.raises(UserError, match="without t2t on Bili_Food: losses="):
        suite.load_suite("ablation-sicsrec", settings=alone)
    found = suite.load_suite("ablation-sicsrec", settings=alone, rows=["random pairs", "without stage 1"])
    assert found.rows == ["random pairs", "without stage 1"] and all(one.made_of for one in found.runs)


def test_table_holds_what_the_runs_measured_and_leads_to_them(ran, capsys):
    folder, words = ran
    table.main(words)
    home = folder / "r" / "suites" / "mine"
    (metrics,) = (folder / "r" / "Markov" / "Tiny").glob("*/metrics.json")
    measured = json.loads(metrics.read_text())["test"]
    for name in ("table.md", "table.tex", "table.csv", "table.html"):
        assert f"{measured['ndcg@10']:.4f}" in (home / name).read_text()
    page = (home / "table.html").read_text()
    assert "Against " in page and "metrics.json" in page and "python -m reproduce.train Markov Tiny" in page
    text = (home / "table.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links and all(link.startswith("#") or (home / link).is_file() for link in links)
    assert "Tiny: by groups" in text and "coverage" in text
    table.main([*words, "dataset=Tiny", "--masked"])  # another table, in files of its own
    assert "history masked" in (home / "table-Tiny-masked.md").read_text() and (home / "table.md").read_text() == text


def test_every_model_tells_what_it_costs_and_how_it_does_by_groups(ran):
    folder, words = ran
    table.main(words)
    lines = list(csv.reader((folder / "r" / "suites" / "mine" / "table.csv").read_text().splitlines()))
    costs = {line[1]: dict(zip(COLUMNS, line[2:])) for line in lines if line[0] == "Tiny: accuracy against cost"}
    assert set(costs) == {"Pop", "Markov", "SASRec", "ADRec"}
    for name in ("SASRec", "ADRec"):
        assert "–" not in costs[name].values() and float(costs[name]["operations"]) > 0
        assert int(costs[name]["trained"].replace(",", "")) > 0
    assert costs["Pop"]["operations"] == "–" and costs["Pop"]["trained"] == "0"
    grouped = [line for line in lines if line[0] == "Tiny: by groups"]
    assert [line[1] for line in grouped] == ["Pop", "Markov", "SASRec", "ADRec"]
    assert all(float(cell) >= 0 for line in grouped for cell in line[-2:])


def test_a_base_is_compared_with_all_others(ran):
    folder, words = ran
    text = (folder / "mine.yaml").read_text().replace("against: [Markov]", "base: Pop")
    other = folder / "based.yaml"
    other.write_text(text)
    table.main([str(other), *words[1:]])
    page = (folder / "r" / "suites" / "based" / "table.csv").read_text()
    assert page.count("Tiny: against Pop,Markov,") == 5 and "Tiny: against Pop,Pop" not in page
    assert page.count("Tiny: against Pop,ADRec") == 5


def test_a_table_of_some_rows_does_not_take_the_place_of_the_whole(ran):
    folder, words = ran
    whole = folder / "r" / "suites" / "mine" / "table.md"
    table.main(words)
    before = whole.read_text()
    table.main([*words, "rows=[Pop,Markov]"])
    assert whole.read_text() == before and "SASRec" not in whole.with_name("table-rows.md").read_text()


def test_signs_that_tex_does_not_print_are_spelled():
    text = formats.latex([formats.Table("t", ["p < 0.05"], [[formats.Cell("-1 … 2 – 3")]])])
    assert "p $<$ 0.05" in text and "-1 \\dots{} 2 -- 3" in text


def test_popularity_is_counted_over_training_rows_alone():
    lists = [[0, 0, 1, 3, 0], [1, 2, 1], [0, 2, 3, 3]]  # the second user has no training row
    sequences = [np.array(items) for items in lists]
    assert train_counts(sequences, 4).tolist() == [3, 1, 1, 0]
    dataset = Dataset("D", Path(), [0, 1, 2], sequences, [""] * 4, [""] * 4, None)
    ranks = significance.Ranks(np.arange(3), np.array([0, 1, 3]), np.ones(3))
    found = significance.groups(dataset, ranks)
    assert found["popular targets"].tolist() == [True, False, False]
    assert (found["middling targets"] | found["rare targets"]).tolist() == [False, True, True]
    assert found["history ≤ 5"].all()


def test_gains_are_the_metrics():
    ranks = np.array([1.0, 3.0, 10.5, 40.0])
    assert significance.gain(ranks, "hit@10").tolist() == [1, 1, 0, 0]
    assert significance.gain(ranks, "ndcg@5").tolist() == [1, 0.5, 0, 0]
    assert significance.gain(ranks, "mrr")[3] == 1 / 40


def test_comparison_and_holm_by_hand():
    generator = np.random.default_rng(0)
    theirs = generator.random(400)
    ours = theirs + 0.05 + 0.1 * generator.standard_normal(400)
    found = significance.compare(ours, theirs)
    assert found.low < found.difference < found.high and found.low > 0
    half = 1.96 * np.std(ours - theirs) / 20  # the normal interval of a mean
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.p == stats.ttest_rel(ours, theirs).pvalue
    assert significance.compare(ours, ours).p == 1.0
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_coverage_and_gini_by_hand():
    assert significance.coverage_and_gini(np.array([[0, 1], [2, 3]]), 4) == (1.0, 0.0)
    coverage, gini = significance.coverage_and_gini(np.array([[0], [0]]), 4)
    assert coverage == 0.25 and gini == 0.75  # all on one of four: (n - 1) / n


def test_best_and_second_are_marked_in_every_format():
    marks = table._marks([0.1, 0.30001, 0.3, 0.2])
    assert marks == ["", "best", "best", "second"]
    made = formats.Table("t", ["m", "x"], [[formats.Cell("a_b", "", "a"), formats.Cell("0.1 ± 0.2", "best", "a")]])
    assert "[a_b](#a)" in formats.markdown([made]) and "**0.1 ± 0.2**" in formats.markdown([made])
    assert "a\\_b & \\textbf{0.1 $\\pm$ 0.2}" in formats.latex([made])
    assert "<a href='#a'><b>0.1 ± 0.2</b></a>" in formats.page("t", [made], "")


def test_published_values_tell_source_and_protocol():
    rows = table.published("Bili_Food").rows
    assert all(cell.text for row in rows for cell in row)
    assert table.published("Tiny") is None


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


def row_of(folder, name, ranks, items=(5, 6, 7, 8)):
    home = folder / name
    home.mkdir()
    lines = [f"{user},{item},{rank},{rank}" for user, (item, rank) in enumerate(zip(items, ranks))]
    (home / "ranks.csv").write_text("\n".join(["user,item,rank,rank_masked", *lines]))
    values = {metric: float(significance.gain(np.array(ranks, float), metric).mean()) for metric in table.METRICS}
    return Row(name, "D", [], [home], [{"test": values}], 1)


def test_each_metric_has_its_own_strongest(tmp_path):
    sharp, wide, ours = (
        row_of(tmp_path, name, ranks)
        for name, ranks in (("sharp", [1, 1, 99, 99]), ("wide", [9, 9, 9, 99]), ("ours", [2, 2, 9, 99]))
    )
    against = suite.Suite("s", [], ["ours"])
    lines = [[cell.text for cell in line] for line in table.significance([sharp, wide, ours], against, "test").rows]
    told = {metric: (other, difference) for _, metric, other, difference, *_ in lines}
    assert told["HIT@10"] == ("wide", "+0.0000") and told["MRR"][0] == "sharp"
    assert told["NDCG@10"][0] == "sharp" and len({line[0] for line in lines}) == 1
    other = row_of(tmp_path, "other", [1, 1, 1, 1], items=(5, 6, 7, 9))
    with pytest.raises(UserError, match="'ours' and 'other' were tested on other users or targets"):
        table.significance([other, ours], against, "test")
    with pytest.raises(UserError, match="'ours' and 'other' were tested on other users or targets"):
        table.by_groups([ours, other], None, "test")


def measured(name, dataset, seed, value):
    return Row(
        name,
        dataset,
        [suite.SuiteRun(name, name, dataset, seed, ())],
        [],
        [{"test": dict.fromkeys(table.METRICS, value)}],
        1,
    )


def test_several_data_sets_stand_side_by_side():
    rows = [measured("a", "D", 1, 0.1), measured("b", "D", 1, 0.3), measured("b", "E", 1, 0.2)]
    made = table.overview(rows, "test")
    assert made.header == ["model", "D HIT@10", "D NDCG@10", "E HIT@10", "E NDCG@10"]
    lines = [[(cell.text, cell.mark) for cell in line] for line in made.rows]
    assert lines[0] == [("a", ""), *2 * [("0.1000", "second")], *2 * [("–", "")]]
    assert lines[1] == [("b", ""), *2 * [("0.3000", "best")], *2 * [("0.2000", "best")]]
    assert made.title == "D, E: test, all items ranked, history unmasked, seed 1"


@pytest.mark.parametrize(
    ("against", "base", "told"),
    [
        (["a"], None, ["Nothing is compared: the suite's own rows are a, and no other row is done."]),
        (["b"], None, ["Nothing is compared: the suite's own rows are b, and none of them is done."]),
        ([], None, ["Nothing is compared: the suite's YAML names no row in against, and no base."]),
        ([], "a", ["Nothing is compared with a, the suite's base: all rows but it are missing."]),
        ([], "b", ["Nothing is compared with b, the suite's base: it is not done."]),
    ],
)
def test_a_table_without_a_comparison_says_why(against, base, told):
    rows, of = [measured("a", "D", 1, 0.1)], suite.Suite("s", [], against, base)
    assert table.quality(rows, of, "test").notes == told and table.significance(rows, of, "test") is None
    rows.append(measured("b", "D", 2, 0.1))
    assert bool(table.uncompared(rows, of)) == (not against and base is None)
    assert "mean ± standard deviation over seeds" in table.quality(rows, of, "test").title


def test_a_run_that_was_not_tested_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    run_of = suite.SuiteRun("Pop", "Pop", "Tiny", 1, ())
    run_of.ledger(str(tmp_path)).parent.mkdir()
    run_of.ledger(str(tmp_path)).write_text(json.dumps({"state": "done", "folder": str(tmp_path / "run")}))
    with pytest.raises(UserError, match="Pop, seed 1, is trained and not tested; bash run_test.sh Pop Tiny tests it"):
        collect(suite.Suite("s", [run_of], []), str(tmp_path), "Tiny")
