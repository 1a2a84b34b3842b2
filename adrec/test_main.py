"""Test a trained ADRec: rank all items for every user, by cosine.

    python adrec/test_main.py -d Scientific                                      # the run best on validation
    python adrec/test_main.py -d Scientific --checkpoint results/ADRec/Scientific/RUN/best.pth

Reads:  a run's best.pth, its item vectors (made by embedding_out.py where they do not stand), the data set's sequences
Writes: into the run's metrics.json test, test_masked (history left out) and test_by_frequency (how often the
        target was seen in training: 0, 1-4, 5-19, 20+); ranks.csv, top.npy

The test split is read: choose nothing by what this prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from adrec.checkpoint import CHECKPOINT, asked_for, load_encoders
from adrec.data import held_out_rows
from adrec.embedding_out import Settings, item_embeddings
from adrec.evaluation import TOPK, rank_rows
from common.dataset import Dataset, load_dataset, sequences_path
from common.device import Compute, pick_compute
from common.errors import UserError, run_script
from common.files import checksum, read_json, write_json
from common.item_fields import text_files
from common.ranking import metrics, metrics_by_frequency
from common.runs import MADE, METRICS, RANKS, TOP, write_ranks, write_top
from common.settings import parse


def test_run(run_dir: Path, datasets_dir: str, compute: Compute, force: bool = False) -> Dict[str, Any]:
    """Test a finished run's best checkpoint, once; a second call reads the result.

    Returns:
        The content of metrics.json.
    """
    path, checkpoint = run_dir / METRICS, run_dir / "best.pth"
    result: Dict[str, Any] = read_json(path)
    if not force and "test" in result and result.get("checkpoint") == checksum(checkpoint):
        return result
    dataset = load_dataset(Path(datasets_dir) / result["dataset"], result["dataset"])
    _check_data(run_dir, dataset)
    loaded = load_encoders(checkpoint, dataset.name, datasets_dir, compute)
    items = item_embeddings(loaded, dataset, checkpoint, compute)
    rows = held_out_rows(dataset, "test", loaded.settings.max_seq_length)
    top = np.zeros((len(rows), min(TOP, dataset.n_items)), dtype=np.int64)
    ranks = rank_rows(loaded.encoders, items, rows, top=top)
    masked = rank_rows(loaded.encoders, items, rows, masked=True)
    result.update(
        test=metrics(ranks, TOPK),
        test_masked=metrics(masked, TOPK),
        test_by_frequency=metrics_by_frequency(ranks, rows.targets, dataset.sequences, TOPK),
        checkpoint=checksum(checkpoint),
    )
    write_ranks(run_dir / RANKS, dataset.users, rows.targets.tolist(), ranks.tolist(), masked.tolist())
    write_top(run_dir, top)
    write_json(path, result)
    return result


def _check_data(run_dir: Path, dataset: Dataset) -> None:
    """Stop where sequences or texts are not those of the training: what was trained on might be tested."""
    trained_on = read_json(run_dir / MADE)["inputs"]
    here = {"sequences": sequences_path(dataset.folder), **text_files(dataset.folder, dataset.name)}
    for name in ("sequences", "items", "fields"):
        now = checksum(here[name]) if name in here else None
        if trained_on.get(name, {}).get("sha256") != now:
            told = f"was trained on other {name} than lie in {dataset.folder} now"
            raise UserError(f"{run_dir}: {told}; train again, or correct datasets_dir")


def main(argv: Optional[List[str]] = None) -> None:
    """Load, rank, print."""
    parsed = parse(Settings, __doc__, None, argv, (CHECKPOINT,))
    settings: Settings = parsed.settings
    compute = pick_compute(settings.device, settings.precision)
    checkpoint = asked_for(parsed.arguments, settings.results_dir, settings.dataset)
    if checkpoint.name != "best.pth" or not checkpoint.is_file():
        raise UserError(f"{checkpoint}: give a run's best.pth")
    if not (checkpoint.parent / METRICS).is_file():
        raise UserError(f"{checkpoint.parent}: the run is not finished; start adrec/main.py again to go on")
    trained = read_json(checkpoint.parent / METRICS)
    if (trained["model"], trained["dataset"]) != ("ADRec", settings.dataset):
        raise UserError(f"{checkpoint}: is {trained['model']} on {trained['dataset']}, not ADRec on {settings.dataset}")
    result = test_run(checkpoint.parent, settings.datasets_dir, compute, parsed.force)
    print(f"ADRec on {result['dataset']}, test: {checkpoint.parent}")
    print("history / seen     users  " + "  ".join(f"{name:>8}" for name in result["test"]))
    groups = {f"seen {name}": found for name, found in result["test_by_frequency"].items()}
    n_users = sum(int(found["users"]) for found in groups.values())
    for name, found in {"unmasked": result["test"], "masked": result["test_masked"], **groups}.items():
        shown = "  ".join(f"{found[metric]:8.4f}" if metric in found else " " * 8 for metric in result["test"])
        print(f"{name:<16} {int(found.get('users', n_users)):>7}  {shown}")


if __name__ == "__main__":
    run_script(main)
