"""An epoch of stage 2, by this code and the plain way (plain.py), measured."""

from __future__ import annotations

from itertools import count
from typing import Any, Callable, Tuple

import torch
from torch import nn

from benchmarks.measured import Measured, measure, train_step, update
from benchmarks.plain import PlainIDSeqEncoder, PlainSICSRec
from common.compute import Compute
from common.training import make_optimizer
from reproduce.baselines.histories import train_rows
from stage2_sequence_preference_learning.data import SequenceData, TrainLoader, load_splits
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import HistorySettings, SICSRecSettings, TransformerSettings

WIDTHS = {"text": 768, "image": 1000}


def make(name: str, dataset: str, datasets_dir: str, **values: Any) -> Tuple[TransformerSettings, SequenceData, Any]:
    """Settings, splits with features, and the model; without ``features_dir`` features are random."""
    schema: Callable[..., TransformerSettings] = MODELS[name].schema  # type: ignore[assignment]
    own, features = schema(dataset=dataset, datasets_dir=datasets_dir, **values), None
    if isinstance(own, SICSRecSettings) and not own.features_dir:
        n_items = load_splits(HistorySettings(dataset=dataset, datasets_dir=datasets_dir)).n_items
        features = {modality: torch.randn(n_items, width) for modality, width in WIDTHS.items()}
    data = load_splits(own, features)
    return own, data, MODELS[name](own, data)


def epoch_of(model: nn.Module, data: SequenceData, own: TransformerSettings, compute: Compute) -> Callable[[], None]:
    """What trains for one epoch, another one at each call; batches made included."""
    loader, optimizer = TrainLoader(data.train, own.train_batch_size, own.seed), make_optimizer(model, own)
    scaler, numbers = compute.scaler(), count()
    stepped = torch.compile(model, dynamic=True) if own.compile else model
    model.train()

    def epoch() -> None:
        for rows in loader.epoch(next(numbers)):
            train_step(stepped, loader, rows, optimizer, scaler, compute)

    return epoch


def measure_ours(
    name: str, model: nn.Module, data: SequenceData, own: TransformerSettings, compute: Compute, epochs: int
) -> Measured:
    """An epoch."""
    way = "compiled" if own.compile else "this code"
    return measure(f"{name}, {way}, {compute.precision}", epoch_of(model, data, own, compute), epochs)


def measure_plain(
    name: str, model: Any, data: SequenceData, own: TransformerSettings, steps: int, device: str = "cpu"
) -> Measured:
    """An epoch of the plain way, scaled up from a few steps."""
    plain: Any = PlainIDSeqEncoder(own, model.n_items)
    if name == "SICSRec":
        plain = PlainSICSRec(own, model.n_items, {key: table.shape[1] for key, table in data.features.items()})
    plain.load_state_dict({key: value.cpu() for key, value in model.state_dict().items()})
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, parameter in plain.named_parameters():
        parameter.requires_grad_(key in trained)
    plain.to(device)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-3)
    columns = (*train_rows(data.train, own.max_seq_length), torch.from_numpy(data.train.targets))
    batches = torch.randperm(len(data.train.targets)).split(own.train_batch_size)
    chosen = iter(batches)

    def step() -> None:
        rows = next(chosen)
        update(optimizer, plain.terms(*(column[rows].to(device) for column in columns)))

    return measure(f"{name}, plain, fp32", step, min(steps, len(batches) - 2), len(batches))
