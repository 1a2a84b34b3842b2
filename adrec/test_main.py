"""Test a trained ADRec: rank all items for every user, by cosine.

    python adrec/test_main.py -d Scientific                                      # the run that is best on validation
    python adrec/test_main.py -d Scientific --checkpoint results/ADRec/Scientific/RUN/best.pth
    python adrec/test_main.py -d Scientific --checkpoint checkpoint_2_epoch.pkl       # the authors'; only printed

Reads:  a run's best.pth, its item vectors (made by embedding_out.py if they are not up to date), the data set
Writes: in the run's metrics.json test, test_masked (without the history's items) and test_by_frequency (by how often
        the target was seen in training: 0, 1-4, 5-19, 20+); ranks.csv, top.npy

It reads the test split: do not choose anything by what it prints.
"""

from __future__ import annotations

from common.start import run_script

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from adrec.embedding_out import item_embeddings
from adrec.settings import CHECKPOINT, chosen_checkpoint
from adrec.settings import EncodeSettings as Settings
from common.dataset import Dataset, load_dataset
from common.errors import UserError
from common.files import checksum, read_json
from common.run import BEST, METRICS
from common.settings import parse

if TYPE_CHECKING:
    from adrec.checkpoint import Loaded
    from common.compute import Compute
    from common.ranking import Ranking


def rank_test(loaded: Loaded, dataset: Dataset, compute: Compute) -> Tuple[Ranking, Dict[str, Dict[str, Any]]]:
    """The ranking of the test split, and its metrics by how often the target was seen in training."""
    from adrec.data import held_out_rows
    from adrec.model import ranking_of
    from common.ranking import metrics_by_frequency

    items = item_embeddings(loaded, dataset, compute)
    rows = held_out_rows(dataset, "test", loaded.settings.max_seq_length)
    ranking = ranking_of(loaded.encoders, items, rows, np.array(dataset.users))
    return ranking, metrics_by_frequency(ranking.ranks, rows.targets, dataset.sequences, loaded.settings.topk)


def test_run(folder: Path, datasets_dir: str, compute: Compute, force: bool = False) -> Dict[str, Any]:
    """Test a run's best checkpoint; if that was done before, read the result.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: sequences or texts are not those of the training, so that the test items may have been trained on.
    """
    from adrec.checkpoint import load_encoders

    result: Dict[str, Any] = read_json(folder / METRICS)
    if not force and "test" in result and result.get("checkpoint") == checksum(folder / BEST):
        return result
    dataset = load_dataset(Path(datasets_dir) / result["dataset"], result["dataset"])
    loaded = load_encoders(folder / BEST, dataset.name, datasets_dir, compute)
    loaded.check_data(dataset, "sequences", "items", "fields")
    ranking, by_frequency = rank_test(loaded, dataset, compute)
    ranking.write(folder, loaded.settings.topk, {"test_by_frequency": by_frequency})
    return dict(read_json(folder / METRICS))


def test_file(checkpoint: Path, dataset: Dataset, datasets_dir: str, compute: Compute) -> Dict[str, Any]:
    """Test a checkpoint of no run here, such as the authors'. Returns what metrics.json would have; nothing is kept."""
    from adrec.checkpoint import load_encoders
    from common.ranking import metrics

    loaded = load_encoders(checkpoint, dataset.name, datasets_dir, compute)
    if loaded.trained_on:
        loaded.check_data(dataset, "sequences", "items", "fields")
    ranking, by_frequency = rank_test(loaded, dataset, compute)
    by_history = {"test": ranking.ranks, "test_masked": ranking.masked}
    found = {name: metrics(ranks, loaded.settings.topk) for name, ranks in by_history.items()}
    return {"dataset": dataset.name, **found, "test_by_frequency": by_frequency}


def check_run(checkpoint: Path, dataset: str) -> None:
    """Raise a `UserError` unless it is the best.pth of a finished run of ADRec on the data set."""
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint")
    if not (checkpoint.parent / METRICS).is_file():
        raise UserError(f"{checkpoint.parent}: the run is not finished; run adrec/main.py again to continue it")
    trained = read_json(checkpoint.parent / METRICS)
    if (trained["model"], trained["dataset"]) != ("ADRec", dataset):
        raise UserError(f"{checkpoint}: of {trained['model']} on {trained['dataset']}, not of ADRec on {dataset}")


def main(argv: Optional[List[str]] = None) -> None:
    """Load, rank, print."""
    command = parse(Settings, __doc__, None, argv, (CHECKPOINT,))
    settings = command.settings
    checkpoint = chosen_checkpoint(command.arguments.checkpoint, settings.results_dir, settings.dataset)
    is_run = checkpoint.name == BEST
    if is_run:
        check_run(checkpoint, settings.dataset)

    from common.compute import pick_compute

    compute = pick_compute(settings.device, settings.precision)
    if is_run:
        result = test_run(checkpoint.parent, settings.datasets_dir, compute, command.force)
    else:
        dataset = load_dataset(settings.dataset_dir, settings.dataset)
        result = test_file(checkpoint, dataset, settings.datasets_dir, compute)
    print(f"ADRec on {result['dataset']}, test: {checkpoint}")
    print("history / seen     users  " + "  ".join(f"{name:>8}" for name in result["test"]))
    groups = {f"seen {name}": found for name, found in result["test_by_frequency"].items()}
    n_users = sum(int(found["users"]) for found in groups.values())
    for name, found in {"unmasked": result["test"], "masked": result["test_masked"], **groups}.items():
        shown = "  ".join(f"{found[metric]:8.4f}" if metric in found else " " * 8 for metric in result["test"])
        print(f"{name:<16} {int(found.get('users', n_users)):>7}  {shown}")


if __name__ == "__main__":
    run_script(main)
