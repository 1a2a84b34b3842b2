"""Tables and figures of a suite: what the runs measured, comparisons, selections, formats."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from read_only import read_only
from reported import ROWS, words_of
from reported import results_of as suite_results
from tiny import dataset_of

from common.errors import UserError
from common.files import read_json
from common.ranking import train_counts
from common.splits import SplitSettings, split_dataset
from reproduce import figure, formats, report, table
from reproduce.ranks import METRICS, Catalogue, Ranks, catalogue_of
from reproduce.rows import Results, ResultsSettings, Row, read_results

HOME = Path("results/suites/mine")


def cells(suite: Path, name: str, start: str, home: Path = HOME) -> List[Dict[str, str]]:
    """The rows of the first table whose title starts so, as the CSV file has them."""
    text = (suite.parent / home / name).read_text()
    (block,) = [part for part in text.split("\n\n") if part.splitlines()[1].lstrip('"').startswith(start)][:1]
    return list(csv.DictReader(block.splitlines()))


def ranks_of(ranks: Sequence[Sequence[float]], items: Sequence[int] = (5, 6, 7, 8)) -> Ranks:
    return Ranks(np.arange(len(items)), np.array(items), np.array(ranks, dtype=float))


def results_of(home: Path, rows: Dict[str, Sequence[float]], items: Sequence[int] = (5, 6, 7, 8)) -> Results:
    """Results of rows with these ranks on data set D; the last row is the suite's own and has the items."""
    made = []
    for name, ranks in rows.items():
        targets = items if name == list(rows)[-1] else (5, 6, 7, 8)
        (home / name).mkdir(exist_ok=True)
        table = {"user": range(4), "item": targets, "rank": ranks, "rank_masked": ranks}
        pd.DataFrame(table).to_csv(home / name / "ranks.csv", index=False)
        made.append(Row(name, "D", [1], [home / name], []))
    return Results("s", [list(rows)[-1]], None, pd.DataFrame(), made, home, "", "test", home)


def test_the_tables_hold_what_the_runs_measured(results: Path) -> None:
    table.main(words_of(results))
    home = results.parent / HOME
    for row, model in ROWS.items():
        folders = [results.parent / "results" / model / "Tiny" / f"{row[:4].strip()}-{seed}" for seed in (1, 2)]
        values = [read_json(folder / "metrics.json")["test"]["ndcg@10"] for folder in folders]
        (line,) = [line for line in cells(results, "table.csv", "Tiny: test") if line["model"] == row]
        assert line["NDCG@10"] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" and line["seeds"] == "2"
        assert all(f"{np.mean(values):.4f}" in (home / f"table.{end}").read_text() for end in ("md", "tex", "html"))
    costs = cells(results, "table.csv", "Tiny: validation and cost")
    assert [line["model"] for line in costs] == list(ROWS)
    assert costs[3] == {**costs[0], "model": "ours"} and costs[0]["operations"] == "6e+09"
    assert costs[0]["trained"] == "1,500" and costs[0]["train s"] == "60" and costs[0]["epochs"] == "3"
    pop = cells(results, "table.csv", "Tiny: test")[0]
    assert pop["coverage"] == "0.667" and pop["Gini"] == "0.333"  # the same 10 of 15 items for all
    assert list(cells(results, "table.csv", "Tiny: by groups")[0])[2].startswith("popular targets")
    text = (home / "table.md").read_text()
    assert "bash run_train.sh SICSRec Tiny seed=2" in text and "Not complete" not in text


def test_the_files_are_written_before_anything_is_printed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError  # as with | head

    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):
        table.main(words_of(results))
    assert all((results.parent / HOME / f"table.{end}").is_file() for end in ("md", "tex", "csv", "html"))


def test_own_rows_are_compared_with_the_strongest_other_row(results: Path) -> None:
    table.main(words_of(results))
    lines = cells(results, "table.csv", "Tiny: against the strongest")
    assert [(line["model"], line["metric"]) for line in lines] == [("ours", metric.upper()) for metric in METRICS]
    others = {line["model"]: float(line["HIT@10"][:6]) for line in cells(results, "table.csv", "Tiny: test")}
    del others["ours"]
    assert lines[1]["against"] == max(others, key=lambda name: others[name])
    assert float(lines[1]["difference"]) == pytest.approx(1 - max(others.values()), abs=1e-4)
    assert float(lines[0]["p"]) < 0.05


