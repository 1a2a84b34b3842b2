"""What to recommend next, to a user of the data set or after a list of items, with titles.

    python stage2_sequence_preference_learning/recommend.py -d ml-100k --user 3 -k 10
    python stage2_sequence_preference_learning/recommend.py -d ml-100k --items 12,40,7

Users and items by their zero-based ids, as in sequential_data.txt and <D>_item_sort.csv. Without
--checkpoint the run of SICSRec on this data set that is best on validation is used. Baselines:
python -m reproduce.checkpoint recommend MODEL …

Reads:  a checkpoint; the data set's titles and sequences
"""

from __future__ import annotations

from common.start import run_script

from typing import TYPE_CHECKING, Any, List, Mapping, Optional

import numpy as np

from common.dataset import load_dataset
from common.errors import UserError
from common.recommending import ARGUMENTS, history_of, labels, print_recommendations
from common.recommending import RecommendSettings as Settings
from common.run import best_run
from common.settings import parse

if TYPE_CHECKING:
    import torch

    from stage2_sequence_preference_learning.ranking_model import RankingModel


def scores_after(model: RankingModel, history: np.ndarray, device: torch.device) -> np.ndarray:
    """Scores of all zero-based items after a history of such items: (n_catalogue,); -inf for items that no user has.

    Raises:
        UserError: none of the history's items is in the data that the model was trained on.
    """
    import torch

    from stage2_sequence_preference_learning.packing import batch_of_rows

    data = model.data
    rows = data.row_of_item()[history]
    rows = rows[rows > 0][-model.max_seq_length :]
    if not len(rows):
        raise UserError("none of these items is in the data that the model was trained on; give others")
    one = torch.zeros(1, dtype=torch.long)
    batch = batch_of_rows(torch.from_numpy(rows)[None], torch.tensor([len(rows)]), one).to(device)
    scores = np.full(data.n_catalogue, -np.inf)
    with torch.no_grad():
        scores[data.item_of_row[1:]] = model.full_sort_scores(batch)[0, 1:].cpu().numpy()
    return scores


def main(argv: Optional[List[str]] = None, model: str = "SICSRec", models: Optional[Mapping[str, Any]] = None) -> None:
    """Load, score, print the titles; ``model`` is the one whose best run is used without --checkpoint."""
    command = parse(Settings, __doc__, None, argv, ARGUMENTS, has_force=False)
    settings, arguments = command.settings, command.arguments
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    history = history_of(dataset, arguments)
    checkpoint = arguments.checkpoint or best_run(settings.results_dir, model, settings.dataset)

    from common.compute import pick_compute
    from stage2_sequence_preference_learning.checkpoints import load_model
    from stage2_sequence_preference_learning.models import MODELS

    compute = pick_compute(settings.device, "fp32")
    trained = load_model(checkpoint, settings.dataset, settings.datasets_dir, compute, models=models or MODELS)
    scores = scores_after(trained, history, compute.device)
    scores[history] = -np.inf
    titles = labels(dataset, settings.title_language)
    print_recommendations(f"{type(trained).__name__} ({checkpoint})", history, scores, titles, arguments.k)


if __name__ == "__main__":
    run_script(main)
