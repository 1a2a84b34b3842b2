"""Seconds and floating-point operations of a training epoch of stage 2: this code against the plain way, in one run.

    python -m benchmarks.stage2 -d Bili_Food features_dir=DIR
    python -m benchmarks.stage2                                 # on the quickstart's ml-100k

The plain way (plain.py): every prefix is a row padded to 50, the adapters run at every position, torch's dropout, fp32.
Its epoch is scaled up from ``plain_steps`` steps. An epoch of this code is measured as a whole, with the making of
batches; the median of ``epochs`` is reported. Operations are torch's count of matrix products, forward and backward.
Without features there are random ones of the papers' widths: speed does not depend on their values.
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from itertools import count
from typing import Any, Callable, List, Optional

import torch
from torch import nn

from benchmarks.measured import Measured, measure, print_table, timed, update
from benchmarks.plain import PlainIDSeqEncoder, PlainSICSRec
from common.compute import Compute, Processes, pick_compute, seed_everything
from common.settings import ComputeSettings, parse, setting
from common.training import make_optimizer
from reproduce.baselines.histories import train_rows
from stage2_sequence_preference_learning.data import EvalLoader, SequenceData, TrainLoader, load_splits
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import HistorySettings, SICSRecSettings, TransformerSettings

WIDTHS = {"text": 768, "image": 1000}


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    features_dir: Optional[str] = setting(None, "stage 1's features; null: random ones")
    epochs: int = setting(5, "epochs of this code, after one to warm up", minimum=1)
    plain_steps: int = setting(3, "steps of the plain way, after one to warm up; 0 leaves it out", minimum=0)


def load_data(settings: Settings, own: TransformerSettings) -> SequenceData:
    """The splits, with features."""
    if settings.features_dir:
        return load_splits(own)
    n_items = load_splits(HistorySettings(dataset=own.dataset, datasets_dir=own.datasets_dir)).n_items
    return load_splits(own, {modality: torch.randn(n_items, width) for modality, width in WIDTHS.items()})


def measure_ours(
    name: str, model: nn.Module, data: SequenceData, own: TransformerSettings, compute: Compute, epochs: int
) -> Measured:
    """An epoch, batches made included."""
    loader, optimizer = TrainLoader(data.train, own.train_batch_size, own.seed), make_optimizer(model, own)
    numbers = count()
    model.train()

    def epoch() -> None:
        for rows in loader.epoch(next(numbers)):
            batch = loader.load(rows)[0].to(compute.device)
            with compute.autocast():
                terms = model(batch)
            update(optimizer, terms)

    return measure(f"{name}, this code, {compute.precision}", epoch, epochs)


def measure_plain(name: str, model: Any, data: SequenceData, own: TransformerSettings, steps: int) -> Measured:
    """An epoch of the plain way, scaled up from a few steps."""
    plain: Any = PlainIDSeqEncoder(own, model.n_items)
    if name == "SICSRec":
        plain = PlainSICSRec(own, model.n_items, {key: table.shape[1] for key, table in data.features.items()})
    plain.load_state_dict({key: value.cpu() for key, value in model.state_dict().items()})
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, parameter in plain.named_parameters():
        parameter.requires_grad_(key in trained)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-3)
    columns = (*train_rows(data.train, own.max_seq_length), torch.from_numpy(data.train.targets))
    batches = torch.randperm(len(columns[-1])).split(own.train_batch_size)
    chosen = iter(batches)

    def step() -> None:
        rows = next(chosen)
        update(optimizer, plain.terms(*(column[rows] for column in columns)))

    return measure(f"{name}, plain, fp32", step, min(steps, len(batches) - 2), len(batches))


def main(argv: Optional[List[str]] = None) -> None:
    """Measure both models, print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    rows, validations = [], []
    for name in ("ID_SeqEncoder", "SICSRec"):
        shared = {"dataset": settings.dataset, "datasets_dir": settings.datasets_dir}
        extra = {"features_dir": settings.features_dir} if name == "SICSRec" else {}
        schema: Callable[..., TransformerSettings] = MODELS[name].schema  # type: ignore[assignment]
        own = schema(**shared, **extra)
        data = load_data(settings, own) if isinstance(own, SICSRecSettings) else load_splits(own)
        model = MODELS[name](own, data).to(compute.device)
        baseline = measure_plain(name, model, data, own, settings.plain_steps) if settings.plain_steps else None
        rows += [baseline.row()] if baseline else []
        rows.append(measure_ours(name, model, data, own, compute, settings.epochs).row(baseline))
        loader = EvalLoader(data.valid, data.n_items)
        seconds = [timed(lambda: model.rank(loader, compute, Processes())) for _ in range(2)]  # noqa: B023
        validations.append(f"{name} {seconds[-1]:.2f} s")
    print_table("epoch of", f"{settings.dataset} on {compute.device}", rows)
    print(f"a validation (full ranking, fp32): {', '.join(validations)}")


if __name__ == "__main__":
    run_script(main)
