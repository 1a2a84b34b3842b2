"""The report's charts hold what logs, settings and results say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from reported import Ran, charts, data_of, folder_of, made_page

from common.files import read_json, write_json
from reproduce.report_page.curves import read_curves
from reproduce.report_page.sensitivity import of_rows
from reproduce.rows import Row


def test_curves_are_those_of_the_logs(ran: Ran, page: str) -> None:
    figures, picks = data_of(page)["figures"], charts(page)
    by_name = {trace["name"]: trace for trace in figures[picks["valid"][0][0]]["data"]}
    assert list(by_name) == ["narrow", "wide", "text <b>"]
    for (number,), (name, trace) in zip(picks["loss"], by_name.items()):
        log = (folder_of(ran, name) / "train.log").read_text()
        assert trace["y"] == [float(x) for x in re.findall(r"ndcg@10 ([\d.]+)", log)] and trace["x"] == [1, 2, 3]
        assert figures[number]["data"][0]["y"] == [float(x) for x in re.findall(r"\] rec ([\d.]+)", log)]
        assert np.argmax(trace["marker"]["size"]) == read_json(folder_of(ran, name) / "metrics.json")["best_epoch"]


def test_a_log_of_adrec_that_was_killed_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        "10:00:00 SICSRec on cpu in fp32: x\n"
        "10:00:01 epoch 0 step 4 [1 s] loss 3.0000, cl 2.0000 | valid hit@10 0.1000, ndcg@10 0.0500 *\n"
        "10:00:02 epoch 0 step 8 [2 s] loss nan, cl 1.5000 | valid hit@10 0.3000, ndcg@10 0.2000 *\n"
        "10:01:02 epoch 0 step 8 [2 s] loss 2.0000, cl 1.0000 | valid hit@10 0.2000, ndcg@10 0.0700 *\n"
        "10:01:03 epoch 1 step 4 [3 s] loss inf, cl 1e-05 | valid hit@10 0.1000, ndcg@10 0.0600\n"
    )
    found = read_curves(tmp_path / "train.log")
    assert found is not None and found.at == [0.5, 1.0, 1.5] and found.best == 1
    assert found.terms == {"loss": [3.0, 2.0, None], "cl": [2.0, 1.0, 1e-05]}
    assert found.valid["ndcg@10"] == [0.05, 0.07, 0.06]
    assert read_curves(tmp_path / "absent.log") is None
    (tmp_path / "train.log").write_text("10:00:01 epoch 0 step 4/16 [1 s] loss 3.0000 | valid ndcg@10 0.0500 *\n")
    found = read_curves(tmp_path / "train.log")
    assert found is not None and found.at == [0.25]


def test_sensitivity_from_rows_that_differ_alone_and_from_a_search(ran: Ran, page: str) -> None:
    figures, picks = data_of(page)["figures"], charts(page)["sweep"]
    names = re.findall(r"<option value=\"\d+\">(.*?)</option>", page[page.index('data-chart="mine-tiny-sweep"') :])
    assert names[0] == "hidden_size, rows of SASRec" and names[1].endswith("search of searched")
    rows = figures[picks[0][0]]["data"][0]
    expected = [read_json(folder_of(ran, name) / "metrics.json")["test"]["ndcg@10"] for name in ("narrow", "wide")]
    assert rows["x"] == [8, 16] and rows["y"] == pytest.approx(expected)
    (trials,) = (ran[0] / "r" / "ItemKNN" / "Tiny").glob("search-*/trials.csv")
    scores = [float(line.split(",")[-1]) for line in trials.read_text().splitlines()[1:]]
    assert sorted(figures[picks[1][0]]["data"][0]["y"]) == sorted(scores)


def test_a_run_that_two_rows_share_counts_once(tmp_path: Path) -> None:
    runs = []
    for seed, alpha, score in ((1, 0.1, 0.3), (2, 0.1, 0.5), (1, 0.2, 0.7)):
        folder = tmp_path / f"{seed} {alpha}"
        write_json(folder / "made.json", {"settings": {"seed": seed, "alpha": alpha}, "inputs": {}})
        runs.append((folder, {"model": "SICSRec", "test": {"ndcg@10": score}}))
    rows = [
        Row(name, "D", [], [folder for folder, _ in own], [result for _, result in own])
        for name, own in (("full", runs[:2]), ("alpha=0.1", runs[:2]), ("alpha=0.2", runs[2:]))
    ]
    (found,) = of_rows(rows, "test")
    assert found.values == [0.1, 0.2] and found.means == pytest.approx([0.4, 0.7])
    assert found.deviations == pytest.approx([0.2 / 2**0.5, 0.0])


def test_costs_are_those_recorded(ran: Ran, page: str) -> None:
    figures, picks = data_of(page)["figures"], charts(page)["against-cost"]
    assert len(picks) == 3  # seconds, trained parameters, operations
    for place, cost in (
        (1, lambda r: r["parameters"]["trained"]),
        (2, lambda r: r["operations_per_epoch"] * r["epochs"]),
    ):
        traces = {trace["name"]: trace for trace in figures[picks[place][0]]["data"]}
        assert set(traces) == {"narrow", "wide", "text <b>"}  # the others train no parameter
        for name, trace in traces.items():
            result = read_json(folder_of(ran, name) / "metrics.json")
            assert trace["x"] == [cost(result)] and trace["y"] == pytest.approx([result["test"]["ndcg@10"]])


@pytest.mark.parametrize("split", ["test", "test_masked"])
def test_every_score_is_of_the_history_that_its_label_names(ran: Ran, split: str) -> None:
    page = made_page(ran, *(["--masked"] if split == "test_masked" else []))
    told, other = ("history unmasked", "history masked")[:: -1 if split == "test_masked" else 1]
    scores = {run.name: read_json(folder_of(ran, run.name) / "metrics.json")[split]["ndcg@10"] for run in ran[2]}
    figures, picks = data_of(page)["figures"], charts(page)
    groups, sweep = (figures[picks[name][0][0]] for name in ("by-groups", "sweep"))
    costs = [figures[number] for (number,) in picks["against-cost"]]
    for figure in (groups, sweep, *costs):
        assert figure["layout"]["yaxis"]["title"]["text"] == f"test NDCG@10, {told}"
    for figure in costs:
        assert [trace["y"] for trace in figure["data"]] == [[scores[trace["name"]]] for trace in figure["data"]]
    assert sweep["data"][0]["y"] == [scores["narrow"], scores["wide"]]
    for trace in groups["data"]:
        sizes = [int(re.findall(r"\((\d+)\)", name)[0]) for name in trace["x"]]  # of targets, then of users
        assert np.average(trace["y"], weights=sizes) == pytest.approx(scores[trace["name"]], abs=1e-4)
    table = page[page.index("<h4>Tiny: accuracy against cost") :].partition("</table>")[0]
    told_costs = re.findall(r"</a></th>\s*<td>([\d.]+)</td>", table)
    assert told_costs == [f"{score:.4f}" for score in scores.values()]
    for start in ("Tiny: test, all items", "Against", "NDCG@10: of test", "NDCG@10 of each group"):
        (sentence,) = set(re.findall(rf">({start}.*?)(?:; valid|Paired|Targets|</)", page))
        assert told in sentence and other not in sentence
