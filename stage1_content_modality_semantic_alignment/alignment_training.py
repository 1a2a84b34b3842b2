"""The training loop of stage 1: SGD over pairs, a checkpoint after every epoch, bit-equal when resumed."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from common.checkpoints import load_checkpoint, save_checkpoint
from common.device import Compute
from common.errors import UserError
from common.files import differences
from common.seeding import rng_state, set_rng_state
from stage1_content_modality_semantic_alignment.content_model import ContentModel, ItemVectors
from stage1_content_modality_semantic_alignment.losses import alignment_losses


@dataclass(frozen=True)
class Schedule:
    """What shapes the training beside model and data."""

    epochs: int
    batch_size: int
    learning_rate: float
    temperature: float
    losses: Sequence[str]
    seed: int


class AlignmentTrainer:
    """Trains a `ContentModel` on pairs of positions, (P, 2).

    Args:
        folder: where ``checkpoint.pt`` and the TensorBoard log go.
        made_from: the recipe; a checkpoint of another one is not resumed.
    """

    def __init__(
        self,
        model: ContentModel,
        items: Mapping[str, ItemVectors],
        pairs: np.ndarray,
        schedule: Schedule,
        compute: Compute,
        folder: Path,
        made_from: Mapping[str, Any],
    ) -> None:
        self.model, self.items, self.pairs = model, items, pairs
        self.schedule, self.compute, self.folder, self.made_from = schedule, compute, folder, made_from
        self.optimizer = torch.optim.SGD(model.trained().values(), lr=schedule.learning_rate)
        self.scaler = compute.scaler()
        self.checkpoint = folder / "checkpoint.pt"
        self.epochs_done = 0

    def train(self) -> None:
        """Run the epochs that are left; raises `UserError` when a loss is not finite."""
        from torch.utils.tensorboard import SummaryWriter

        if self.checkpoint.is_file():
            self._resume()
        if not self.epochs_done:
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.model.train()
        first_step = self.epochs_done * self.steps_per_epoch
        with SummaryWriter(str(self.folder / "tensorboard"), purge_step=first_step) as log:
            for epoch in range(self.epochs_done, self.schedule.epochs):
                self._epoch(epoch, log)
                self.epochs_done = epoch + 1
                self._save()

    @property
    def steps_per_epoch(self) -> int:
        """The last batch may be smaller."""
        return math.ceil(len(self.pairs) / self.schedule.batch_size)

    def _epoch(self, epoch: int, log: Any) -> None:
        # drawn from seed and epoch alone, so that the sampler has no state to save
        order = np.random.default_rng([self.schedule.seed, epoch]).permutation(len(self.pairs))
        sums: Dict[str, float] = {}
        title = f"epoch {epoch + 1}/{self.schedule.epochs}"
        with tqdm(
            total=len(order), desc=title, disable=None, unit="pair", leave=epoch + 1 == self.schedule.epochs
        ) as bar:
            for number in range(self.steps_per_epoch):
                start = number * self.schedule.batch_size
                batch = self.pairs[order[start : start + self.schedule.batch_size]]
                step = epoch * self.steps_per_epoch + number
                for term, value in self._step(batch, step).items():
                    log.add_scalar(f"loss/{term}", value, step)
                    sums[term] = sums.get(term, 0.0) + value * len(batch)
                bar.update(len(batch))
            bar.set_postfix({term: f"{value / len(order):.4f}" for term, value in sums.items()})
        for term, value in sums.items():
            log.add_scalar(f"epoch/{term}", value / len(order), epoch)

    def _step(self, batch: np.ndarray, step: int) -> Dict[str, float]:
        """One update on pairs (B, 2); returns the terms and their total."""
        with self.compute.autocast():
            vectors = self.model.pair_vectors(self.items, batch)
            terms = alignment_losses(vectors, self.schedule.temperature, self.schedule.losses)
        values = {term: loss.item() for term, loss in terms.items()}
        for term, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"step {step}: the loss {term} is {value}; lower learning_rate "
                    f"({self.schedule.learning_rate}), raise temperature, or use precision=fp32"
                )
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        if self.scaler is None:
            total.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(total).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return {**values, "total": sum(values.values())}

    def _save(self) -> None:
        content = {
            "made_from": json.dumps(self.made_from),
            "epochs_done": self.epochs_done,
            "trained": {name: parameter.detach() for name, parameter in self.model.trained().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "rng": rng_state(self.compute.device),
        }
        save_checkpoint(self.checkpoint, content)

    def _resume(self) -> None:
        content = load_checkpoint(self.checkpoint)
        changed: str = differences(json.loads(content["made_from"]), self.made_from)
        if changed:
            print(f"{self.checkpoint} is not resumed, for these differ: {changed}")
            return
        self.model.load_trained(content["trained"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(content["scaler"])
        set_rng_state(content["rng"], self.compute.device)
        self.epochs_done = content["epochs_done"]
        print(f"resumed after epoch {self.epochs_done} of {self.schedule.epochs}")


def distinct_items(pairs: List[Any]) -> List[int]:
    """The items that occur in pairs, ascending."""
    return sorted({item for pair in pairs for item in pair})
