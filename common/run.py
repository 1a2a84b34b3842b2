"""A training run and its folder ``<results_dir>/<model>/<dataset>/<run>/``.

settings.yaml  all settings
train.log      what the screen showed
history.csv    losses and validation metrics at each validation
last.pth       everything that is needed to continue
best.pth       the weights that are best on validation
metrics.json   validation, test, cost
ranks.csv      the test rank of each user; top.npy: the ten best items of each
made.json      what made the run. It is written last: from then on the run is finished.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple

from common.errors import UserError
from common.files import (
    Recipe,
    differences,
    digest,
    exclusive,
    read_json,
    recipe,
    record,
    up_to_date,
    write_json,
    write_text,
)
from common.settings import ComputeSettings, check_folder_names, setting, shaping, to_yaml
from common.splits import LEAVE_ONE_OUT, SplitSettings, as_protocol

MADE, METRICS, BEST, LAST = "made.json", "metrics.json", "best.pth", "last.pth"
VALID_METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")
PROTOCOL = {
    "candidates": "all items",
    "ties": "mean rank",
    "history": {"valid": "unmasked", "test": "unmasked", "test_masked": "masked"},
}


@dataclass
class RunSettings(ComputeSettings):
    """Every run: where its folder is, and whether it is tested."""

    topk: ClassVar[Tuple[int, ...]] = (5, 10)  # cut-offs of the metrics

    results_dir: str = setting("results", "folder of results and checkpoints, <model>/<dataset>/<run>/", shapes=False)
    run: Optional[str] = setting(
        None, "name of the run; null: made of variant, seed and a digest of what made it", shapes=False
    )
    test: bool = setting(True, "after training, evaluate the best checkpoint on the test split", shapes=False)

    def check(self) -> None:
        """``run`` is the name of one folder."""
        super().check()
        check_folder_names(run=self.run)


@dataclass
class OptimSettings(ComputeSettings):
    """Every training by gradients; `common.training.fit` reads these."""

    optimizer: ClassVar[str] = "adam"
    betas: ClassVar[Tuple[float, float]] = (0.9, 0.999)  # of Adam

    train_batch_size: int = setting(1024, "predictions per step, over all processes", minimum=1)
    learning_rate: float = setting(1e-3, "learning rate", minimum=0)
    epochs: int = setting(300, "largest number of epochs", minimum=1)
    clip_grad_norm: Optional[float] = setting(None, "largest gradient norm; null: no clipping", minimum=1e-6)
    compile: bool = setting(False, "compile the model with torch.compile (docs/performance.md)", shapes="changed")
    log_steps: int = setting(50, "steps between entries in TensorBoard", minimum=1, shapes=False)

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        return self.learning_rate


@dataclass
class LoopSettings(OptimSettings, RunSettings):
    """A training whose checkpoint validation chooses."""

    stopping_step: int = setting(10, "stop after more validations in a row than this without a new best", minimum=0)
    valid_metric: str = setting(
        "hit@10", "metric that chooses the checkpoint; of equal values the latest counts", choices=VALID_METRICS
    )
    valid_steps: Optional[int] = setting(None, "steps between validations; null: after each epoch", minimum=1)


class Run:
    """A run as a context: lock, log, seed, device and processes; on leaving it without an error it is finished.

    Args:
        model: the model's name.
        inputs: files that the run is made from, by meaning.
        force: do it again even if it is finished.
        folder: the folder of a step. Such a folder is made again when settings or inputs changed. By default the folder
            is that of a run of ``RunSettings``, which keeps what it was made from.

    Raises:
        UserError: a folder named by ``run=`` was made from something else.

    Attributes:
        folder: the run's folder.
        finished: nothing is to be done; the context then locks and writes nothing.
        outputs: what made.json records, by name; by default best.pth.
    """

    def __init__(
        self,
        model: str,
        settings: ComputeSettings,
        inputs: Mapping[str, Path],
        force: bool = False,
        folder: Optional[Path] = None,
    ) -> None:
        self.model, self.settings, self.force = model, settings, force
        shape = {**shaping(settings), "processes": int(os.environ.get("WORLD_SIZE", "1"))}
        self.recipe = recipe(model, shape, inputs)
        self.may_change = folder is not None
        self.is_tested = isinstance(settings, RunSettings) and settings.test
        if folder is None:
            assert isinstance(settings, RunSettings)
            folder = Path(settings.results_dir) / model / settings.dataset / (settings.run or run_name(self.recipe))
        self.folder = folder
        self.outputs: Optional[Dict[str, Path]] = None
        self.finished = not force and self._is_finished(tell=False)
        self._open = ExitStack()

    def _is_finished(self, tell: bool = True) -> bool:
        made = self.folder / MADE
        if made.is_file() and not self.may_change:
            self.is_of_this_run(read_json(made))
        tested = not self.is_tested or "test" in (read_json(self.folder / METRICS) if made.is_file() else {})
        return tested and up_to_date(made, self.recipe, tell)

    def is_of_this_run(self, made_from: Dict[str, Any]) -> bool:
        """Whether a file of the folder has the run's recipe.

        Raises:
            UserError: it has not, and the run's folder may not change.
        """
        changed = differences(made_from, self.recipe)
        if changed and not self.force and not self.may_change:
            raise UserError(f"{self.folder}: made with other settings or inputs: {changed}; use run=NAME or --force")
        return not changed

    def __enter__(self) -> Run:
        if self.finished:
            print(f"{self.model}: {self.folder} is up to date")
            return self
        from common.compute import pick_compute, seed_everything, start_processes
        from common.energy import EnergyMeter

        settings = self.settings
        self.processes = start_processes(settings.device)
        self.compute = pick_compute(self.processes.device(settings.device), settings.precision)
        with ExitStack() as stack:
            if self.processes.first:
                stack.enter_context(exclusive(self.folder))
                self.finished = not self.force and self._is_finished()  # another process may have finished it
                if self.force:
                    self._clear()
                if not self.finished:
                    (self.folder / MADE).unlink(missing_ok=True)
                    write_text(self.folder / "settings.yaml", to_yaml(settings))
            self.finished = self.processes.agree(self.finished)
            stack.enter_context(log_to(self.folder / "train.log", self.processes.first))
            self.meter = EnergyMeter(self.compute.device, self.processes.size)
            stack.callback(self.meter.stop)
            self._open = stack.pop_all()
        seed_everything(settings.seed)
        return self

    def __exit__(self, error: Any, *rest: Any) -> None:
        with self._open:
            if error is None and not self.finished and self.processes.first:
                best = self.folder / BEST  # scores made elsewhere have none
                outputs = {"best": best} if best.is_file() else {}
                record(self.folder / MADE, self.recipe, outputs if self.outputs is None else self.outputs)

    def _clear(self) -> None:
        for file in sorted(self.folder.iterdir(), key=lambda f: f.name != MADE):
            if file.is_file() and file.name != ".lock":
                file.unlink()

    @property
    def about(self) -> Dict[str, Any]:
        """What the run's checkpoints say of it."""
        inputs = {name: entry["sha256"] for name, entry in self.recipe["inputs"].items()}
        settings, dataset = self.recipe["settings"], self.settings.dataset
        return {"model": self.model, "dataset": dataset, "settings": settings, "inputs": inputs}

    def write_metrics(self, found: Mapping[str, Any]) -> None:
        """Start metrics.json: ``found`` holds the validation, if there was one, and what the training cost.

        The energy of its ``seconds`` is added. A resumed training counts with the mean power since it was resumed.
        """
        settings = self.recipe["settings"]
        about = {"model": self.model, "dataset": self.settings.dataset, "seed": self.settings.seed}
        of_split = {"split": as_protocol(self.settings)} if isinstance(self.settings, SplitSettings) else {}
        protocol = {"protocol": {**of_split, **PROTOCOL}} if "valid" in found else {}
        seconds = found["seconds"]  # 0 for scores made elsewhere
        energy = {"energy": self.meter.energy(seconds)} if seconds else {}
        content = {**about, "variant": settings.get("variant"), **found, **energy, **protocol}
        write_json(self.folder / METRICS, content)