def test_a_base_is_compared_with_all_other_rows(results: Path) -> None:
    table.main(words_of(results, "base=Pop", "rows=[Pop,ours,plain]"))
    lines = cells(results, "table-rows-Pop-ours-plain-base-Pop.csv", "Tiny: against Pop")
    assert [line["model"] for line in lines] == 5 * ["plain"] + 5 * ["ours"]  # the order of the suite
    assert {line["against"] for line in lines} == {"Pop"}


def test_a_part_of_the_suite_has_files_of_its_own(results: Path) -> None:
    table.main(words_of(results))
    home = results.parent / HOME
    whole = (home / "table.md").read_text()
    table.main(words_of(results, "seeds=2", "dataset=Tiny", "--masked"))
    part = (home / "table-Tiny-seeds-2-masked.md").read_text()
    assert (home / "table.md").read_text() == whole
    assert "history masked" in part and "history masked" not in whole
    measured = read_json(results.parent / "results" / "Pop" / "Tiny" / "Pop-2" / "metrics.json")["test_masked"]
    first = cells(results, "table-Tiny-seeds-2-masked.csv", "Tiny: test")[0]
    assert first["MRR"] == f"{measured['mrr']:.4f}" and first["seeds"] == "1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rows=[Pip]"], "runs.csv: unknown row 'Pip'; did you mean 'Pop'"),
        (["base=our"], "runs.csv: unknown row 'our'; did you mean 'ours'"),
        (["seeds=[3]"], "runs.csv: unknown seed '3'.*available: 1, 2"),
        (["row=[Pop]"], "unknown setting 'row'; did you mean 'rows'"),
        (["results_dir=elsewhere"], r"elsewhere/suites/mine/runs.csv: no such file; run the suite with"),
    ],
)
def test_wrong_words_are_reported(results: Path, words: List[str], message: str) -> None:
    given = [word for word in words_of(results) if word.split("=")[0] != words[0].split("=")[0]]
    with pytest.raises(UserError, match=message):
        table.main([*given, *words])


def test_runs_that_are_not_finished_or_not_tested(results: Path, tmp_path: Path) -> None:
    runs = pd.read_csv(results.parent / HOME / "runs.csv")
    settings = ResultsSettings(results_dir=str(tmp_path))
    home = tmp_path / "suites" / "mine"
    home.mkdir(parents=True)
    runs.loc[runs["row"].eq("plain") & runs["seed"].eq(2), "state"] = "failed"
    runs.loc[runs["row"].eq("ours"), "state"] = "waiting"
    runs.to_csv(home / "runs.csv", index=False)
    found = read_results(str(results), settings)
    assert [(row.name, row.seeds) for row in found.rows] == [("Pop", [1, 2]), ("plain", [1]), ("text <b>", [1, 2])]
    assert found.unfinished("Tiny") == ["Not complete: plain (1 of 2 runs), ours (0 of 2 runs)."]
    assert table.comparison(found, "Tiny") is None
    runs.assign(state="failed").to_csv(home / "runs.csv", index=False)
    with pytest.raises(UserError, match="no selected run is finished"):
        read_results(str(results), settings)
    (tmp_path / "metrics.json").write_text('{"valid": {}}')
    runs.assign(state="done", folder=tmp_path).to_csv(home / "runs.csv", index=False)
    with pytest.raises(UserError, match="trained but not tested"):
        read_results(str(results), settings)


def test_each_metric_has_its_own_strongest_row(tmp_path: Path) -> None:
    rows = {"sharp": (1, 1, 99, 99), "wide": (9, 9, 9, 99), "ours": (2, 2, 9, 99)}
    found = table.comparison(results_of(tmp_path, rows), "D")
    assert found is not None
    lines = found.frame.set_index("metric")
    assert lines.loc["HIT@10", ["against", "difference", "p"]].tolist() == ["wide", "+0.0000", "1"]
    assert lines.loc["MRR", "against"] == lines.loc["NDCG@10", "against"] == "sharp"


def test_rows_of_other_test_items_are_not_compared(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"a": (1, 1, 1, 1), "b": (1, 1, 1, 1)}, items=(5, 6, 7, 9))
    for make in (table.comparison, lambda *of: figure.draw(of[0], [of[1]])):
        with pytest.raises(UserError, match="were tested on different users or items"):
            make(results, "D")


