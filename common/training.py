"""The training loop of all models: stage 1's fine-tuning, stage 2, ADRec and the baselines.

    fit(model, train, valid, settings, run)     trains, validates, keeps the best checkpoint; continues a stopped run
    test(model, split, run)                     ranks the test split with the best checkpoint

With ``torchrun`` each process computes its share of every batch; gradients are averaged over processes.
"""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional, Protocol, Tuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common.checkpoints import check_weights, load_checkpoint, load_weights, save_checkpoint
from common.compute import Compute, Processes, operations_of_step, rng_state, seed_everything, set_rng_state
from common.errors import Diverged, UserError
from common.files import write_text
from common.ranking import NotFinite, Ranking, metrics
from common.run import BEST, LAST, LoopSettings, OptimSettings, Run


class Method(Protocol):
    """What `fit` and `test` ask of a model, an ``nn.Module``."""

    def __call__(self, batch: Any) -> Dict[str, Tensor]:
        """The weighted terms of the loss by name, scalars; their sum is minimised."""

    def rank(self, split: Any, compute: Compute, processes: Processes) -> np.ndarray:
        """The target's rank for each row of a validation split: (N,), the same in all processes."""

    def test(self, split: Any, compute: Compute, processes: Processes) -> Ranking:
        """The ranking of a test split, the same in all processes."""

    def weights_to_continue(self) -> Dict[str, Tensor]:
        """What last.pth holds of the model: all that changes."""

    def weights_to_use(self) -> Dict[str, Tensor]:
        """What best.pth holds of the model: all that ranking needs."""


class Loader(Protocol):
    """The training rows."""

    def __len__(self) -> int:
        """Rows of an epoch."""

    def epoch(self, number: int) -> List[np.ndarray]:
        """The rows of each step of an epoch, drawn from the seed and the epoch's number alone."""

    def load(self, rows: np.ndarray) -> Tuple[Any, int]:
        """This process's share of a batch, and the rows of all shares."""


@dataclass
class Progress:
    """How far a training is; last.pth holds it."""

    epoch: int = 0
    step: int = 0  # within the epoch
    total_steps: int = 0
    worse: int = 0  # validations since the best one
    stop: bool = False
    seconds: float = 0.0
    best: Dict[str, Any] = field(default_factory=dict)  # valid: its metrics, best_epoch (from 1), best_step
    history: List[Dict[str, float]] = field(default_factory=list)  # a row per validation

    def is_over(self, epochs: int) -> bool:
        """Whether there is no step left."""
        return self.stop or self.epoch >= epochs


class TermSums:
    """Sums of the loss's terms since the last validation. `add` does not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.names: List[str] = []
        self.sums, self.rows = torch.zeros((), device=device), 0
        self.first_bad = torch.full((), torch.inf, device=device)  # the step at which each term was first not finite

    def add(self, terms: Dict[str, Tensor], rows: int, step: int) -> None:
        """Add the terms of a step, which are means over ``rows``."""
        self.names = list(terms)
        values = torch.stack([term.detach().float() for term in terms.values()])
        self.sums, self.rows = self.sums + values * rows, self.rows + rows
        self.first_bad = (
            torch.full_like(values, torch.inf).masked_fill(~values.isfinite(), step).minimum(self.first_bad)
        )

    def means(self, epoch: int) -> Dict[str, float]:
        """The terms' means over the rows. Raises `Diverged` if a term was not finite."""
        step = float(self.first_bad.min())
        if step < torch.inf:
            bad = ", ".join(name for name, first in zip(self.names, self.first_bad.tolist()) if first == step)
            raise Diverged(f"epoch {epoch + 1}, step {step + 1:.0f}: the loss is not finite, from its term: {bad}")
        return dict(zip(self.names, (self.sums / self.rows).tolist()))


