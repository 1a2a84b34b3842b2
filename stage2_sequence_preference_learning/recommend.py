"""What to recommend next, to a user of the data set or after a list of items, with titles.

    python stage2_sequence_preference_learning/recommend.py -d ml-100k --user 3 -k 10
    python stage2_sequence_preference_learning/recommend.py -d ml-100k --items 12,40,7

Users and items by their zero-based ids, as in sequential_data.txt and <D>_item_sort.csv. Without
--checkpoint the run of SICSRec on this data set that is best on validation serves. Baselines:
python -m reproduce.checkpoint recommend MODEL …

Reads:  a checkpoint; the data set's titles and sequences
"""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import torch

from common.dataset import load_dataset
from common.device import pick_compute
from common.errors import UserError, run_script
from common.recommending import ARGUMENTS, check_arguments, history_of, labels, print_recommendations
from common.recommending import RecommendSettings as Settings
from common.runs import best_run
from common.settings import parse
from stage2_sequence_preference_learning.evaluation import Loaded, load_model
from stage2_sequence_preference_learning.packing import batch_of_rows


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


def main(argv: Optional[List[str]] = None, model: str = "SICSRec") -> None:
    """Load, score, print the titles; of ``model`` where no checkpoint is given."""
    parsed = parse(Settings, __doc__, None, argv, ARGUMENTS, redoes=False)
    settings, arguments = parsed.settings, parsed.arguments
    check_arguments(arguments)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    history = history_of(dataset, arguments.user, arguments.items)
    checkpoint = arguments.checkpoint or best_run(settings.results_dir, model, settings.dataset)
    compute = pick_compute(settings.device, "fp32")
    loaded = load_model(checkpoint, settings.dataset, settings.datasets_dir, compute)
    by_row = scores_after(loaded, history, compute.device)
    scores = np.full(dataset.n_items, -np.inf)
    scores[loaded.test.item_of_row()[1:]] = by_row[1:]
    if settings.mask_history:
        scores[history] = -np.inf
    titles = labels(dataset, settings.title_language)
    print_recommendations(f"{type(loaded.model).__name__} ({checkpoint})", history, scores, titles, arguments.k)


if __name__ == "__main__":
    run_script(main)
