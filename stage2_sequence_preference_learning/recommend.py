"""What to recommend next, to a user of the data set or after a list of items, with titles.

    python stage2_sequence_preference_learning/recommend.py -d ml-100k --user 3 -k 10
    python stage2_sequence_preference_learning/recommend.py -d ml-100k --items 12,40,7

Users and items by their zero-based ids, as in sequential_data.txt and <D>_item_sort.csv. Without
--checkpoint the run of SICSRec on this data set that is best on validation serves.

Reads:  a checkpoint; the data set's titles and sequences
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import numpy as np
import torch

from common.dataset import Dataset, load_dataset
from common.device import pick_compute
from common.errors import UserError, run_script
from common.runs import best_run
from common.settings import DeviceSettings, parse, setting
from stage2_sequence_preference_learning.evaluation import Loaded, load_model
from stage2_sequence_preference_learning.packing import batch_of_rows


@dataclass
class Settings(DeviceSettings):
    """Where to look, and whether what a user has seen may come again."""

    results_dir: str = setting("results", "where runs lie")
    mask_history: bool = setting(True, "leave out what is in the history")
    title_language: str = setting("en", "titles to print", choices=("en", "cn"))


def history_of(dataset: Dataset, user: Optional[int], items: Optional[str]) -> np.ndarray:
    """Zero-based items of the history asked for.

    Raises:
        UserError: no such user or item.
    """
    if user is not None:
        if user not in dataset.users:
            raise UserError(f"--user {user}: no such user; they run from {min(dataset.users)} to {max(dataset.users)}")
        return dataset.sequences[dataset.users.index(user)]
    try:
        ids = [int(word) for word in (items or "").split(",")]
    except ValueError as error:
        raise UserError(f"--items {items}: give zero-based item ids with commas between, as in 12,40,7") from error
    for item in ids:
        if not 0 <= item < dataset.n_items:
            raise UserError(f"--items: no item {item}; they run from 0 to {dataset.n_items - 1}")
    return np.array(ids)


@torch.no_grad()
def scores_after(loaded: Loaded, history: np.ndarray, device: torch.device) -> np.ndarray:
    """Scores of all of RecBole's internal item ids after a history of zero-based items: (n_items,).

    Raises:
        UserError: none of the items occurred in training.
    """
    row_of = loaded.test.row_of_item()
    rows = [row_of[int(item)] for item in history if int(item) in row_of][-loaded.settings.max_seq_length :]
    if not rows:
        raise UserError("none of these items occurs in the data the model was trained on")
    one = torch.zeros(1, dtype=torch.long)
    batch = batch_of_rows(torch.tensor([rows]), torch.tensor([len(rows)]), one).to(device)
    return loaded.model.full_sort_scores(batch)[0].cpu().numpy()


def main(argv: Optional[List[str]] = None) -> None:
    """Load, score, print the titles."""
    extra = (
        (("--user",), {"type": int, "metavar": "U", "help": "a user of the data set"}),
        (("--items",), {"metavar": "A,B,C", "help": "a history of items, oldest first"}),
        (("-k",), {"type": int, "default": 10, "help": "how many items (10)"}),
        (("--checkpoint",), {"type": Path, "metavar": "FILE", "help": "the .pth to use"}),
    )
    parsed = parse(Settings, __doc__, None, argv, extra)
    settings, arguments = parsed.settings, parsed.arguments
    if (arguments.user is None) == (arguments.items is None):
        raise UserError("say for whom: --user U, or --items A,B,C")
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: must be at least 1")
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    titles = dataset.titles_en if settings.title_language == "en" else dataset.titles_cn
    history = history_of(dataset, arguments.user, arguments.items)
    checkpoint = arguments.checkpoint or best_run(settings.results_dir, "SICSRec", settings.dataset)
    compute = pick_compute(settings.device, settings.precision)
    loaded = load_model(checkpoint, settings.dataset, settings.datasets_dir, compute)
    scores = scores_after(loaded, history, compute.device)
    items = loaded.test.item_of_row()
    if settings.mask_history:
        scores[np.isin(items, history)] = -np.inf

    print(f"after {len(history)} items, the last of them:")
    for item in history[-5:]:
        print(f"  {item:>6}           {titles[item]}")
    print(f"{type(loaded.model).__name__} ({checkpoint}) recommends:")
    best = np.argsort(-scores, kind="stable")[: arguments.k]
    for row in best[np.isfinite(scores[best])]:
        print(f"  {items[row]:>6}  {scores[row]:7.4f}  {titles[items[row]]}")


if __name__ == "__main__":
    run_script(main)