def run_name(made_from: Recipe) -> str:
    """The name of the folder of a run that was made from this, if ``run`` does not give another."""
    settings = made_from["settings"]
    variant = f"{settings['variant']}-" if "variant" in settings else ""
    return f"{variant}seed{settings['seed']}-{digest(made_from)}"


@contextmanager
def log_to(path: Path, first: bool) -> Iterator[None]:
    """Send the root logger to the run's file and the screen, in the first process alone."""
    logger = logging.getLogger()
    handlers: List[logging.Handler] = [logging.NullHandler()]
    if first:
        handlers = [logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stdout)]
    level, before = logger.level, logger.handlers[:]
    logger.handlers[:] = handlers
    logger.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    try:
        yield
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
        for handler in handlers:
            handler.close()


def best_run(results_dir: str, model: str, dataset: str, metric: str = "hit@10") -> Path:
    """The checkpoint of the model's run that is best on validation by ``metric``, of leave one out if there is one.

    Raises:
        UserError: nothing was trained.
    """
    folder = Path(results_dir) / model / dataset
    runs = [path for path in sorted(folder.glob(f"*/{METRICS}")) if (path.parent / BEST).is_file()]
    if not runs:
        raise UserError(f"{folder}: no run; train with run_train.sh {model} {dataset}, or give --checkpoint FILE")

    def by_validation(path: Path) -> Tuple[bool, float]:
        found = read_json(path)
        return found["protocol"]["split"] == LEAVE_ONE_OUT, float(found["valid"][metric])

    return max(runs, key=by_validation).parent / BEST
