"""The report page: users and their lists, tables, suites side by side; titles stay text; what is not there is told."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
from adrec_helpers import save_tiny_model, tiny_adrec_dataset, tiny_settings
from markupsafe import escape
from reported import EVIL, SUITE, Ran, charts, data_of, folder_of, made_page
from tiny import N_USERS, tiny_sequences

from adrec import main as adrec_main
from common.dataset import load_dataset
from common.errors import UserError
from common.files import read_json, write_json
from reproduce import report
from reproduce.ranks import read_ranks
from reproduce.report_page import page as report_page
from reproduce.report_page.users import Shown, read_shown
from reproduce.rows import Row, anchor_of
from reproduce.run import asked_for
from reproduce.steps import PIPELINES
from reproduce.suite import load_suite
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path
from stage1_content_modality_semantic_alignment.paths import pairs_dir


class Tags(HTMLParser):
    """Tags with their attributes; how many scripts there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: List[Tuple[str, Dict[str, Any]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))


def test_users_history_target_lists_and_ranks_are_those_stored(ran: Ran, page: str) -> None:
    data = data_of(page)["browsers"]["mine-tiny"]
    assert [row["name"] for row in data["rows"]] == ["Pop", "narrow", "wide", "searched", "text <b>"]
    assert [user["id"] for user in data["users"]] == list(range(N_USERS)) and not data["without"]
    for place, row in enumerate(data["rows"]):
        folder = folder_of(ran, row["name"])
        ranks, top = read_ranks(folder), np.load(folder / "top.npy")
        order = [int(line.split(",")[0]) for line in (folder / "ranks.csv").read_text().splitlines()[1:]]
        for user in data["users"]:
            line = ranks.users.tolist().index(user["id"])
            assert user["next"] == ranks.items[line] == tiny_sequences()[user["id"]][-1]
            assert user["ranks"][place] == ranks.ranks[line]
            assert user["top"][place] == top[order.index(user["id"])].tolist()
            if ranks.ranks[line] <= 10 and row["name"] in ("narrow", "wide"):  # no ties: the list is in order
                assert user["top"][place][int(ranks.ranks[line]) - 1] == user["next"]
            assert user["history"] == tiny_sequences()[user["id"]][:-1] and user["seen"] == len(user["history"])
            shown = {item for items in user["top"] for item in items}
            assert set(user["repeats"]) == shown & set(user["history"])


def test_lists_go_by_the_order_of_the_ranks(tmp_path: Path) -> None:
    (tmp_path / "ranks.csv").write_text("user,item,rank,rank_masked\n7,1,2.5,1.5\n3,0,1,1\n")
    np.save(tmp_path / "top.npy", np.array([[4, 1], [0, 2]]))
    assert read_shown(tmp_path) == {7: Shown(1, 2.5, 1.5, [4, 1]), 3: Shown(0, 1.0, 1.0, [0, 2])}
    np.save(tmp_path / "top.npy", np.zeros((3, 2), dtype=int))
    with pytest.raises(UserError, match="2 users, top.npy 3"):
        read_shown(tmp_path)


def test_users_are_drawn_by_seed_and_histories_cut(ran: Ran) -> None:
    drawn = [
        data_of(made_page(ran, "users=4", "history=2", f"seed={seed}"))["browsers"]["mine-tiny"]["users"]
        for seed in (1, 1, 2)
    ]
    ids = [[user["id"] for user in users] for users in drawn]
    assert len(ids[0]) == 4 and ids[0] == ids[1] != ids[2]
    for user in drawn[0]:
        assert user["history"] == tiny_sequences()[user["id"]][-3:-1] and user["seen"] > 2


def test_tables_hold_what_the_runs_measured_and_lead_to_them(ran: Ran, page: str) -> None:
    for run in ran[2]:
        folder = folder_of(ran, run.name)
        assert f"{read_json(folder / 'metrics.json')['test']['ndcg@10']:.4f}" in page
        assert str(folder / "train.log") in page and (folder / "settings.yaml").read_text().splitlines()[0] in page
        assert escape(run.command) in page
    assert "history unmasked" in page and "history masked" in made_page(ran, "--masked")
    assert "Tiny: against" in page and "Tiny: by groups" in page and "accuracy against cost" in page
    links = re.findall(r'href="#(mine-tiny-run-[^"]*)"', page)
    assert len(set(links)) == 5 and all(f'id="{link}"' in page for link in links)
    files = re.findall(r'<a href="(\.\.[^"]*)">', page)
    assert len(files) >= 10 and all((ran[0] / "r" / "suites" / "mine" / file).is_file() for file in files)


