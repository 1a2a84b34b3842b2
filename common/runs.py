"""A run's folder ``<results_dir>/<model>/<dataset>/<run>/``: its name, what made it, its log, its result.

made.json      the recipe, with commit and versions; a folder made otherwise is not gone on with
settings.yaml  all settings
train.log      what the screen showed
metrics.json   validation, once training is done; test, once tested
ranks.csv      the test rank of each user
"""

from __future__ import annotations

import csv
import logging
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

import numpy as np
import torch

from common.errors import UserError
from common.files import (
    atomic,
    commit,
    differences,
    digest,
    exclusive,
    read_json,
    recipe,
    versions,
    write_json,
    write_text,
)
from common.processes import Processes
from common.settings import as_dict, to_yaml

MADE, METRICS, RANKS = "made.json", "metrics.json", "ranks.csv"
TOP = 10  # items of top.npy: what each test user would be shown
PROTOCOL = {
    "split": "leave one out: last item test, the one before validation",
    "candidates": "all items",
    "ties": "mean rank",
    "history": {"valid": "unmasked", "test": "unmasked", "test_masked": "masked"},
}
# these name, place or drive a run; they do not shape its numbers
NOT_SHAPING = ("results_dir", "datasets_dir", "run", "test")


def shaping(settings: Any, left_out: Sequence[str] = NOT_SHAPING, if_changed: Sequence[str] = ()) -> Dict[str, Any]:
    """The settings that shape a run's numbers.

    Args:
        if_changed: settings younger than some runs: they shape a run where they depart from their default, and are
            not named else, so that those runs keep their names.
    """
    default = as_dict(type(settings)())
    shape = {k: v for k, v in as_dict(settings).items() if k not in left_out}
    return {k: v for k, v in shape.items() if k not in if_changed or v != default[k]}


def run_recipe(
    model: str, shape: Mapping[str, Any], inputs: Mapping[str, Path], precision: str, n_processes: int
) -> Dict[str, Any]:
    """What a run is made from: settings that shape it, the precision that was picked, checksums of its inputs.

    Of the device, the precision alone counts.
    """
    counted = {k: v for k, v in shape.items() if k != "device"}
    return recipe(model, {**counted, "precision": precision, "processes": n_processes}, inputs)


def run_folder(model_name: str, settings: Any, made_from: Dict[str, Any]) -> Path:
    """``<results_dir>/<model>/<dataset>/<run>``; the name tells variant and seed, a digest tells all the rest."""
    variant = f"{settings.variant}-" if hasattr(settings, "variant") else ""
    name = settings.run or f"{variant}seed{settings.seed}-{digest(made_from)}"
    return Path(settings.results_dir) / model_name / settings.dataset / name


def open_run(run_dir: Path, made_from: Dict[str, Any], settings: Any, force: bool) -> None:
    """Begin a run's folder, or go on with one that was begun from the same recipe.

    Raises:
        UserError: the folder was made otherwise, and ``force`` does not say to redo it.
    """
    made = run_dir / MADE
    if made.is_file():
        changed = differences(read_json(made), made_from)
        if changed and not force:
            raise UserError(
                f"{run_dir}: was made otherwise: {changed}; name another run with run=NAME, or redo it with --force"
            )
    if force:
        for file in sorted(run_dir.iterdir(), key=lambda f: f.name == MADE):  # what tells of the rest goes last
            if file.is_file() and file.name != ".lock":
                file.unlink()
    if not made.is_file():
        write_text(run_dir / "settings.yaml", to_yaml(settings))
        write_json(made, {**made_from, "commit": commit(), "versions": versions()})


