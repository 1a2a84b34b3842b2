"""Rank all items for every user of the test (or validation) split, with any checkpoint, ours or a published one.

    python stage2_sequence_preference_learning/evaluate.py -d Bili_Food --checkpoint results/…/best.pth
    python stage2_sequence_preference_learning/evaluate.py -d Bili_Food --checkpoint SICSRec.pth variant=released

Reads:  the checkpoint; <datasets_dir>/<D>/sequential_data.txt
Writes: nothing, or with --scores FILE.npy the scores (users, items), rows and columns by zero-based id

Checkpoints of baselines: python -m reproduce.checkpoint evaluate MODEL …
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional

from common.errors import UserError
from common.files import atomic, check_folder
from common.settings import DeviceSettings, as_dict, parse, setting

if TYPE_CHECKING:
    import torch

    from stage2_sequence_preference_learning.packing import Sequences
    from stage2_sequence_preference_learning.ranking_model import RankingModel


@dataclass
class Settings(DeviceSettings):
    """Settings of the checkpoint that are replaced; null keeps its own."""

    variant: Optional[str] = setting(None, "paper or released: sets the switches below", choices=("paper", "released"))
    n_heads: Optional[int] = setting(None, "attention heads, which a published checkpoint does not say", minimum=1)
    stack_mix_layers: Optional[bool] = setting(None, "S9: the mix decoder's layers build on each other")
    rank_normalized: Optional[bool] = setting(None, "S11: rank by the normalised item table")


def write_scores(path: Path, model: RankingModel, split: Sequences, device: torch.device) -> None:
    """Write the scores of a split as float32 (users, items) by zero-based ids; -inf for items that no user has.

    Raises:
        UserError: most rows would be empty, because the ids of users have large gaps, or a user has several rows.
    """
    import numpy as np
    import torch
    from numpy.lib.format import write_array_header_1_0

    from stage2_sequence_preference_learning.data import EvalLoader, check_one_row_each

    users, items = model.data.users, model.data.item_of_row
    check_one_row_each(split)
    if users.max() >= 10 * len(users):
        raise UserError(
            f"{path}: not written: user ids go up to {users.max():,}, but there are {len(users):,} users, so that most "
            "rows would be empty; number users from 0"
        )
    line, n_lines = np.full(model.data.n_catalogue, -np.inf, np.float32), int(users.max()) + 1
    with atomic(path) as temporary, open(temporary, "wb") as out, torch.no_grad():  # a full disk kills memory maps
        write_array_header_1_0(out, {"descr": line.dtype.str, "fortran_order": False, "shape": (n_lines, len(line))})
        start = out.tell()
        out.writelines(line.tobytes() for _ in range(n_lines))
        for rows, batch in EvalLoader(split, model.data.n_items):
            found = model.full_sort_scores(batch.to(device)).cpu().numpy()
            for user, scores in zip(split.users[rows].tolist(), found):
                line[items[1:]] = scores[1:]
                out.seek(start + user * line.nbytes)
                out.write(line.tobytes())


def main(argv: Optional[List[str]] = None, models: Optional[Mapping[str, Any]] = None) -> None:
    """Load, rank, print. It reads the test split: do not choose anything by what it prints."""
    extra = (
        (("--checkpoint",), {"type": Path, "required": True, "metavar": "FILE", "help": "the .pth to evaluate"}),
        (("--scores",), {"type": Path, "metavar": "FILE.npy", "help": "write the scores of all items to this file"}),
        (("--split",), {"choices": ("test", "valid"), "default": "test", "help": "the split to rank (test)"}),
    )
    command = parse(Settings, __doc__, None, argv, extra, has_force=False)
    settings, arguments = command.settings, command.arguments
    if arguments.scores:
        check_folder(arguments.scores, "--scores")

    from common.compute import pick_compute, start_processes
    from common.ranking import NotFinite, metrics
    from stage2_sequence_preference_learning.checkpoints import load_model
    from stage2_sequence_preference_learning.data import EvalLoader
    from stage2_sequence_preference_learning.models import MODELS

    processes = start_processes(settings.device)
    compute = pick_compute(processes.device(settings.device), "fp32")
    model = load_model(
        arguments.checkpoint, settings.dataset, settings.datasets_dir, compute, as_dict(settings), models or MODELS
    )
    sequences = model.data.valid if arguments.split == "valid" else model.data.test
    loader = EvalLoader(sequences, model.data.n_items, processes)
    try:
        ranking = model.test(loader, compute, processes)
    except NotFinite as error:  # finite weights may be too large
        raise UserError(f"{arguments.checkpoint}: {error}; use another checkpoint") from error
    if not processes.first:
        return
    results = {"unmasked": metrics(ranking.ranks), "masked": metrics(ranking.masked)}
    print(f"{type(model).__name__} on {settings.dataset}, {arguments.split}, {len(sequences)} rows")
    print("history    " + "  ".join(f"{name:>8}" for name in results["unmasked"]))
    for name, found in results.items():
        print(f"{name:<10} " + "  ".join(f"{value:8.4f}" for value in found.values()))
    if arguments.scores:
        write_scores(arguments.scores, model, sequences, compute.device)


if __name__ == "__main__":
    run_script(main)