def test_of_several_data_sets_one_table_stands_before_all(
    ran: Ran, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "All data sets" not in page
    folder, words, runs = ran
    result = {"test": {"hit@10": 0.1, "ndcg@10": 0.05}}
    monkeypatch.setattr(report_page, "collect", lambda s, r, name: [Row("Pop", name, runs[:1], [folder], [result])])
    monkeypatch.setattr(report_page.Page, "add", lambda self, asked, name, rows: None)
    whole = report_page.Page(report.Settings(), "test", tmp_path)
    one = asked_for(words[0], words[1:], Namespace())
    on_both = [replace(one.suite.runs[0], dataset=name) for name in "DE"]
    whole.add_suite(replace(one, suite=replace(one.suite, runs=on_both)))
    text = whole.html("s")
    assert "All data sets" in text and "D, E: test, all items ranked" in text and "E NDCG@10" in text


def test_suites_of_one_name_stay_apart(ran: Ran, tmp_path: Path) -> None:
    folder, words, _ = ran
    (tmp_path / "mine.yaml").write_text(SUITE.replace("name: narrow, ", ""))
    out = tmp_path / "page.html"
    report.main([words[0], str(tmp_path / "mine.yaml"), *words[1:], f"out={out}"])
    page = out.read_text(encoding="utf-8")
    names = [[row["name"] for row in one["rows"]] for one in data_of(page)["browsers"].values()]
    assert len(names) == 2 and names[0] != names[1]
    ids = re.findall(r' id="([^"]+)"', page[: page.index('id="data"')])
    assert len(ids) == len(set(ids))


def test_ranks_beside_a_list_are_the_lists_and_on_a_masked_page_both(ran: Ran, page: str) -> None:
    masked = made_page(ran, "--masked")
    for text, both in ((page, False), (masked, True)):
        data = data_of(text)["browsers"]["mine-tiny"]
        for place, row in enumerate(data["rows"]):
            plain, other = (read_ranks(folder_of(ran, row["name"]), masked=flag) for flag in (False, True))
            assert [user["ranks"][place] for user in data["users"]] == plain.ranks.tolist()
            if both:
                assert [user["ranks_masked"][place] for user in data["users"]] == other.ranks.tolist()
            else:
                assert all(user["ranks_masked"] is None for user in data["users"])
        assert ("the second with the history masked" in text) is both


def test_names_in_any_script_have_anchors_of_their_own() -> None:
    assert anchor_of("消融", "随机") != anchor_of("消融", "全部") and anchor_of("α=1", "Bili_Food") == "α-1-bili-food"


def test_a_run_of_adrec_has_curves_lists_and_vectors(tmp_path: Path) -> None:
    dataset = tiny_adrec_dataset(tmp_path / "d")
    save_tiny_model(tmp_path / "bert")
    own = {"epochs": 2, "valid_steps": 1, "device": "cpu", "text_model": str(tmp_path / "bert")}
    folder = adrec_main.run(tiny_settings(tmp_path / "d", **own, results_dir=str(tmp_path / "r")))
    (tmp_path / "mine.yaml").write_text(f"datasets: [{dataset.name}]\nmodels: [ADRec]\n")
    words = [str(tmp_path / "mine.yaml"), f"datasets_dir={tmp_path / 'd'}", f"results_dir={tmp_path / 'r'}"]
    (run,) = load_suite(words[0], settings=dict(word.split("=", 1) for word in words[1:])).runs
    write_json(run.ledger(str(tmp_path / "r")), {"state": "done", "folder": str(folder)})
    report.main(words)
    page = (tmp_path / "r" / "suites" / "mine" / "report.html").read_text(encoding="utf-8")
    figures, picks = data_of(page)["figures"], charts(page)
    log = (folder / "train.log").read_text()
    curve = figures[picks["valid"][0][0]]["data"][0]
    assert curve["y"] == [float(value) for value in re.findall(r"ndcg@10 ([\d.]+)", log)]
    last = re.findall(r"epoch (\d+) step (\d+)/(\d+) ", log)[-1]  # it stops within its first epoch
    assert curve["x"][-1] == pytest.approx(int(last[0]) + int(last[1]) / int(last[2]), abs=1e-4) and curve["x"][-1] < 1
    terms = {trace["name"] for trace in figures[picks["loss"][0][0]]["data"]}
    assert "loss" in terms and len(terms) > 1
    assert ">vectors of ADRec</option>" in page or "vectors of ADRec after:" in page
    points = figures[picks["item-map"][-1][1]]["data"][0]
    assert len(points["x"]) == dataset.n_items and picks["item-map"][-1][0] is None
    (browser,) = data_of(page)["browsers"].values()
    assert browser["users"][0]["top"][0] == np.load(folder / "top.npy")[0].tolist()


def test_a_run_without_lists_is_named(ran: Ran, tmp_path: Path) -> None:
    top = folder_of(ran, "wide") / "top.npy"
    top.rename(tmp_path / "top.npy")
    try:
        page = made_page(ran)
    finally:
        (tmp_path / "top.npy").rename(top)
    assert "Without top.npy, as tested by an older version: wide;" in page
    assert [row["name"] for row in data_of(page)["browsers"]["mine-tiny"]["rows"]] == [
        "Pop",
        "narrow",
        "searched",
        "text <b>",
    ]


def test_titles_stay_text_and_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert data_of(page)["items"]["Tiny"]["titles"]["3"][0] == EVIL
    assert "<script>alert" not in page and "text <b>" not in page and "text &lt;b&gt;" in page
    seen = Tags(page).seen
    assert sum(tag == "script" for tag, _ in seen) == 3
    paths = [value for _, attrs in seen for key, value in attrs.items() if key in ("src", "href")]
    assert not [path for path in paths if re.match(r"\w+:(?!,$)|//", path)]


def test_two_suites_on_one_page_share_items_and_no_id(ran: Ran) -> None:
    folder, words, _ = ran
    (folder / "other.yaml").write_text(re.sub(r"against.*\n", "", SUITE).replace("name: wide", "name: broad"))
    report.main([words[0], str(folder / "other.yaml"), *words[1:]])
    page = (folder / "r" / "suites" / "mine+other" / "report.html").read_text(encoding="utf-8")
    ids = [attrs["id"] for _, attrs in Tags(page).seen if "id" in attrs]
    assert len(set(ids)) == len(ids) and {"mine-tiny-run-tiny-wide", "other-tiny-run-tiny-broad"} <= set(ids)
    assert "The map of Tiny stands in the first part" in page and "The pairs of Tiny stand in" in page
    assert set(data_of(page)["browsers"]) == {"mine-tiny", "other-tiny"} and len(data_of(page)["items"]) == 1


def test_empty_sections_name_the_command_that_fills_them(ran: Ran, tmp_path: Path) -> None:
    folder, words, _ = ran
    (tmp_path / "bare.yaml").write_text("datasets: [Tiny]\nseeds: [1]\nmodels: [Pop]\n")
    out = tmp_path / "page.html"
    bare = [str(tmp_path / "bare.yaml"), *[word for word in words[1:] if "features" not in word]]
    hand = pairs_path(pairs_dir(folder / "d" / "Tiny", "hand"), "id")
    hidden = [(hand, hand.with_name("hidden")), (folder / "d/Tiny/before_stage1", folder / "d/Tiny/hidden")]
    for path, other in hidden:
        path.rename(other)
    try:
        with pytest.raises(UserError, match="reproduce.run"):  # Pop ran with other words
            report.main(["quickstart", f"results_dir={tmp_path}"])
        (bare_run,) = load_suite(bare[0], settings=dict(word.split("=", 1) for word in bare[1:])).runs
        write_json(bare_run.ledger(str(folder / "r")), {"state": "done", "folder": str(folder_of(ran, "Pop"))})
        report.main([*bare, f"out={out}"])
    finally:
        for path, other in hidden:
            other.rename(path)
    page = out.read_text(encoding="utf-8")
    makes = f"use_finetune_bert.py -d Tiny model_path=NAME features_dir={folder / 'd/Tiny/before_stage1'}"
    for told in ("models that count have none", "sensitivity dataset=Tiny", "llm_driven_sample.py -d Tiny", makes):
        assert told in page
    report.main([*bare, f"out={out}", "users=0", "map_items=0"])
    page = out.read_text(encoding="utf-8")
    assert "users=0 leaves" in page and "map_items=0 leaves" in page and 'class="browser"' not in page


def test_faults_are_told_in_a_line(ran: Ran, tmp_path: Path) -> None:
    folder, words, _ = ran
    for wrong, message in (
        (["users=3"], "name a suite"),
        (["quickstar"], "did you mean 'quickstart'"),
        (
            [*words, "usres=3"],
            "^command line: setting 'usres' is known to none of the suite's models; did you mean 'users'",
        ),
        ([*words, "hiden_size=3"], "did you mean 'hidden_size'"),
        ([*words, "seds=[1]"], "did you mean 'seeds'"),
        ([*words, "users=-1"], "at least 0"),
        ([*words, "users=x"], "setting 'users'"),
        ([*words, "out=/none/page.html"], "out: no folder /none; make it"),
    ):
        with pytest.raises(UserError, match=message):
            report.main(wrong)
    sequences = load_dataset(folder / "d" / "Tiny", "Tiny").folder / "sequential_data.txt"
    before = sequences.read_text()
    lines = before.splitlines()
    try:
        for other in ([" ".join(line.split()[:-1]) for line in lines], lines[:-2]):  # other targets, fewer users
            sequences.write_text("\n".join(other) + "\n")
            with pytest.raises(UserError, match="tested on other data"):
                report.main(words)
    finally:
        sequences.write_text(before)


def test_the_pages_settings_hide_none_of_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    known = {key for steps in PIPELINES.values() for step in steps for key in step.keys}
    assert set(report.OWN) & known <= {"seed"}  # a suite has seeds=
    with pytest.raises(SystemExit):
        report.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {name} = " in told for name in report.OWN)