def carry_out(
    model: str,
    settings: Any,
    made_from: Dict[str, Any],
    force: bool,
    processes: Processes,
    train: Callable[[Path], None],
    test: Callable[[Path], Any],
) -> Path:
    """Train a run into its folder, or go on with it, or skip it where it is done; then test it if asked to.

    Args:
        train, test: take the run's folder. ``train`` ends by `write_result`; ``test`` skips what was tested.

    Returns:
        The run's folder.

    Raises:
        UserError: the folder was made otherwise, or another process holds it.
    """
    run_dir = run_folder(model, settings, made_from)
    with ExitStack() as held:
        if processes.first:
            held.enter_context(exclusive(run_dir))
            open_run(run_dir, made_from, settings, force)
        processes.agree(None)  # the others wait until the folder stands
        if not processes.agree((run_dir / METRICS).is_file()):
            held.enter_context(log_to(run_dir / "train.log", processes.first))
            train(run_dir)
        elif processes.first:
            print(f"{model}: {run_dir} stands, nothing to train")
        if settings.test:
            test(run_dir)
    return run_dir


def about_run(made_from: Mapping[str, Any], dataset: str) -> Dict[str, Any]:
    """What a run's checkpoints say of it."""
    inputs = {k: v["sha256"] for k, v in made_from["inputs"].items()}
    return {"model": made_from["step"], "dataset": dataset, "settings": made_from["settings"], "inputs": inputs}


def write_result(
    run_dir: Path,
    model: str,
    settings: Any,
    found: Mapping[str, Any],
    seconds: float,
    parameters: Mapping[str, int],
    operations: Optional[float],
) -> None:
    """Write metrics.json, which makes the training done.

    Args:
        found: the validation and when it was reached.
        operations: floating-point operations of an epoch's steps; None for what is only counted.
    """
    content = {
        "model": model,
        "dataset": settings.dataset,
        "seed": settings.seed,
        "variant": getattr(settings, "variant", None),
        **found,
        "seconds": round(seconds, 2),
        "parameters": parameters,
        "operations_per_epoch": operations,
        "protocol": PROTOCOL,
    }
    write_json(run_dir / METRICS, content)


@contextmanager
def log_to(path: Path, first: bool) -> Iterator[None]:
    """Send the root logger, RecBole's too, to the run's file and the screen, from the first process alone."""
    logger = logging.getLogger()
    handlers: List[logging.Handler] = []
    if first:
        handlers = [logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stdout)]
    level, before = logger.level, logger.handlers[:]
    logger.handlers[:] = handlers or [logging.NullHandler()]
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


def count_parameters(model: torch.nn.Module) -> Dict[str, int]:
    """How many parameters are trained and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trained": trained, "frozen": sum(p.numel() for p in model.parameters()) - trained}


def write_ranks(
    path: Path, users: Iterable[int], items: Iterable[int], ranks: Iterable[float], masked: Iterable[float]
) -> None:
    """CSV of each user's test rank: zero-based user and item, rank with the history unmasked and masked."""
    with atomic(path) as temporary, open(temporary, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["user", "item", "rank", "rank_masked"])
        for user, item, rank, rank_masked in zip(users, items, ranks, masked):
            writer.writerow([user, item, f"{rank:g}", f"{rank_masked:g}"])


def write_top(run_dir: Path, items: np.ndarray) -> None:
    """Write top.npy: zero-based items (users, TOP), the best first."""
    with atomic(run_dir / "top.npy") as temporary, open(temporary, "wb") as out:
        np.save(out, items.astype(np.int32))


def best_run(results_dir: str, model: str, dataset: str, metric: str = "hit@10") -> Path:
    """The checkpoint of the model's run that is best on validation by ``metric``.

    Raises:
        UserError: nothing was trained.
    """
    folder = Path(results_dir) / model / dataset
    runs = [path for path in sorted(folder.glob(f"*/{METRICS}")) if (path.parent / "best.pth").is_file()]
    if not runs:
        raise UserError(f"{folder}: no run; train with run_train.sh {model} {dataset}, or give --checkpoint FILE")
    return max(runs, key=lambda path: float(read_json(path)["valid"][metric])).parent / "best.pth"
