"""Seconds and floating-point operations of a training epoch of stage 2: this code against the plain way, in one run.

    python -m benchmarks.stage2 -d Bili_Food features_dir=DIR
    python -m benchmarks.stage2                                 on the quickstart's ml-100k

The plain way (plain.py): every prefix is a row padded to 50, the adapters run at every position, torch's dropout, fp32.
Its epoch is scaled up from ``plain_steps`` steps. An epoch of this code is measured as a whole, with the making of
batches; the median of ``epochs`` is reported. Operations are torch's count of matrix products, forward and backward.
Without features there are random ones of the papers' widths: speed does not depend on their values.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measured import Measured
from benchmarks.plain import PlainIDSeqEncoder, PlainSICSRec
from common.compute import Compute, Processes, pick_compute, seed_everything
from common.errors import run_script
from common.settings import ComputeSettings, parse, setting
from common.training import make_optimizer
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


def update(optimizer: torch.optim.Optimizer, terms: Dict[str, Tensor]) -> None:
    """One update."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()


def measure(
    name: str, model: Any, data: SequenceData, own: TransformerSettings, compute: Compute, epochs: int
) -> Measured:
    """Median seconds of an epoch; operations of one epoch."""
    loader, optimizer = TrainLoader(data.train, own.train_batch_size, own.seed), make_optimizer(model, own)
    model.train()

    def epoch(number: int) -> float:
        start = time.perf_counter()
        for rows in loader.epoch(number):
            batch = loader.load(rows)[0].to(compute.device)
            with compute.autocast():
                terms = model(batch)
            update(optimizer, terms)
        return time.perf_counter() - start

    epoch(0)
    seconds = statistics.median(epoch(number + 1) for number in range(epochs))
    with FlopCounterMode(display=False) as counter:
        epoch(epochs + 1)
    return Measured(f"{name}, this code, {compute.precision}", seconds, float(counter.get_total_flops()))


def prefix_rows(data: SequenceData, length: int) -> List[Tensor]:
    """All training prefixes padded to ``length``: items (N, length), lengths (N,), targets (N,)."""
    sequences = data.train
    start = torch.from_numpy(sequences.item_start[:-1]).repeat_interleave(
        torch.from_numpy(sequences.target_start).diff()
    )
    lengths, targets = torch.from_numpy(sequences.columns) + 1, torch.from_numpy(sequences.targets)
    places = torch.arange(length).expand(len(targets), length)
    inside = places < lengths[:, None]
    items = torch.from_numpy(sequences.items)[(start[:, None] + places) * inside] * inside
    return [items, lengths, targets]


def measure_plain(name: str, model: Any, data: SequenceData, own: TransformerSettings, steps: int) -> Measured:
    """An epoch of the plain way, scaled up from a few steps."""
    columns = prefix_rows(data, own.max_seq_length)
    plain: Any = PlainIDSeqEncoder(own, model.n_items)
    if name == "SICSRec":
        plain = PlainSICSRec(own, model.n_items, {key: table.shape[1] for key, table in data.features.items()})
    plain.load_state_dict({key: value.cpu() for key, value in model.state_dict().items()})
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, parameter in plain.named_parameters():
        parameter.requires_grad_(key in trained)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-3)
    batches = torch.randperm(len(data.train.targets)).split(own.train_batch_size)
    with FlopCounterMode(display=False) as counter:  # warms up as well
        update(optimizer, plain.terms(*(column[batches[0]] for column in columns)))
    start = time.perf_counter()
    for rows in batches[1 : 1 + steps]:
        update(optimizer, plain.terms(*(column[rows] for column in columns)))
    seconds = (time.perf_counter() - start) / steps * len(batches)
    return Measured(f"{name}, plain, fp32", seconds, float(counter.get_total_flops()) * len(batches))


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
        model: nn.Module = MODELS[name](own, data).to(compute.device)
        baseline = measure_plain(name, model, data, own, settings.plain_steps) if settings.plain_steps else None
        rows += [baseline.row(None)] if baseline else []
        rows.append(measure(name, model, data, own, compute, settings.epochs).row(baseline))
        loader = EvalLoader(data.valid, data.n_items)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            model.rank(loader, compute, Processes())  # type: ignore[operator]
            seconds.append(time.perf_counter() - start)
        validations.append(f"{name} {seconds[-1]:.2f} s")
    print(f"{settings.dataset} on {compute.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| epoch of | seconds | faster | 10¹² operations | fewer |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"a validation (full ranking, fp32): {', '.join(validations)}")


if __name__ == "__main__":
    run_script(main)
