"""Features from titles alone: text vectors against the encoder's, n-grams against a slow formula."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest
import torch
from read_only import read_only
from stage1_helpers import save_tiny_encoders
from tiny import N_ITEMS, make_tiny_dataset, tiny_titles

from common import text_encoders
from common.errors import UserError
from common.features import features_path, load_features
from common.settings import build
from reproduce import standin


def plain_tf_idf(titles: List[str]) -> np.ndarray:
    """(items, terms): unit rows of (1 + ln tf) (1 + ln((1 + n) / (1 + df))) over n-grams of two titles or more."""
    grams = [Counter(t[i : i + n] for n in (1, 2, 3) for i in range(len(t) - n + 1)) for t in titles]
    found = Counter(gram for one in grams for gram in one)
    idf: Dict[str, float] = {
        g: 1 + math.log((1 + len(titles)) / (1 + count)) for g, count in sorted(found.items()) if count >= 2
    }
    rows = np.array([[(1 + math.log(one[g])) * idf[g] if g in one else 0.0 for g in idf] for one in grams])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@torch.no_grad()
def test_text_is_mean_and_cls_and_the_image_spans_the_n_grams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_dataset(tmp_path, covers=False)
    encoder = save_tiny_encoders(tmp_path)["text_model"]
    values = {"dataset": "Tiny", "datasets_dir": str(tmp_path), "text_model": encoder, "max_text_tokens": 64}
    settings = build(standin.Settings, values)
    standin.run(settings)
    text, image = (
        load_features(features_path(tmp_path / "Tiny" / "standin", "Tiny", modality), N_ITEMS)
        for modality in ("text", "image")
    )
    bert, tokenizer = text_encoders.load_bert(settings.text_model, 64)
    for item, title in enumerate(tiny_titles()[1]):
        hidden = bert(**tokenizer([title], return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(text[item], torch.cat([hidden.mean(dim=0), hidden[0]]), rtol=1e-4, atol=1e-5)
    terms = plain_tf_idf(tiny_titles()[0])
    np.testing.assert_allclose((image @ image.T).numpy(), 100 * terms @ terms.T, atol=1e-3)
    capsys.readouterr()
    with read_only(tmp_path):
        standin.run(settings)
    assert capsys.readouterr().out.count("is up to date") == 2


def test_whitened_components_have_the_roots_of_the_deviations() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)) * [1.0, 2.0, 4.0, 8.0] + 5
    white = standin.whiten(vectors)
    expected = np.sqrt(np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False))
    spread = np.linalg.norm(white, axis=0)
    np.testing.assert_allclose(spread / spread[0], expected / expected[0])
    np.testing.assert_allclose(np.linalg.norm(white, axis=1).mean(), standin.SCALE)
    correlations = np.corrcoef(white.T)
    np.testing.assert_allclose(correlations, np.eye(4), atol=1e-9)


def test_titles_that_share_nothing_are_an_error() -> None:
    with pytest.raises(UserError, match="no two of them have a letter in common"):
        standin.components(["a", "b"])
