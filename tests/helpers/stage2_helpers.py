"""What the tests of stage 2 share: a tiny data set with features, ready to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import torch
from tiny import make_tiny_dataset

from common.features import features_path, save_features
from common.files import recipe
from stage2_sequence_preference_learning import recbole_process
from stage2_sequence_preference_learning.data import load_splits
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import SCHEMAS, recbole_config, resolve_switches

WIDTHS = {"text": 12, "image": 10}
SMALL = {"hidden_size": 8, "inner_size": 8, "train_batch_size": 16, "precision": "fp32", "device": "cpu"}


def make_ready(folder: Path, name: str = "Tiny") -> Path:
    """A tiny prepared data set under ``folder`` with ``.inter`` files and random features."""
    where = make_tiny_dataset(folder, name)
    recbole_process.run(recbole_process.Settings(dataset=name, datasets_dir=str(folder)))
    n_items = len((where / f"{name}_item_sort.csv").read_text(encoding="utf-8").strip().splitlines())
    generator = torch.Generator().manual_seed(0)
    for modality, width in WIDTHS.items():
        features = torch.randn(n_items, width, generator=generator)
        save_features(features_path(where, name, modality), features, recipe("test", {}, {}))
    return where


def make_model(datasets_dir: Path, model: str, name: str = "Tiny", **values: Any) -> Tuple[Any, Any, Any]:
    """Model, settings and the three splits; weights are larger than usual, so that softmaxes are not flat."""
    settings: Any = SCHEMAS[model](dataset=name, datasets_dir=str(datasets_dir), **{**SMALL, **values})
    resolve_switches(settings)
    config = recbole_config(MODELS[model], settings, torch.device("cpu"), datasets_dir / "unused")
    config["n_catalogue"] = 15
    splits = load_splits(config)
    torch.manual_seed(1)
    built = MODELS[model](config, splits[0])
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built, settings, splits