def make_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """SGD or Adam over the trained parameters, Adam with one fused kernel where torch has one for the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate)
    try:
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=settings.betas, fused=True)
    except RuntimeError:  # torch before 2.4 has no fused kernel on the CPU
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=settings.betas)


def fit(model: Any, train: Loader, valid: Optional[Any], settings: OptimSettings, run: Run) -> None:
    """Train until the last epoch or the early stop, and write metrics.json.

    Args:
        model: a `Method`.
        valid: what ``model.rank`` takes; None trains all epochs and keeps the last weights.
        settings: `LoopSettings`; `OptimSettings` have no validation, and no best.pth is written.

    Raises:
        Diverged: a term of the loss or a weight is not finite.
    """
    optimizer, scaler = make_optimizer(model, settings), run.compute.scaler()
    validation = settings if isinstance(settings, LoopSettings) else None
    valid_steps = validation.valid_steps if validation else None
    stepped: Any = distributed(model) if run.processes.size > 1 else model
    if settings.compile:
        if run.compute.device.type == "cpu" and run.compute.precision == "bf16":
            raise UserError("compile=true: torch cannot compile bf16 for CPUs; set precision=fp32 or compile=false")
        stepped = torch.compile(stepped, dynamic=True)
    parameters = count_parameters(model)
    logging.info(f"{run.model} on {run.compute.device} in {run.compute.precision}: {run.folder}")
    logging.info(f"parameters: {parameters['trained']:,} trained, {parameters['frozen']:,} frozen")

    seed_everything(settings.seed + run.processes.rank)  # each process draws its own dropout
    at = resume(model, optimizer, scaler, run)
    writer = SummaryWriter(str(run.folder), purge_step=at.total_steps + 1) if run.processes.first else None
    while not at.is_over(settings.epochs):
        steps, sums, started = train.epoch(at.epoch), TermSums(run.compute.device), time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(at.epoch)
        model.train()
        hidden = None if run.processes.first else True  # None: on a terminal alone
        for rows in tqdm(steps[at.step :], desc=f"epoch {at.epoch + 1}", unit="step", leave=False, disable=hidden):
            batch, total = train.load(rows)  # while a GPU still computes the last step, for which nothing waits
            batch = batch.to(run.compute.device)
            with run.compute.autocast():
                terms = stepped(batch)
            share = len(batch) * run.processes.size / total  # DDP averages over processes: the mean over all rows

            optimizer.zero_grad(set_to_none=True)
            scaler.scale(sum(terms.values()) * share).backward()
            if settings.clip_grad_norm:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
            scaler.step(optimizer)  # optimizer.step(), unless fp16 overflowed; for SGD a GPU waits here in fp16
            scaler.update()

            sums.add(terms, len(batch), at.step)
            at.step, at.total_steps = at.step + 1, at.total_steps + 1
            ends = at.step == len(steps) or (valid_steps and at.total_steps % valid_steps == 0)
            if at.total_steps % settings.log_steps == 0:
                means = sums.means(at.epoch)
                if writer:
                    write_scalars(writer, "step", means, at.total_steps)
            if not ends:
                continue

            means, sums = sums.means(at.epoch), TermSums(run.compute.device)
            found = validate(model, valid, run, validation) if validation and valid is not None else {}
            if at.step == len(steps):
                at.epoch, at.step = at.epoch + 1, 0
            at.seconds, started = at.seconds + time.perf_counter() - started, time.perf_counter()
            better = keep_if_best(model, found, at, validation, run) if validation else False
            log_validation(means, found, better, at, len(steps), writer, run)
            save_last(model, optimizer, scaler, at, run)
            if at.is_over(settings.epochs):
                break
            model.train()
    if writer:
        writer.close()
    operations = operations_per_epoch(model, train, run)
    if run.processes.first:
        cost = {"seconds": round(at.seconds, 2), "parameters": parameters, "operations_per_epoch": operations}
        run.write_metrics({**at.best, "epochs": at.epoch + (at.step > 0), **cost})


def distributed(model: nn.Module) -> DistributedDataParallel:
    """A model whose gradients are averaged over the processes; buffers such as ADRec's queues are equal anyway."""
    with warnings.catch_warnings():  # torch 2.13 renamed the argument
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def validate(model: Any, valid: Any, run: Run, settings: LoopSettings) -> Dict[str, float]:
    """The metrics of the validation split."""
    try:
        return metrics(model.rank(valid, run.compute, run.processes), settings.topk)
    except NotFinite as error:
        raise Diverged(f"validation: {error}") from error


