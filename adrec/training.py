"""Training of ADRec: steps, validation every n steps, early stop, checkpoints that resume to the bit."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from adrec.data import Batches, Rows, Tokens, epoch_batches
from adrec.evaluation import TOPK, encode_items, rank_rows
from adrec.model import TERMS, ADRec
from adrec.text_encoder import Vocabulary
from common.checkpoints import load_checkpoint, load_weights, save_checkpoint
from common.device import Compute
from common.errors import Diverged, UserError
from common.compute import operations_of_step
from common.optimizer import fused_adam
from common.processes import Processes
from common.ranking import NotFinite, metrics
from common.seeding import rng_state, set_rng_state

TABLE = "text.embeddings.word_embeddings.weight"


def make_optimizer(model: ADRec, settings: Any) -> torch.optim.Adam:
    """Adam over the query side, its two encoders apart."""
    text = [parameter for parameter in model.query.text.parameters() if parameter.requires_grad]
    of_text = set(model.query.text.parameters())
    rate = settings.learning_rate if settings.text_learning_rate is None else settings.text_learning_rate
    others = [parameter for parameter in model.query.parameters() if parameter not in of_text]
    groups = [{"params": others, "lr": settings.learning_rate}, *([{"params": text, "lr": rate}] if text else [])]
    return fused_adam(groups)


class Trainer:
    """Trains an `ADRec` on rows and chooses its checkpoint on validation.

    Args:
        tokens: of all items, renumbered to the text encoder's table.
        vocabulary: what the table was cut from.
        padding: ``padded_to`` and ``pad`` of `Batches` and `encode_items` (A2).
        about: what the checkpoints say of the run; last.pth of another run is not resumed.
    """

    def __init__(
        self,
        model: ADRec,
        train: Rows,
        valid: Rows,
        tokens: Tokens,
        vocabulary: Vocabulary,
        padding: Dict[str, Any],
        compute: Compute,
        run_dir: Path,
        about: Dict[str, Any],
        processes: Processes,
    ) -> None:
        self.model, self.settings = model, model.settings
        self.train_rows, self.valid_rows, self.tokens, self.padding = train, valid, tokens, padding
        self.vocabulary = vocabulary
        self.compute, self.run_dir, self.about, self.processes = compute, run_dir, about, processes
        self.batches = Batches(train, tokens, compute.device, **padding)
        self.optimizer, self.scaler = make_optimizer(model, model.settings), compute.scaler()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.stepped: torch.nn.Module = model
        if processes.size > 1:  # buffers are kept equal by gathering the keys
            with warnings.catch_warnings():  # torch 2.13 has a new name for it, which older ones do not know
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
                self.stepped = DistributedDataParallel(model, broadcast_buffers=False)
        self.epoch, self.step, self.done = 0, 0, False  # step: within the epoch
        self.best: Dict[str, Any] = {}
        self.worse, self.seconds = 0, 0.0
        self.steps_per_epoch = math.ceil(len(train) / self.settings.train_batch_size)

    # --- the loop ---

    def fit(self) -> Dict[str, Any]:
        """Train until the last epoch or the early stop; returns the best validation's metrics, epoch and step."""
        self._open_tensorboard()
        try:
            while not self.done:
                self._epoch()
        finally:
            if self.tensorboard:
                self.tensorboard.close()
        return self.best

    def _epoch(self) -> None:
        batches = epoch_batches(self.train_rows, self.settings, self.epoch)
        sums: Dict[str, float] = {}
        started, first = time.perf_counter(), self.step
        bar = tqdm(
            total=len(batches), initial=first, desc=f"epoch {self.epoch}", unit="step", leave=False,
            disable=None if self.processes.first else True,
        )  # fmt: skip
        with bar:
            for number in range(first, len(batches)):
                terms = self._step(batches[number])
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                self.step = number + 1
                bar.update()
                last = self.step == len(batches)
                every = self.settings.valid_steps
                if last or (every and self.total_steps % every == 0):
                    self.seconds += time.perf_counter() - started
                    shown = {name: value / (self.step - first) for name, value in sums.items()}
                    self._validate(shown, last)
                    started = time.perf_counter()
                    if self.done:
                        return

    @property
    def total_steps(self) -> int:
        """Steps since the beginning."""
        return self.epoch * self.steps_per_epoch + self.step

    def _set_rates(self) -> None:
        warm = min(1.0, (self.total_steps + 1) / max(1, self.settings.warmup_steps))
        decay = self.settings.lr_gamma ** (self.epoch // self.settings.lr_step)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * warm * decay

    def _step(self, rows: np.ndarray) -> Dict[str, float]:
        """One update; returns the four terms and the loss."""
        self.model.same_rows = len(rows) < self.processes.size  # then all processes take them all
        share = rows if self.model.same_rows else rows[self.processes.rank :: self.processes.size]
        batch = self.batches.of(share)
        self._set_rates()
        self.model.train()
        logs = self.total_steps % self.settings.log_steps == 0
        with self.compute.autocast():
            loss, logged = self.stepped(batch, logs)
        values = {name: value.item() for name, value in logged.items() if name in TERMS}
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._diverged(f"the term {name} is {value}")
        # processes average their gradients: a row weighs the same wherever it is computed
        weight = 1.0 if self.model.same_rows else len(share) * self.processes.size / len(rows)
        self._update(loss * weight)
        if self.tensorboard and logs:
            for name, logged_value in logged.items():
                self.tensorboard.add_scalar(f"train/{name}", logged_value.item(), self.total_steps)
            self.tensorboard.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], self.total_steps)
        return {"loss": float(loss.item()), **values}

    def _update(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()
        if self.settings.clip_grad_norm:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.query.parameters(), self.settings.clip_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def operations_per_epoch(self) -> float:
        """Floating-point operations of an epoch's training, over all processes, scaled up from one batch by its rows.

        Moves keys and queues on: for when the training is over.
        """
        rows = epoch_batches(self.train_rows, self.settings, 0)[0][:: self.processes.size]  # a process's share: memory
        batch = self.batches.of(rows)
        self.model.gather, self.model.same_rows = (lambda keys: keys), True  # the other processes take no part

        def loss() -> torch.Tensor:
            with self.compute.autocast():
                found: torch.Tensor = self.model(batch, False)[0]
            return found

        return operations_of_step(self.model, loss) / len(rows) * len(self.train_rows)

    # --- validation ---

    def _validate(self, losses: Dict[str, float], last_of_epoch: bool) -> None:
        """Rank the validation split, keep the best weights, decide whether to stop, save everything."""
        started = time.perf_counter()
        found: Dict[str, float] = self.processes.agree(self._rank_valid() if self.processes.first else None)
        self.seconds += time.perf_counter() - started  # as in stage 2, whose tables it stands in
        score = found[self.settings.valid_metric]
        better = not self.best or score > self.best["valid"][self.settings.valid_metric]
        told = f"epoch {self.epoch} step {self.step}/{self.steps_per_epoch}"
        if better:
            self.best = {"valid": found, "best_epoch": self.epoch, "best_step": self.total_steps}
            self.worse = 0
            if self.processes.first:
                self.save_best()
        else:
            self.worse += 1
        self._log(told, losses, found, better)
        if last_of_epoch:
            self.epoch, self.step = self.epoch + 1, 0
        self.done = self.epoch >= self.settings.epochs or self.worse > self.settings.stopping_step
        self._save_last()

    def _rank_valid(self) -> Dict[str, float]:
        encoders = self.model.ranking_side
        items = encode_items(encoders, self.tokens, self.compute, **self.padding)
        try:
            return metrics(rank_rows(encoders, items, self.valid_rows), TOPK)
        except NotFinite as error:
            raise self._diverged("the weights are not finite") from error

    def _diverged(self, what: str) -> Diverged:
        return Diverged(f"step {self.total_steps}: {what}")

    def _log(self, told: str, losses: Dict[str, float], found: Dict[str, float], better: bool) -> None:
        terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items() if not name.endswith("@5"))
        logging.info(f"{told} [{self.seconds:.0f} s] {terms} | valid {shown}{' *' if better else ''}")
        if self.tensorboard:
            for name, value in found.items():
                self.tensorboard.add_scalar(f"valid/{name}", value, self.total_steps - 1)  # of the last step taken

    def _open_tensorboard(self) -> None:
        self.tensorboard: Optional[SummaryWriter] = None
        if self.processes.first:
            self.tensorboard = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=self.total_steps)

    # --- checkpoints ---

    def save_best(self) -> None:
        """The side that ranks, with BERT's whole embedding table: what testing and recommending need."""
        weights = self.model.ranking_side.state_dict()
        weights[TABLE] = self.vocabulary.whole(weights[TABLE])
        save_checkpoint(self.run_dir / "best.pth", {"state_dict": weights, "about": json.dumps(self.about)})

    def _save_last(self) -> None:
        """All that goes on: both encoders, queues, pointers, optimizer, generators of every process."""
        states: List[Any] = self.processes.gather(rng_state(self.compute.device))
        if self.processes.first:
            content = {
                "about": json.dumps(self.about),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "place": {"epoch": self.epoch, "step": self.step, "done": self.done, "worse": self.worse},
                "best": self.best,
                "seconds": self.seconds,
                "rng": states,
            }
            save_checkpoint(self.run_dir / "last.pth", content)
        self.processes.agree(None)

    def resume(self) -> bool:
        """Go on where last.pth was saved, if it is there."""
        path = self.run_dir / "last.pth"
        if not path.is_file():
            return False
        content = load_checkpoint(path)
        if json.loads(content["about"]) != self.about:
            raise UserError(f"{path}: belongs to another run than made.json tells of; redo the run with --force")
        load_weights(self.model, content["model"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(content["scaler"])
        place = content["place"]
        self.epoch, self.step, self.done, self.worse = (place[k] for k in ("epoch", "step", "done", "worse"))
        self.best, self.seconds = content["best"], content["seconds"]
        set_rng_state(content["rng"][self.processes.rank], self.compute.device)
        return True
