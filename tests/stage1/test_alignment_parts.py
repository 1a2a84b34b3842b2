"""The parts of stage 1's fine-tuning: losses, cached frozen prefix, covers, report."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from stage1_helpers import tiny_bert, tiny_swin
from tiny import make_tiny_dataset
from token_items import CPU, TokenItems
from torch.nn.functional import normalize

from stage1_content_modality_semantic_alignment.alignment_report import pair_metrics, retrieval_metrics
from stage1_content_modality_semantic_alignment.image_encoders import normalise, read_covers, write_processor_config
from stage1_content_modality_semantic_alignment.inputs import CachedItems, Covers, each_item_once
from stage1_content_modality_semantic_alignment.losses import alignment_losses
from stage1_content_modality_semantic_alignment.model import ImageTower, TextTower

try:  # transformers 5: this one needs no torchvision
    PROCESSOR: Any = import_module("transformers.models.vit.image_processing_pil_vit").ViTImageProcessorPil
except ImportError:
    PROCESSOR = transformers.ViTImageProcessor


# --- losses, against slow formulas ---


def cosines(left: torch.Tensor, right: torch.Tensor) -> List[List[float]]:
    return [[sum(a * b for a, b in zip(x, y)) for y in right.tolist()] for x in left.tolist()]


def slow_cross_entropy(logits: List[List[float]], labels: List[int]) -> float:
    losses = [math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(logits, labels)]
    return sum(losses) / len(losses)


def unit_vectors(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("mean", [True, False])
def test_losses_are_the_formulas(mean: bool) -> None:
    """S15: released sums both directions of t2i."""
    text, image = (unit_vectors(4, 1), unit_vectors(4, 2)), (unit_vectors(4, 3), unit_vectors(4, 4))
    terms = alignment_losses({"text": text, "image": image}, temperature=0.5, mean=mean)
    for name, (targets, positives) in (("t2t", text), ("i2i", image)):
        columns = torch.cat([positives, targets])  # 2B columns, the own positive is the label
        logits = [[v / 0.5 for v in row] for row in cosines(targets, columns)]
        assert terms[name].item() == pytest.approx(slow_cross_entropy(logits, [0, 1, 2, 3]), abs=1e-6)
    logits = [[v / 0.5 for v in row] for row in cosines(text[0], image[0])]
    there = slow_cross_entropy(logits, [0, 1, 2, 3])
    back = slow_cross_entropy([list(column) for column in zip(*logits)], [0, 1, 2, 3])
    assert terms["t2i"].item() == pytest.approx((there + back) / (2 if mean else 1), abs=1e-6)


def test_terms_are_those_that_the_modalities_allow_and_that_are_asked_for() -> None:
    vectors = (unit_vectors(2, 1), unit_vectors(2, 2))
    both = {"text": vectors, "image": vectors}
    assert list(alignment_losses({"text": vectors}, 0.05)) == ["t2t"]
    assert list(alignment_losses({"image": vectors}, 0.05)) == ["i2i"]
    assert list(alignment_losses(both, 0.05)) == ["t2t", "i2i", "t2i"]
    assert list(alignment_losses(both, 0.05, ["t2i", "t2t"])) == ["t2t", "t2i"]


# --- the cached prefix ---


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_cached_text_prefix_equals_the_full_forward(tmp_path: Path, implementation: str) -> None:
    bert = tiny_bert(dropout=0.0, implementation=implementation)
    raw = TokenItems([3, 17, 2, 40, 9, 9, 28])
    cached = CachedItems(TextTower(bert), raw, CPU, tmp_path)
    for positions in ([0], [3], [2, 1, 0], [6, 5, 4, 3, 2, 1, 0]):
        ids, mask = raw.batch(positions, CPU.device)
        full = bert(input_ids=ids, attention_mask=mask).pooler_output
        assert (cached.vectors(positions) - full).abs().max() < 1e-5
        longest = max(raw.lengths[positions])
        assert cached.hidden(positions)[0].shape == (len(positions), longest, 16)  # trimmed


@pytest.mark.parametrize("side", [32, 24])
@torch.no_grad()
def test_cached_image_prefix_equals_the_full_forward(tmp_path: Path, side: int) -> None:
    swin = tiny_swin(dropout=0.0, side=side)
    pixels = torch.randint(256, (7, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cached = CachedItems(ImageTower(swin), Covers(pixels), CPU, tmp_path)
    for positions in ([0], [6, 1, 3], list(range(7))):
        full = swin(pixel_values=normalise(pixels[positions])).logits
        assert (cached.vectors(positions) - full).abs().max() < 1e-5
    assert not list(tmp_path.iterdir())  # the scratch file has no name


def test_batches_of_similar_length_hold_every_position_once() -> None:
    batches = each_item_once(TokenItems([3, 9, 3, 1, 9]), 2, CPU, "items")
    assert [positions for positions, _, _ in batches] == [[1, 4], [0, 2], [3]]


# --- covers ---


def test_covers_are_prepared_as_the_image_processor_does(tmp_path: Path) -> None:
    folder = make_tiny_dataset(tmp_path) / "covers"
    items, missing, pixels = read_covers(folder, range(3), 24, "stop")
    config = tiny_swin(side=24).config
    write_processor_config(tmp_path, config)
    about = json.loads((tmp_path / "preprocessor_config.json").read_text())
    processor: Any = PROCESSOR(**{key: value for key, value in about.items() if key != "image_processor_type"})
    covers = [Image.open(folder / f"{item}.jpg") for item in items]
    theirs = processor(images=covers, return_tensors="pt")["pixel_values"]
    assert (items, missing) == ([0, 1, 2], [])
    assert torch.allclose(normalise(pixels), theirs, atol=1e-5)


# --- the report ---


def test_pair_metrics_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = pair_metrics(vectors, np.array([[0, 1], [0, 2]]), seed=0)
    assert found["pair_cosine"] == pytest.approx(-0.5)
    assert found["alignment"] == pytest.approx((2 + 4) / 2)
    assert found["uniformity"] == pytest.approx(math.log((math.exp(-4) * 2 + math.exp(-8)) / 3), rel=1e-5)


def test_retrieval_by_hand_and_a_tie_is_no_hit() -> None:
    text = torch.eye(3)
    assert retrieval_metrics(text, torch.eye(3)) == {"recall@1": 1.0, "recall@10": 1.0}
    assert retrieval_metrics(text, torch.ones(3, 3))["recall@1"] == 0.0
    shifted = torch.eye(3)[[1, 2, 0]]
    assert retrieval_metrics(text, shifted)["recall@1"] == 0.0