def keep_if_best(model: Any, found: Dict[str, float], at: Progress, settings: LoopSettings, run: Run) -> bool:
    """Write best.pth if the validation is the best so far (of equal ones the latest counts); decide whether to stop."""
    metric = settings.valid_metric
    better = not found or not at.best or found[metric] >= at.best["valid"][metric]
    if better:
        at.worse = 0
        at.best = {"valid": found, "best_epoch": at.epoch + (at.step > 0), "best_step": at.total_steps}
        if run.processes.first:
            content = {"state_dict": model.weights_to_use(), "epoch": at.best["best_epoch"], "about": run.about}
            save_checkpoint(run.folder / BEST, content)
    else:
        at.worse += 1
        at.stop = at.worse > settings.stopping_step
    return better


def test(model: Any, split: Any, run: Run) -> None:
    """Rank a split with best.pth and add the result to the run's folder, if the settings ask for it."""
    if run.is_tested:
        load_weights(model, load_checkpoint(run.folder / BEST, mmap=True)["state_dict"], run.folder / BEST)
        ranking = model.eval().test(split, run.compute, run.processes)
        if run.processes.first:
            ranking.write(run.folder)


def save_last(model: Any, optimizer: torch.optim.Optimizer, scaler: Any, at: Progress, run: Run) -> None:
    """Write last.pth: all that the next step depends on."""
    generators = run.processes.gather(rng_state(run.compute.device))
    if run.processes.first:
        content = {
            "recipe": run.recipe,
            "progress": asdict(at),
            "weights": model.weights_to_continue(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "generators": generators,
        }
        save_checkpoint(run.folder / LAST, content)
    run.processes.agree(None)


def resume(model: Any, optimizer: torch.optim.Optimizer, scaler: Any, run: Run) -> Progress:
    """Continue from last.pth if there is one of this run."""
    path = run.folder / LAST
    if not run.processes.agree(path.is_file()):
        return Progress()
    state = load_checkpoint(path)
    if not run.is_of_this_run(state["recipe"]):
        logging.info(f"{path} has other settings or inputs: training starts from the beginning")
        return Progress()
    check_weights(model.weights_to_continue(), state["weights"], str(path))
    model.load_state_dict(state["weights"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    set_rng_state(state["generators"][run.processes.rank], run.compute.device)
    at = Progress(**state["progress"])
    logging.info(f"continues after epoch {at.epoch}" if at.step == 0 else f"continues in epoch {at.epoch + 1}")
    return at


def log_validation(
    means: Dict[str, float], found: Dict[str, float], better: bool, at: Progress, n_steps: int, writer: Any, run: Run
) -> None:
    """A line of the log, TensorBoard's entries and a row of history.csv."""
    done = at.epoch + at.step / n_steps
    row = {f"train/{name}": value for name, value in means.items()}
    row.update({f"valid/{name}": value for name, value in found.items()})
    place = {"epoch": round(done, 4), "step": at.total_steps, "seconds": round(at.seconds, 2)}
    at.history.append({**place, **row, "best": int(better)})
    shown = " | valid ".join(
        ", ".join(f"{k} {value:.4f}" for k, value in part.items()) for part in (means, found) if part
    )
    logging.info(f"epoch {done:g} [{at.seconds:.0f} s] {shown}{' *' if better else ''}")
    if writer:
        write_scalars(writer, "", row, at.total_steps)
        write_text(run.folder / "history.csv", pd.DataFrame(at.history).to_csv(index=False, lineterminator="\n"))


def write_scalars(writer: Any, folder: str, values: Dict[str, float], step: int) -> None:
    """TensorBoard's entries."""
    for name, value in values.items():
        writer.add_scalar(f"{folder}/{name}".strip("/"), value, step)


def count_parameters(model: nn.Module) -> Dict[str, int]:
    """The numbers of trained and frozen parameters."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trained": trained, "frozen": sum(p.numel() for p in model.parameters()) - trained}


def operations_per_epoch(model: Any, train: Loader, run: Run) -> float:
    """Floating-point operations of an epoch's training over all processes, scaled up from one batch by its rows."""
    batch = train.load(train.epoch(0)[0])[0].to(run.compute.device)

    def loss() -> Tensor:
        with run.compute.autocast():
            return torch.stack(list(model(batch).values())).sum()

    return operations_of_step(model, loss) / len(batch) * len(train)
