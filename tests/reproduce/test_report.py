"""The report page holds what the runs' files hold: tables, curves, vectors, pairs, covers, recommendations."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reported import EVIL, PAIRS, ROWS, made_page, results_of, text_of, words_of
from tiny import N_ITEMS, make_tiny_dataset, tiny_sequences

from common.checkpoints import save_checkpoint
from common.dataset import load_dataset
from common.errors import UserError
from common.features import features_path, load_features
from common.files import read_json
from reproduce import report
from reproduce.report_page.items import drawn_pairs, drawn_users
from reproduce.report_page.plots import curves, item_map, item_vectors, principal_plane
from reproduce.rows import Row


@pytest.fixture
def page(results: Path) -> str:
    return made_page(results, "users=3")


def test_the_page_holds_figure_tables_runs_and_their_files(results: Path, page: str) -> None:
    measured = read_json(results.parent / "results" / "SASRec" / "Tiny" / "plai-1" / "metrics.json")
    assert f"{measured['test']['ndcg@10']:.4f}"[:4] in page and "Tiny: against the strongest" in page
    home = results.parent / "results" / "suites" / "mine"
    links = re.findall(r'<a href="(\.\.[^"]*)">', page)
    assert len(links) == 2 * 4 * 4 + 2 * 3 and all((home / link).is_file() for link in links)  # Pop has no history.csv
    assert "bash run_train.sh SICSRec Tiny seed=2" in page
    (figure,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', page[: page.index("<nav")])
    assert Image.open(io.BytesIO(base64.b64decode(figure))).size[0] == 1000
    assert "history unmasked" in page and "history masked" in made_page(results, "--masked", "users=0")


def test_curves_are_those_of_history_csv(results: Path) -> None:
    rows = results_of(results).rows
    figure = curves(rows, "valid/ndcg@10", "t")
    assert figure is not None
    assert [trace.name for trace in figure.data] == [html.escape(name) for name in list(ROWS)[1:] for _ in (1, 2)]
    assert [trace.showlegend for trace in figure.data] == 3 * [True, False]
    history = pd.read_csv(rows[1].folders[1] / "history.csv")
    assert list(figure.data[1].y) == history["valid/ndcg@10"].tolist() and list(figure.data[1].x) == [1, 2, 3]
    assert list(figure.data[1].marker.size) == [0, 9, 0]
    loss = curves(rows, "loss", "t")
    assert loss is not None and list(loss.data[0].y) == [3.5, 2.5, 1.5]  # the sum of both terms
    assert curves(rows[:1], "valid/ndcg@10", "t") is None  # Pop has no epochs


def test_maps_show_principal_components_before_and_after_stage_1(results: Path, page: str) -> None:
    folder = results.parent / "datasets" / "Tiny"
    dataset, items = load_dataset(folder, "Tiny"), np.array([0, 3, 7])
    found = item_vectors(results_of(results).rows, dataset, folder / "features" / "before_stage1")
    assert list(found) == ["text, before stage 1", "text, after stage 1"]
    for (title, vectors), source in zip(found.items(), (folder / "features" / "before_stage1", folder)):
        expected = load_features(features_path(source, "Tiny", "text"), N_ITEMS).double().numpy()
        u, s, _ = np.linalg.svd(expected - expected.mean(0), full_matrices=False)
        (shown,) = item_map(vectors, dataset, np.ones(N_ITEMS), items, title).data
        assert np.allclose(np.abs([shown.x, shown.y]), np.abs(u[items, :2] * s[:2]).T, atol=1e-3)
        assert shown.hovertext[1] == html.escape(f"{EVIL} (3)") and title in page


def test_vectors_of_a_tested_adrec_run_are_shown(results: Path) -> None:
    rows = results_of(results).rows
    path = rows[0].folders[0] / "item_embeddings.pth"
    save_checkpoint(path, {"embeddings": torch.eye(N_ITEMS)})
    try:
        found = item_vectors(rows, load_dataset(results.parent / "datasets" / "Tiny", "Tiny"), Path("none"))
    finally:
        path.unlink()
    assert list(found) == ["text, after stage 1", "vectors of Pop"]
    assert torch.equal(found["vectors of Pop"], torch.eye(N_ITEMS))


def test_items_without_a_vector_do_not_shift_the_others() -> None:
    vectors = np.random.default_rng(0).random((20, 5))
    alone, _ = principal_plane(vectors[:19])
    vectors[19] = 0
    points, shares = principal_plane(vectors)
    assert np.isnan(points[19]).all() and np.allclose(alone, points[:19]) and 0.4 < shares.sum() < 1


def test_pairs_are_those_of_the_file(results: Path, page: str) -> None:
    dataset = load_dataset(results.parent / "datasets" / "Tiny", "Tiny")
    (strategy,) = drawn_pairs(dataset, 0)
    assert (strategy.name, strategy.total, strategy.distinct) == ("hand", len(PAIRS), 2)
    assert strategy.drawn == [(0, 5, 2), (1, 6, 1)]
    assert "3 pairs, 2 distinct" in page and "chosen 2 times" in page
    empty = dataset.folder / "pairs" / "empty"
    empty.mkdir()
    (empty / "item_pairs_id.txt").write_text("")
    assert [(one.name, one.total) for one in drawn_pairs(dataset, 0)] == [("empty", 0), ("hand", 3)]
    (empty / "item_pairs_id.txt").unlink()


def test_users_have_history_next_item_and_each_rows_list(results: Path, page: str) -> None:
    dataset, rows = load_dataset(results.parent / "datasets" / "Tiny", "Tiny"), results_of(results).rows
    users = drawn_users(rows, dataset, 4, seed=1)
    assert [user.number for user in users] == [user.number for user in drawn_users(rows, dataset, 4, seed=1)]
    assert len(drawn_users(rows, dataset, 100, seed=1)) == len(tiny_sequences())
    for user in users:
        assert [*user.history, user.following] == tiny_sequences()[user.number]
        assert user.latest == user.history[::-1]
        assert [row.row for row in user.rows] == list(ROWS)
        for row, shown in zip(rows, user.rows):
            ranks = pd.read_csv(row.folders[0] / "ranks.csv").set_index("user").loc[user.number]
            assert (shown.rank, shown.rank_masked) == (ranks["rank"], ranks["rank_masked"])
            assert shown.items == np.load(row.folders[0] / "top.npy")[user.number].tolist()
        assert user.rows[3].items[0] == user.following and user.rows[3].rank == 1
    assert page.count('<details class="user"') == 3 and "rank 1; 1 with the history masked" in page


def test_lists_follow_the_order_of_ranks_csv(results: Path, tmp_path: Path) -> None:
    dataset = load_dataset(results.parent / "datasets" / "Tiny", "Tiny")
    (tmp_path / "ranks.csv").write_text("user,item,rank,rank_masked\n7,1,2.5,1.5\n3,0,1,1\n")
    np.save(tmp_path / "top.npy", np.array([[4, 1], [0, 2]]))
    users = drawn_users([Row("a", "Tiny", [1], [tmp_path], [{}])], dataset, 2, seed=0)
    assert [(user.number, user.rows[0].rank, user.rows[0].items) for user in users] == [
        (3, 1, [0, 2]),
        (7, 2.5, [4, 1]),
    ]


def test_covers_are_small_and_each_is_in_the_page_once(page: str) -> None:
    covers = dict(re.findall(r"\.Tiny-(\d+) { background-image: url\(data:image/webp;base64,([^)]*)\)", page))
    shown = set(re.findall(r'class="cover Tiny-(\d+)"', page))
    assert shown == set(covers) and len(covers) > 10
    assert all(max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 72 for data in covers.values())


def test_titles_and_names_stay_text_and_nothing_is_loaded(page: str) -> None:
    assert html.escape(EVIL, quote=False)[:30] in page and "<script>alert" not in page
    assert "text <b>" not in page and "text &lt;b&gt;" in page
    urls = re.findall(r'(?:src|href)="(\w+:[^"]{0,9}|//)', page[page.rindex("</script>\n</head>") :])
    assert all(url.startswith("data:") for url in urls) and "default-src 'none'" in page


def test_several_data_sets_share_a_page_that_starts_with_one_overview(results: Path, tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "datasets")
    make_tiny_dataset(tmp_path / "datasets", "Other")
    runs = pd.read_csv(results.parent / "results" / "suites" / "mine" / "runs.csv")
    (tmp_path / "results" / "suites" / "mine").mkdir(parents=True)
    both = pd.concat([runs, runs[runs["row"] != "Pop"].assign(dataset="Other")])
    both.to_csv(tmp_path / "results" / "suites" / "mine" / "runs.csv", index=False)
    (tmp_path / "mine.yaml").write_text(results.read_text(encoding="utf-8"))
    page = made_page(tmp_path / "mine.yaml", "users=1")
    ids = re.findall(r' id="([^"]+)"', page[page.rindex("</script>\n</head>") :])
    assert {"Tiny", "Other", "Tiny-users", "Other-users"} <= set(ids) and len(set(ids)) == len(ids)
    assert re.findall(r'alt="NDCG@10 on (\w+)', page[: page.index("<nav")]) == ["Tiny", "Other"]


def test_empty_sections_say_what_fills_them(results: Path, tmp_path: Path) -> None:
    folder = results.parent / "datasets" / "Tiny"
    (folder / "pairs").rename(folder / "hidden")
    try:
        report.main(words_of(results, "rows=Pop", "users=0", f"out={tmp_path / 'page.html'}"))
    finally:
        (folder / "hidden").rename(folder / "pairs")
    text = text_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "No run has a history.csv" in text and "llm_driven_sample.py -d Tiny" in text and "users=0" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [("usres=3", "did you mean 'users'"), ("users=-1", "at least 0"), ("out=/none/page.html", "no folder /none")],
)
def test_wrong_words_are_reported(results: Path, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        report.main(words_of(results, word))
