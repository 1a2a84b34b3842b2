"""Scores of a model that was trained elsewhere, ranked as a run, which tables and reports include.

    python -m reproduce.scores -d Bili_Food scores=test.npy valid_scores=valid.npy run=mine
    {model: Scores, name: Mine, settings: {scores: "DIR/{dataset}-{seed}-test.npy", valid_scores: …}}   a row of a suite

A file holds numbers (users, items), rows and columns by zero-based id as in sequential_data.txt and
<D>_item_sort.csv (docs/data_formats.md); the higher the better. ``scores`` are computed from each user's history
without the last item, ``valid_scores`` from the history without the last two. evaluate.py --scores writes such files.

Reads:  both files; the prepared data set
Writes: <results_dir>/Scores/<D>/<run>/: metrics.json, ranks.csv, top.npy (common/run.py)
"""

from __future__ import annotations

from common.start import run_script

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple

import numpy as np

from common.errors import UserError
from common.run import Run, RunSettings
from common.settings import parse, setting
from stage2_sequence_preference_learning.settings import HistorySettings

if TYPE_CHECKING:  # torch is imported after the settings are checked
    from common.ranking import Ranking
    from stage2_sequence_preference_learning.data import SequenceData
    from stage2_sequence_preference_learning.packing import Sequences

CONFIGS = Path(__file__).parent / "props" / "Scores"


@dataclass
class Settings(RunSettings, HistorySettings):
    """Settings of scores made elsewhere."""

    scores: Optional[str] = setting(None, "npy of the test split's scores (users, items)", shapes=False)
    valid_scores: Optional[str] = setting(None, "npy of the validation split's scores", shapes=False)

    def input_files(self) -> Dict[str, Path]:
        """The data set's files and both files of scores. Raises `UserError` if one is missing."""
        files = super().input_files()
        for key, path in (("scores", self.scores), ("valid_scores", self.valid_scores)):
            if path is None or not Path(path).is_file():
                raise UserError(f"{key}={path}: no such file; give the npy that holds these scores")
            files[key] = Path(path)
        return files


def train(settings: Settings, force: bool = False) -> Path:
    """Rank both splits, unless the run is up to date. Returns the run's folder.

    Raises:
        UserError: a file is missing or does not fit the data set.
    """
    files = settings.input_files()
    with Run("Scores", settings, files, force) as run:
        if run.finished:
            return run.folder
        from common.ranking import metrics
        from stage2_sequence_preference_learning.data import check_one_row_each, load_splits

        data = load_splits(settings)
        check_one_row_each(data.test)
        scores = open_scores(files["scores"], data, data.test)
        valid_scores = open_scores(files["valid_scores"], data, data.valid)
        if run.recipe["inputs"]["scores"]["sha256"] == run.recipe["inputs"]["valid_scores"]["sha256"]:
            logging.warning("scores and valid_scores are the same: one was computed from the wrong histories")
        valid = metrics(rank(valid_scores, data.valid, data).ranks)
        no_cost = {"seconds": 0.0, "parameters": {"trained": 0, "frozen": 0}, "operations_per_epoch": None}
        run.write_metrics({"valid": valid, "best_epoch": 0, "epochs": 0, **no_cost})
        logging.info("valid " + ", ".join(f"{name} {value:.4f}" for name, value in valid.items()))
        if settings.test:
            rank(scores, data.test, data).write(run.folder)
    return run.folder


def open_scores(path: Path, data: SequenceData, split: Sequences) -> np.ndarray:
    """The scores (users, items), a number or -inf for each user of the split and each item; they stay on disk.

    Raises:
        UserError: the file is not that; names the first row with a fault.
    """
    try:
        scores: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged file raises nearly anything: tokenize.TokenError, SyntaxError, …
        raise UserError(f"{path}: not a whole npy file of numbers: {error}; write it with numpy.save") from error
    shape = (int(data.users.max()) + 1, data.n_catalogue)
    if scores.shape != shape or scores.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: {scores.dtype} {scores.shape}; it must hold numbers of shape {shape}, rows by zero-based user, "
            "columns by zero-based item"
        )
    for user in split.users:
        row = scores[user][data.item_of_row[1:]]
        if not (row < np.inf).all():
            fault = "NaN" if np.isnan(row).any() else "infinite"
            raise UserError(f"{path}: row {user}: a score is {fault}; write a finite number, or -inf to rank it last")
    return scores


def rank(scores: np.ndarray, split: Sequences, data: SequenceData) -> Ranking:
    """The ranking of a split by the scores."""
    import torch

    from common.compute import Processes
    from common.ranking import TOP, Ranking, rank_batches
    from stage2_sequence_preference_learning.data import EvalLoader

    users, items = split.users, data.item_of_row[1:]  # without the padding item, which -inf would tie with
    loader = EvalLoader(split, data.n_items)

    def scored() -> Iterator[Tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        for rows, batch in loader:
            own = np.asarray(scores[users[rows]][:, items], dtype=np.float64)
            yield rows, torch.from_numpy(own), batch.targets - 1

    def history(rows: np.ndarray) -> List[torch.Tensor]:
        row_of, seen = loader.history(rows)
        return [row_of, seen - 1]

    ranks, masked, best = rank_batches(scored(), len(users), Processes(), history, min(TOP, len(items)))
    return Ranking(users, data.item_of_row[split.targets], ranks, masked, items[best])


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and rank."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
