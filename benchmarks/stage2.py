"""Seconds and floating-point operations of a training epoch of stage 2, ours against the plain way, in one run.

    python -m benchmarks.stage2 -d Bili_Food features_dir=DIR
    python -m benchmarks.stage2                                 on the quickstart's ml-100k

The plain way (plain.py): every prefix a row padded to 50, the adapters at every position, torch's
dropout, fp32. Its epoch is measured over ``plain_steps`` steps and scaled to all of them; ours is the
whole epoch, batches made included, the median of ``epochs``. Operations are torch's count of matrix
products, forward and backward. Without features, random ones of the papers' widths serve: speed does
not depend on their values.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measured import Measured
from benchmarks.plain import PlainIDSeqEncoder, PlainSICSRec
from common.dataset import load_dataset
from common.device import Compute, pick_compute
from common.errors import run_script
from common.features import features_path
from common.processes import Processes
from common.seeding import seed_everything
from common.settings import ComputeSettings, parse, setting
from stage2_sequence_preference_learning.data import EvalLoader, SequenceDataset, TrainLoader, load_splits
from stage2_sequence_preference_learning.evaluation import rank_split
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import SCHEMAS, recbole_config, resolve_switches
from stage2_sequence_preference_learning.trainer import adam

WIDTHS = {"text": 768, "image": 1000}


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    features_dir: Optional[str] = setting(None, "stage 1's features; null: the data set's folder, or random ones")
    epochs: int = setting(5, "epochs of ours, after one to warm up", minimum=1)
    plain_steps: int = setting(3, "steps of the plain way, after one to warm up; 0 leaves it out", minimum=0)


def prepared(model: str, settings: Settings, compute: Compute) -> Tuple[Any, Any, SequenceDataset, SequenceDataset]:
    """The model as its training script builds it, its settings, the train and validation split."""
    own: Any = SCHEMAS[model](dataset=settings.dataset, datasets_dir=settings.datasets_dir)
    resolve_switches(own)
    own.features_dir = settings.features_dir
    config = recbole_config(MODELS[model], own, compute.device, Path("unused"))
    config["n_catalogue"] = load_dataset(settings.dataset_dir, settings.dataset).n_items
    train, valid, _ = load_splits(config)
    folder = Path(settings.features_dir or settings.dataset_dir)
    for modality in getattr(own, "modalities", []):
        if not features_path(folder, settings.dataset, modality).is_file():
            train.use_features(modality, torch.randn(train.item_num, WIDTHS[modality]))
    return MODELS[model](config, train).to(compute.device), own, train, valid


def step(optimizer: torch.optim.Optimizer, compute: Compute, terms: Callable[[], Dict[str, Tensor]]) -> None:
    """One update."""
    optimizer.zero_grad(set_to_none=True)
    with compute.autocast():
        losses = terms()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def ours(name: str, model: Any, loader: TrainLoader, compute: Compute, epochs: int) -> Measured:
    """Median seconds of an epoch; operations of one epoch."""
    optimizer = adam(model, 1e-3)
    model.train()

    def epoch() -> float:
        start = time.perf_counter()
        for batch, _ in loader:
            moved = batch.to(compute.device)
            step(optimizer, compute, lambda moved=moved: model(moved))  # type: ignore[misc]
        return time.perf_counter() - start

    epoch()
    seconds = statistics.median(epoch() for _ in range(epochs))
    with FlopCounterMode(display=False) as counter:
        epoch()
    return Measured(f"{name}, ours, {compute.precision}", seconds, float(counter.get_total_flops()))


def plain(name: str, model: Any, own: Any, train: SequenceDataset, steps: int) -> Measured:
    """An epoch of the plain way, scaled up from a few steps."""
    inter = train.inter_feat
    columns = [inter[c] for c in ("item_id_list", "item_length", "item_id")]
    columns[0] = torch.nn.functional.pad(columns[0], (0, own.max_seq_length - columns[0].shape[1]))
    order = torch.randperm(len(train))
    baseline: Any
    if name == "SICSRec":
        widths = {m: model.get_submodule(f"plm_{m}_embedding").weight.shape[1] for m in own.modalities}
        baseline = PlainSICSRec(own, model.n_items, widths)
    else:
        baseline = PlainIDSeqEncoder(own, model.n_items)
    baseline.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    for parameter_name, parameter in baseline.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    optimizer = torch.optim.Adam([p for p in baseline.parameters() if p.requires_grad], lr=1e-3)
    fp32 = Compute(torch.device("cpu"), "fp32")

    def batches() -> Iterator[List[Tensor]]:
        for rows in order.split(own.train_batch_size):
            yield [column[rows] for column in columns]

    taken = [batch for batch, _ in zip(batches(), range(steps + 1))]
    with FlopCounterMode(display=False) as counter:  # warms up as well
        step(optimizer, fp32, lambda: baseline.terms(*taken[0]))
    start = time.perf_counter()
    for batch in taken[1:]:
        step(optimizer, fp32, lambda batch=batch: baseline.terms(*batch))  # type: ignore[misc]
    n_steps = -(-len(train) // own.train_batch_size)
    seconds = (time.perf_counter() - start) / len(taken[1:]) * n_steps
    return Measured(f"{name}, plain, fp32", seconds, float(counter.get_total_flops()) * n_steps)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure both models, print the table."""
    settings = parse(Settings, __doc__, None, argv, redoes=False).settings
    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    rows, validations = [], []
    for name in ("ID_SeqEncoder", "SICSRec"):
        model, own, train, valid = prepared(name, settings, compute)
        baseline = plain(name, model, own, train, settings.plain_steps) if settings.plain_steps else None
        rows += [baseline.row(None)] if baseline else []
        loader = TrainLoader(train, own.train_batch_size, settings.seed)
        rows.append(ours(name, model, loader, compute, settings.epochs).row(baseline))
        evaluation = EvalLoader(valid)
        rank_split(model, evaluation, compute.device, Processes())
        start = time.perf_counter()
        rank_split(model, evaluation, compute.device, Processes())
        validations.append(f"{name} {time.perf_counter() - start:.2f} s")
    print(f"{settings.dataset} on {compute.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| epoch of | seconds | faster | 10¹² operations | fewer |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"a validation (full ranking, fp32): {', '.join(validations)}")


if __name__ == "__main__":
    run_script(main)
