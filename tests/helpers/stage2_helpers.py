"""Helpers of the tests of stage 2: a tiny data set with features, models on it, and runs of the scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from tiny import make_tiny_dataset

from common.features import features_dir, features_path, save_features
from common.files import recipe
from common.settings import REPOSITORY
from stage2_sequence_preference_learning.data import SequenceData, load_splits
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.packing import Batch, Sequences, batch_of_rows
from stage2_sequence_preference_learning.settings import SICSRecSettings

STAGE2 = REPOSITORY / "stage2_sequence_preference_learning"
WIDTHS = {"text": 12, "image": 10}
SMALL = {"hidden_size": 8, "inner_size": 8, "train_batch_size": 16, "precision": "fp32", "device": "cpu"}
INTER_FILES = {  # RecBole's config for the files of recbole_process.py
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    "alias_of_item_id": ["item_id_list"],
    "train_neg_sample_args": None,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def make_ready(folder: Path, name: str = "Tiny") -> Path:
    """A tiny prepared data set under ``folder`` with random features."""
    where = make_tiny_dataset(folder, name)
    n_items = len((where / f"{name}_item_sort.csv").read_text(encoding="utf-8").strip().splitlines())
    generator = torch.Generator().manual_seed(0)
    for modality, width in WIDTHS.items():
        features = torch.randn(n_items, width, generator=generator)
        for strategy in ("paper", "released"):
            path = features_path(features_dir(where, strategy), name, modality)
            save_features(path, features, recipe("test", {}, {}))
    return where


def make_model(datasets_dir: Path, model: str, name: str = "Tiny", **values: Any) -> Tuple[Any, Any, SequenceData]:
    """Model, settings and data; weights are larger than usual, so that softmaxes are not flat."""
    settings: Any = MODELS[model].schema(dataset=name, datasets_dir=str(datasets_dir), **{**SMALL, **values})
    data = load_splits(settings)
    torch.manual_seed(1)
    built: Any = MODELS[model](settings, data)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built, settings, data


def rows_of(sequences: Sequences) -> List[Tuple[int, List[int], int]]:
    """Each prediction as (number of its sequence, its history, its target)."""
    found = []
    for number, (begin, length, n) in enumerate(zip(sequences.begin, sequences.lengths, sequences.n_targets)):
        for stop in range(begin + length - n + 1, begin + length + 1):
            found.append((number, sequences.items[begin:stop].tolist(), int(sequences.items[stop])))
    return found


def padded(sequences: Sequences) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each prediction as a row: sequence (N,), history (N, L) right-padded with 0, length (N,), target (N,)."""
    numbers, histories, targets = zip(*rows_of(sequences))
    items = torch.nn.utils.rnn.pad_sequence([torch.tensor(history) for history in histories], batch_first=True)
    return torch.tensor(numbers), items, torch.tensor([len(h) for h in histories]), torch.tensor(targets)


def separate_rows(sequences: Sequences) -> Batch:
    """A batch in which every prediction is a row by itself."""
    _, items, lengths, targets = padded(sequences)
    return batch_of_rows(items, lengths, targets)


def settings_of(datasets_dir: Path, results_dir: Path, **values: Any) -> SICSRecSettings:
    """Settings of a tiny training of SICSRec and its ID encoder."""
    small = {**SMALL, "epochs": 3, "step_1": {"train_batch_size": 16, "epochs": 3}, "dataset": "Tiny"}
    return SICSRecSettings(**{**small, "datasets_dir": str(datasets_dir), "results_dir": str(results_dir), **values})


def words(datasets_dir: Path, results_dir: Path, **values: Any) -> List[str]:
    """The command line of a tiny training."""
    given = {**SMALL, "epochs": 3, "datasets_dir": datasets_dir, "results_dir": results_dir, **values}
    return ["-d", "Tiny", *(f"{key}={value}" for key, value in given.items())]


def run_script(script: str, command: Sequence[str], launcher: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Run one of stage 2's scripts in a process."""
    line = [sys.executable, *launcher, str(STAGE2 / script), *command]
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)


def only_run(results_dir: Path, model: str = "SICSRec") -> Path:
    """The one run of a model."""
    (folder,) = (path for path in (results_dir / model / "Tiny").iterdir() if not path.name.startswith("search"))
    return folder


def read_metrics(folder: Path) -> Dict[str, Any]:
    """metrics.json."""
    found: Dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def assert_same_results(a: Path, b: Path) -> None:
    """Metrics, ranks and weights are the same to the bit."""
    metrics_a, metrics_b = read_metrics(a), read_metrics(b)
    for metrics in (metrics_a, metrics_b):
        del metrics["seconds"], metrics["energy"], metrics["checkpoint"]
    assert metrics_a == metrics_b
    assert (a / "ranks.csv").read_text() == (b / "ranks.csv").read_text()
    weights_a, weights_b = (torch.load(run / "best.pth", weights_only=True)["state_dict"] for run in (a, b))
    assert weights_a.keys() == weights_b.keys()
    for name in weights_a:
        assert torch.equal(weights_a[name], weights_b[name]), name