def test_several_data_sets_have_one_overview() -> None:
    def row(name: str, dataset: str, value: float) -> Row:
        return Row(name, dataset, [1], [], [{"test": dict.fromkeys(METRICS, value)}])

    rows = [row("a", "D", 0.1), row("b", "D", 0.3), row("b", "E", 0.2)]
    made = table.overview(Results("s", [], None, pd.DataFrame(), rows, Path(), "", "test", Path()))
    assert list(made.frame) == ["model", "D HIT@10", "D NDCG@10", "E HIT@10", "E NDCG@10"]
    assert made.frame.to_numpy().tolist() == [
        ["a", "0.1000", "0.1000", "–", "–"],
        ["b", *2 * ["0.3000"], *2 * ["0.2000"]],
    ]
    assert made.marks["D HIT@10"] == ["second", "best"] and made.marks["E HIT@10"] == ["", "best"]


def test_gains_are_the_metrics() -> None:
    ranks = ranks_of([[1.0, 3.0, 10.5, 40.0]])
    assert ranks.gains("hit@10").tolist() == [[1, 1, 0, 0]]
    assert ranks.gains("ndcg@5").tolist() == [[1, 0.5, 0, 0]]
    assert ranks.gains("mrr")[0, 3] == 1 / 40


def test_popularity_is_counted_over_training_interactions() -> None:
    lists = [[0, 0, 1, 3, 0], [1, 2, 1], [0, 2, 3, 3]]  # the second user has no training row
    dataset = dataset_of(lists, [""] * 4)
    splits = split_dataset(dataset, SplitSettings())
    assert train_counts(dataset, splits).tolist() == [3, 1, 1, 0]
    found = catalogue_of(dataset, splits, ranks_of([[1, 1, 1]], items=(0, 1, 3))).groups()
    assert found["popular targets"].tolist() == [True, False, False]
    assert (found["medium targets"] | found["rare targets"]).tolist() == [False, True, True]
    assert found["history 1-5"].all()
    with pytest.raises(UserError, match="tested on other data"):
        catalogue_of(dataset, splits, ranks_of([[1, 1, 1]], items=(0, 1, 2)))


@pytest.mark.parametrize(
    ("shown", "counts", "expected"),
    [
        ([1, 1, 1, 1], [0, 0, 0, 0], [1.0, 0.0, 2.0]),  # log2(4)
        ([0, 2, 0, 0], [0, 0, 0, 0], [0.25, 0.75, 2.0]),  # all on one of four: (n - 1) / n
        ([3, 0, 0, 1], [7, 2, 3, 0], [0.5, 0.625, 1.75]),  # shares 1/2 and 1/16: (3 · 1 + 4) / 4
    ],
)
def test_coverage_gini_and_novelty_by_hand(shown: List[int], counts: List[int], expected: List[float]) -> None:
    of_users = np.zeros(0)
    assert Catalogue(np.array(counts), of_users, of_users).spread(np.array(shown)) == expected


@pytest.mark.parametrize(
    ("energy", "words", "expected"),
    [
        (None, [], ("–", "–")),  # runs of earlier versions
        (None, ["power_watts=120"], ("≈ 0.002", "≈ 0.95")),  # 60 s
        ({"kwh": 0.004, "watts": 4.0, "measured": False}, [], ("≈ 0.004", "≈ 1.9")),
        ({"kwh": 0.004, "watts": 4.0, "measured": False}, ["power_watts=60"], ("≈ 0.001", "≈ 0.48")),
        ({"kwh": 0.004, "watts": 4.0, "measured": True}, ["power_watts=60", "grid_factor=50"], ("0.004", "0.2")),
    ],
)
def test_energy_is_measured_or_marked_as_an_estimate(
    results: Path, energy: Optional[Dict[str, object]], words: List[str], expected: Tuple[str, str]
) -> None:
    paths = [results.parent / "results" / "Pop" / "Tiny" / f"Pop-{seed}" / "metrics.json" for seed in (1, 2)]
    before = [path.read_text() for path in paths]
    for path, text in zip(paths, before):
        path.write_text(json.dumps({**json.loads(text), **({"energy": energy} if energy else {})}))
    table.main(words_of(results, "rows=[Pop]", *words))
    for path, text in zip(paths, before):
        path.write_text(text)
    (line,) = cells(results, "table-rows-Pop.csv", "Tiny: validation and cost")
    assert (line["kWh"], line["gCO₂e"]) == expected


