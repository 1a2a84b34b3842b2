"""RecBole's trainer, extended: full-rank metrics with fair ties, whole checkpoints, several processes.

What RecBole's own lacks and this adds: checkpoints that load with ``weights_only=True`` and hold
everything a run needs to go on to the same bits (RNG, sampler, optimizer, scaler, early stopping);
mean rank for ties; ranks per user; terms of the loss by name; mixed precision by device.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import recbole.trainer.trainer as recbole_trainer
import torch
from recbole.trainer import Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common.checkpoints import load_checkpoint, load_weights, save_checkpoint
from common.device import Compute
from common.errors import Diverged, UserError
from common.operations import operations_of_step
from common.optimizer import fused_adam
from common.processes import Processes
from common.ranking import NotFinite, metrics
from common.seeding import rng_state, set_rng_state
from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader
from stage2_sequence_preference_learning.evaluation import rank_split

LAST, BEST = "last.pth", "best.pth"


@contextmanager
def _tensorboard_in(folder: Path, active: bool) -> Iterator[None]:
    """RecBole's trainer writes to ./log_tensorboard; a run's curves belong to the run."""
    original = recbole_trainer.get_tensorboard
    recbole_trainer.get_tensorboard = lambda logger: SummaryWriter(str(folder)) if active else _NoWriter()
    try:
        yield
    finally:
        recbole_trainer.get_tensorboard = original


class _NoWriter:
    """Stands in for TensorBoard on all processes but the first."""

    def add_scalar(self, *values: Any) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Nothing to close."""


