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
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from adrec.embedding_out import item_embeddings
from adrec.settings import CHECKPOINT, chosen_checkpoint
from adrec.settings import EncodeSettings as Settings
from common.dataset import load_dataset
from common.files import checksum, read_json
from common.run import BEST, METRICS
from common.settings import parse

if TYPE_CHECKING:
    from common.compute import Compute


def test_checkpoint(
    checkpoint: Path, dataset_name: str, datasets_dir: str, compute: Compute, force: bool = False
) -> Dict[str, Any]:
    """Test a checkpoint. The result of a finished run's best.pth is kept in its folder, and read if it is there.

    Returns:
        test, test_masked, test_by_frequency.

    Raises:
        UserError: sequences or texts are not those of the training, so that the test items may have been trained on.
    """
    from adrec.checkpoint import load_encoders
    from adrec.data import rows_of
    from adrec.model import ranking_of
    from common.ranking import metrics_by_frequency, train_counts
    from common.splits import split_dataset

    folder = checkpoint.parent
    is_run = checkpoint.name == BEST and (folder / METRICS).is_file()
    kept: Dict[str, Any] = read_json(folder / METRICS) if is_run else {}
    of_this = (kept.get("model"), kept.get("dataset")) == ("ADRec", dataset_name)
    if not force and of_this and "test" in kept and kept.get("checkpoint") == checksum(checkpoint):
        return kept
    dataset = load_dataset(Path(datasets_dir) / dataset_name, dataset_name)
    loaded = load_encoders(checkpoint, dataset_name, datasets_dir, compute)
    loaded.check_data(dataset, "sequences", "items", "fields", "times")
    items = item_embeddings(loaded, dataset, compute)
    splits, topk = split_dataset(dataset, loaded.settings), loaded.settings.topk
    rows = rows_of(dataset, splits.test, loaded.settings.max_seq_length)
    ranking = ranking_of(loaded.encoders, items, rows, dataset.users[rows.users])
    by_frequency = metrics_by_frequency(ranking.ranks, rows.targets, train_counts(dataset, splits), topk)
    if is_run:
        ranking.write(folder, topk, {"test_by_frequency": by_frequency})
    return {**ranking.metrics(topk), "test_by_frequency": by_frequency}


def main(argv: Optional[List[str]] = None) -> None:
    """Load, rank, print."""
    command = parse(Settings, __doc__, None, argv, (CHECKPOINT,))
    settings = command.settings
    checkpoint = chosen_checkpoint(command.arguments.checkpoint, settings.results_dir, settings.dataset)

    from common.compute import pick_compute

    compute = pick_compute(settings.device, settings.precision)
    result = test_checkpoint(checkpoint, settings.dataset, settings.datasets_dir, compute, command.force)
    print(f"ADRec on {settings.dataset}, test: {checkpoint}")
    print("history / seen     users  " + "  ".join(f"{name:>8}" for name in result["test"]))
    groups = {f"seen {name}": found for name, found in result["test_by_frequency"].items()}
    n_users = sum(int(found["users"]) for found in groups.values())
    for name, found in {"unmasked": result["test"], "masked": result["test_masked"], **groups}.items():
        shown = "  ".join(f"{found[metric]:8.4f}" if metric in found else " " * 8 for metric in result["test"])
        print(f"{name:<16} {int(found.get('users', n_users)):>7}  {shown}")


if __name__ == "__main__":
    run_script(main)
