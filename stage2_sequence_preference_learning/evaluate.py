"""Rank all items for every user of the test (or validation) split, with any checkpoint, ours or a published one.

    python stage2_sequence_preference_learning/evaluate.py -d Bili_Food --checkpoint results/…/best.pth
    python stage2_sequence_preference_learning/evaluate.py -d Bili_Food --checkpoint SICSRec.pth variant=released

Reads:  the checkpoint; <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
Writes: nothing, or with --scores FILE.npy the scores (users, items), rows and columns by zero-based id

Checkpoints of baselines: python -m reproduce.checkpoint evaluate MODEL …
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import torch
from numpy.lib.format import open_memmap

from common.dataset import load_dataset
from common.device import pick_compute
from common.errors import UserError, run_script
from common.files import atomic, check_folder
from common.processes import start_processes
from common.ranking import metrics
from common.settings import DeviceSettings, as_dict, parse, setting
from stage2_sequence_preference_learning.data import EvalLoader, SequenceDataset
from stage2_sequence_preference_learning.evaluation import load_model, rank_split, user_ids
from stage2_sequence_preference_learning.ranking_model import RankingModel


@dataclass
class Settings(DeviceSettings):
    """What of a checkpoint's own settings may be told otherwise; null leaves it as it was trained."""

    variant: Optional[str] = setting(None, "paper or released: sets the switches below", choices=("paper", "released"))
    n_heads: Optional[int] = setting(None, "attention heads, which a published checkpoint does not tell", minimum=1)
    stack_mix_layers: Optional[bool] = setting(None, "S9: the mix decoder's layers build on each other")
    rank_normalized: Optional[bool] = setting(None, "S11: rank by the normalised item table")


@torch.no_grad()
def write_scores(path: Path, model: RankingModel, split: SequenceDataset, n_items: int, device: torch.device) -> None:
    """Scores of a split as float32 (users, items) by zero-based ids; -inf for items that never occur."""
    loader, users, items = EvalLoader(split), user_ids(split), split.item_of_row()
    if users.max() >= 10 * len(users):
        told = f"ids of users run to {users.max():,} and there are {len(users):,}, so that most rows would be empty"
        raise UserError(f"{path}: not written: {told}; number users from 0 on")
    with atomic(path) as temporary:
        scores: Any = open_memmap(temporary, mode="w+", dtype=np.float32, shape=(int(users.max()) + 1, n_items))
        scores[:] = -np.inf
        for rows, batch in loader:
            found = model.full_sort_scores(batch.to(device)).cpu().numpy()
            scores[users[rows][:, None], items[None, 1:]] = found[:, 1:]
        scores.flush()


def main(argv: Optional[List[str]] = None) -> None:
    """Load, rank, print; the test split is read, so choose nothing by what this prints."""
    checkpoint = (
        ("--checkpoint",),
        {"type": Path, "required": True, "metavar": "FILE", "help": "the .pth to evaluate"},
    )
    scores = (("--scores",), {"type": Path, "metavar": "FILE.npy", "help": "write the scores of all items here"})
    split = (("--split",), {"choices": ("test", "valid"), "default": "test", "help": "the one to rank (test)"})
    parsed = parse(Settings, __doc__, None, argv, (checkpoint, scores, split), redoes=False)
    settings: Settings = parsed.settings
    if parsed.arguments.scores:
        check_folder(parsed.arguments.scores, "--scores")
    processes = start_processes(settings.device)
    compute = pick_compute(processes.device(settings.device), "fp32")
    loaded = load_model(
        parsed.arguments.checkpoint, settings.dataset, settings.datasets_dir, compute, as_dict(settings)
    )
    chosen: SequenceDataset = getattr(loaded, parsed.arguments.split)
    loader = EvalLoader(chosen, processes.rank, processes.size)
    results = {
        name: metrics(rank_split(loaded.model, loader, compute.device, processes, masked))
        for name, masked in (("unmasked", False), ("masked", True))
    }
    if not processes.first:
        return
    which = parsed.arguments.split
    print(f"{type(loaded.model).__name__} on {settings.dataset}, {which}, {len(loader.targets)} users")
    print("history    " + "  ".join(f"{name:>8}" for name in results["unmasked"]))
    for name, found in results.items():
        print(f"{name:<10} " + "  ".join(f"{value:8.4f}" for value in found.values()))
    if parsed.arguments.scores:
        n_items = load_dataset(settings.dataset_dir, settings.dataset).n_items
        write_scores(parsed.arguments.scores, loaded.model, chosen, n_items, compute.device)


if __name__ == "__main__":
    run_script(main)