def adam(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Adam over what is trained."""
    return fused_adam([{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}])


class SequenceTrainer(Trainer):
    """Trains one of `models.MODELS`.

    Args:
        config: RecBole's Config.
        model: the model, on its device.
        compute: device and precision.
        run_dir: takes ``last.pth``, ``best.pth`` and the TensorBoard file.
        about: what made the run, as plain values; stored in both checkpoints.
        processes: the group of processes this one belongs to.
    """

    def __init__(
        self, config: Any, model: Any, compute: Compute, run_dir: Path, about: Dict[str, Any], processes: Processes
    ) -> None:
        with _tensorboard_in(run_dir, processes.first):
            super().__init__(config, model)
        self.compute, self.run_dir, self.about, self.processes = compute, Path(run_dir), about, processes
        self.saved_model_file = str(self.run_dir / BEST)
        self.scaler = compute.scaler()
        self.module = self._module()
        self.seconds, self.best_epoch = 0.0, -1

    def _module(self) -> nn.Module:
        """What a step calls: the model, its gradients averaged over processes."""
        module: nn.Module = DistributedDataParallel(self.model) if self.processes.size > 1 else self.model
        return module

    def _build_optimizer(self, **keywords: Any) -> torch.optim.Optimizer:
        """Adam; RecBole's other optimizers are not offered."""
        return adam(self.model, self.learning_rate)

    def _train_epoch(
        self, train_data: TrainLoader, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        self.model.train()
        sums: Dict[str, float] = {}
        total = 0
        bar = tqdm(train_data, desc=f"epoch {epoch_idx}", unit="step", leave=False, disable=not show_progress)
        for step, (batch, n_targets) in enumerate(bar):
            batch = batch.to(self.device)
            self.optimizer.zero_grad(set_to_none=True)
            with self.compute.autocast():
                terms: Dict[str, Tensor] = self.module(batch)
            values = torch.stack([term.detach().float() for term in terms.values()])
            self._check_terms(terms, values, epoch_idx, step)
            # DDP averages gradients over processes; this makes it the mean over all targets
            share = len(batch) * self.processes.size / n_targets
            self._update(torch.stack(list(terms.values())).sum() * share)
            for name, value in zip(terms, values.tolist()):
                sums[name] = sums.get(name, 0.0) + value * len(batch)
            total += len(batch)
        means = {name: value / total for name, value in sums.items()}
        for name, value in means.items():
            self.tensorboard.add_scalar(f"train/{name}", value, epoch_idx)
        self.last_terms = means
        return sum(means.values())

    def _valid_epoch(self, valid_data: EvalLoader, show_progress: bool = False) -> Tuple[float, Dict[str, float]]:
        try:
            self.last_valid = self.evaluate(valid_data, load_best_model=False)
        except NotFinite as error:
            told = f"validation after epoch {len(self.train_loss_dict) - 1}: {error}: the weights are not finite"
            raise Diverged(told) from error
        return self.last_valid[self.valid_metric], self.last_valid

    def _check_terms(self, terms: Dict[str, Tensor], values: Tensor, epoch: int, step: int) -> None:
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            bad = ", ".join(name for name, ok in zip(terms, finite.tolist()) if not ok)
            raise Diverged(f"epoch {epoch}, step {step}: the loss is not finite, from its term: {bad}")

    def _update(self, loss: Tensor) -> None:
        scaler, clip = self.scaler, self.clip_grad_norm
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), **clip)
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()

    def evaluate(  # noqa: D102 (RecBole's)
        self, eval_data: EvalLoader, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Dict[str, float]:
        if load_best_model:
            path = Path(model_file or self.saved_model_file)
            load_weights(self.model, load_checkpoint(path)["state_dict"], path)
        return metrics(rank_split(self.model, eval_data, self.device, self.processes))

    def fit(  # noqa: D102 (RecBole's)
        self,
        train_data: TrainLoader,
        valid_data: Optional[EvalLoader] = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Optional[Callable[[int, float], None]] = None,
    ) -> Tuple[float, Dict[str, float]]:
        if self.start_epoch >= self.epochs or self.cur_step > self.stopping_step:
            return self.best_valid_score, self.best_valid_result  # it was killed after its last epoch
        clock = time()

        def after_epoch(epoch: int, score: float) -> None:
            nonlocal clock
            now = time()
            self.seconds, clock = self.seconds + now - clock, now
            self._log_epoch(epoch)
            self._save_last(epoch, train_data)
            if callback_fn is not None:
                callback_fn(epoch, score)

        best: Tuple[float, Dict[str, float]] = super().fit(
            train_data, valid_data, verbose, saved, show_progress, after_epoch
        )
        return best

    def _log_epoch(self, epoch: int) -> None:
        terms = ", ".join(f"{name} {value:.4f}" for name, value in self.last_terms.items())
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.last_valid.items())
        better = " *" if self.best_epoch == epoch else ""
        self.logger.info(f"epoch {epoch} [{self.seconds:.0f} s] {terms} | valid {scores}{better}")

    def _add_hparam_to_tensorboard(self, best_valid_result: Any) -> None:
        """The settings stand in settings.yaml; RecBole would list its own defaults here."""

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """``best.pth``: the weights of the best epoch so far and what made them."""
        self.best_epoch = epoch
        if self.processes.first:
            content = {"state_dict": self.model.state_dict(), "epoch": epoch, "about": self.about}
            save_checkpoint(self.run_dir / BEST, content)

    def _save_last(self, epoch: int, loader: TrainLoader) -> None:
        """``last.pth``: all that the next epoch depends on."""
        rng = self.processes.gather(rng_state(self.compute.device))
        if not self.processes.first:
            return
        content = {
            "about": self.about,
            "epoch": epoch,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "rng": rng,
            "sampler": {"seed": loader.seed, "epoch": loader.epoch},
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": dict(self.best_valid_result),
            "train_loss": {str(k): v for k, v in self.train_loss_dict.items()},
            "seconds": self.seconds,
        }
        save_checkpoint(self.run_dir / LAST, content)

    def operations_per_epoch(self, loader: TrainLoader) -> Optional[float]:
        """Floating-point operations of an epoch's training, over all processes, scaled up from one batch by targets."""
        batch, _ = next(iter(loader))
        batch = batch.to(self.device)

        def loss() -> Tensor:
            with self.compute.autocast():
                return torch.stack(list(self.model(batch).values())).sum()

        return operations_of_step(self.model, loss) / len(batch) * len(loader.sequences.targets)

    def resume(self, loader: TrainLoader) -> bool:
        """Go on after the last whole epoch of this run, if there is one."""
        path = self.run_dir / LAST
        if not self.processes.agree(path.is_file()):
            return False
        state = load_checkpoint(path)
        if state["about"] != self.about:
            raise UserError(f"{path}: belongs to another run than made.json tells of; redo the run with --force")
        load_weights(self.model, state["state_dict"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        loader.seed, loader.epoch = state["sampler"]["seed"], state["sampler"]["epoch"]
        self.start_epoch, self.cur_step = state["epoch"] + 1, state["cur_step"]
        self.best_epoch = state["best_epoch"]
        self.best_valid_score, self.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        self.train_loss_dict = {int(k): v for k, v in state["train_loss"].items()}
        self.seconds = state["seconds"]
        set_rng_state(state["rng"][self.processes.rank], self.compute.device)
        return True


class ValidationTrainer(SequenceTrainer):
    """For models that nothing trains by gradient: takes the one of their `options` that validates best.

    A model may count what it needs when it is made, and have one option.
    """

    def _module(self) -> nn.Module:
        """There are no gradients to average."""
        module: nn.Module = self.model
        return module

    def _build_optimizer(self, **keywords: Any) -> Any:
        """There is nothing to optimise."""

    def operations_per_epoch(self, loader: TrainLoader) -> Optional[float]:
        """None are of the kind that is counted."""
        return None

    def fit(self, train_data: Any, valid_data: Any = None, *words: Any, **keywords: Any) -> Any:
        """Validate each option; the best one's state is the checkpoint."""
        start = time()
        for option in self.model.options:
            self.model.choose(option)
            score, result = self._valid_epoch(valid_data)
            self.logger.info(f"option {option:g}: " + ", ".join(f"{k} {v:.4f}" for k, v in result.items()))
            if self.best_epoch < 0 or score > self.best_valid_score:
                self.best_valid_score, self.best_valid_result = score, result
                self._save_checkpoint(0)
        self.seconds = time() - start
        return self.best_valid_score, self.best_valid_result
