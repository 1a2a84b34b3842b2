"""The report's items: the map before and after stage 1, covers, pairs."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reported import Ran, charts, data_of, made_page
from tiny import N_ITEMS

from common.dataset import load_dataset
from common.features import features_path, load_features, save_features
from common.files import recipe, write_json
from reproduce.report_page.embeddings import planes, principal_plane
from reproduce.rows import Row
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, write_rows
from stage1_content_modality_semantic_alignment.paths import pairs_dir


def test_the_map_shows_principal_components_of_the_features_before_and_after(ran: Ran, page: str) -> None:
    figures, picks = data_of(page)["figures"], charts(page)["item-map"]
    home = ran[0] / "d" / "Tiny"
    for number, folder in zip(picks[0], (home / "before_stage1", home)):
        vectors = load_features(features_path(folder, "Tiny", "text"), N_ITEMS).double().numpy()
        u, s, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        shown = figures[number]["data"][0]
        assert shown["customdata"] == list(range(N_ITEMS))
        points = np.array([shown["x"], shown["y"]]).T
        assert np.allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-3)
    assert f"text before: {home / 'before_stage1'}" in page and "encoder: m" in page


def test_features_from_before_are_looked_for_where_asked_and_must_fit(ran: Ran, tmp_path: Path) -> None:
    asked = f"before_dir={tmp_path}/{{dataset}}"
    page = made_page(ran, asked)
    assert f"features_dir={tmp_path}/Tiny" in page and charts(page)["item-map"][0][0] is None
    save_features(features_path(tmp_path / "Tiny", "Tiny", "text"), torch.randn(3, 6), recipe("test", {}, {}))
    page = made_page(ran, asked)
    assert "has 3 rows, the data set has 15 items" in page and "item-map" not in charts(page)


def test_features_that_were_made_again_are_told(ran: Ran, tmp_path: Path) -> None:
    path = features_path(tmp_path, "Tiny", "text")
    dataset, rows = load_dataset(ran[0] / "d" / "Tiny", "Tiny"), [Row("one", "Tiny", [], [tmp_path], [])]
    for times, again in ((1, False), (2, True)):
        save_features(path, torch.eye(N_ITEMS) * times, recipe("test", {}, {}))
        if not again:
            write_json(tmp_path / "made.json", recipe("a run", {}, {"text": path}))
        source = planes(rows, dataset, tmp_path / "none", np.arange(N_ITEMS))["text"]["after"].source
        assert str(path) in source and ("made again" in source) is again


def test_items_without_a_vector_shift_nothing() -> None:
    vectors = torch.randn(20, 5)
    alone = principal_plane(vectors[:19], np.arange(19), "")
    vectors[19] = 0
    with_zeros = principal_plane(vectors, np.arange(20), "")
    assert np.isnan(with_zeros.points[19]).all() and np.allclose(alone.points, with_zeros.points[:19])


def test_covers_are_small_pictures_and_no_more_than_asked_for(ran: Ran, page: str) -> None:
    items = data_of(page)["items"]["Tiny"]
    assert len(items["covers"]) == N_ITEMS and items["uncovered"] == 0
    for uri in items["covers"].values():
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition("data:image/webp;base64,")[2])))
        assert max(image.size) <= 72
    few = made_page(ran, "covers=4")
    assert list(data_of(few)["items"]["Tiny"]["covers"]) == ["0", "1", "5", "6"]  # the pairs come first
    assert f"{N_ITEMS - 4} of the {N_ITEMS} items shown have no cover" in few


def test_pairs_are_those_of_the_file(ran: Ran, page: str) -> None:
    assert re.findall(r'<li data-items="(\d+,\d+)">.*?(once|\d+ times)', page) == [("0,5", "2 times"), ("1,6", "once")]
    assert "3 lines, 2 distinct pairs" in page
    assert len(re.findall("<li data-items", made_page(ran, "pairs=1"))) == 1


def test_a_strategy_without_pairs_is_shown_as_such(ran: Ran) -> None:
    empty = pairs_path(pairs_dir(ran[0] / "d" / "Tiny", "empty"), "id")
    write_rows(empty, [])
    try:
        page = made_page(ran)
    finally:
        empty.unlink()
    assert "0 lines, 0 distinct pairs" in page and "3 lines, 2 distinct pairs" in page