def test_marks_and_escapes_of_every_format() -> None:
    assert formats.best_and_second([0.1, 0.30001, 0.3, 0.2, np.nan]) == ["", "best", "best", "second", ""]
    assert formats.mean_and_std([0.1, 0.2]) == "0.1500 ± 0.0707" and formats.mean_and_std([0.5]) == "0.5000"
    frame = pd.DataFrame({"model": ["a_b", "<b>|[1] 2^3"], "p < 0.05": ["0.1 ± 0.2", "– 3"]})
    made = formats.Table("t", frame, {"p < 0.05": ["best", "second"]}, ["note"])
    markdown, latex, page = formats.markdown([made]), formats.latex([made]), formats.page("t", [made])
    assert "**0.1 ± 0.2**" in markdown and "<u>– 3</u>" in markdown and r"\<b>\|\[1\] 2^3" in markdown
    assert (
        r"a\_b & \textbf{0.1 $\pm$ 0.2} \\" in latex and r"$<$b$>$|[1] 2\textasciicircum{}3 & \underline{-- 3}" in latex
    )
    assert r"\toprule" in latex and "p $<$ 0.05" in latex
    assert "<b>0.1 ± 0.2</b>" in page and "&lt;b&gt;|[1]" in page
    assert formats.as_csv([made]).splitlines() == ["table,model,p < 0.05", "t,a_b,0.1 ± 0.2", "t,<b>|[1] 2^3,– 3"]


def test_published_values_have_source_and_protocol() -> None:
    found = table.published("Bili_Food")
    assert found is not None and (found.frame != "").all().all() and "protocol" in found.frame
    assert table.published("Tiny") is None


def test_the_figure_is_sorted_and_highlights_the_own_rows(results: Path) -> None:
    figure.main(words_of(results, "metric=hit@10"))
    for name in ("overview", "Tiny"):
        with Image.open(results.parent / HOME / f"{name}-hit@10.png") as image:
            assert image.size[0] == 1000
    found = suite_results(results)
    drawn = figure.draw(found, ["Tiny"])
    (axes,) = drawn.axes
    means = [np.mean(row.values("test", "ndcg@10")) for row in found.rows]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [found.rows[place].name for place in np.argsort(means)]
    lines = {label: line.get_xdata() for label, line in zip(labels, axes.lines[::2])}
    for row, mean in zip(found.rows, means):
        low, high = lines[row.name]
        assert low < mean < high
    own = [label.get_text() for label in axes.get_yticklabels() if label.get_color() == figure.SICSREC]
    assert own == ["ours"]


def test_the_overview_has_the_own_rows_and_those_that_are_strongest_on_validation(tmp_path: Path) -> None:
    made = results_of(tmp_path, {"weak": [1] * 4, "strong": [2] * 4, "next": [3] * 4, "ADRec": [9] * 4})
    for row, valid in zip(made.rows, (0.1, 0.3, 0.2, 0.0)):
        row.results.append({"valid": {"ndcg@10": valid}})
    made.rows += [replace(row, dataset="E") for row in made.rows]
    panels = figure.draw(made, ["D", "E"], baselines=2).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["D", "E"]
    for axes in panels:
        colours = {label.get_text(): label.get_color() for label in axes.get_yticklabels()}
        assert list(colours.items()) == [("ADRec", figure.ADREC), ("next", figure.OTHER), ("strong", figure.OTHER)]


def test_tables_figure_and_report_of_a_suite_that_was_run(small_suite: Tuple[Path, List[str]]) -> None:
    folder, words = small_suite
    given = [word for word in words if word.partition("=")[0] in (words[0], "results_dir", "datasets_dir")]
    table.main(given)
    lines = cells(folder / "mine.yaml", "table.csv", "Tiny: validation and cost", Path("r/suites/mine"))
    assert [line["model"] for line in lines] == ["Pop", "Markov", "SASRec", "ADRec"]
    assert all(float(line["operations"]) > 0 and int(line["trained"].replace(",", "")) > 0 for line in lines[2:])
    assert lines[0]["operations"] == "–" and lines[0]["trained"] == "0"
    figure.main(given)
    report.main([*given, "users=2"])
    with read_only(folder):
        table.main(given)
        figure.main(given)
        report.main([*given, "users=2"])
    assert (folder / "r" / "suites" / "mine" / "Tiny-ndcg@10.png").is_file()
    page = (folder / "r" / "suites" / "mine" / "report.html").read_text(encoding="utf-8")
    assert page.count('<details class="user"') == 2 and "vectors of ADRec" in page
