"""A model trained elsewhere: its scores, ranked as ours are, as a run that stands in every table and report.

    python -m reproduce.scores -d Bili_Food scores=test.npy valid_scores=valid.npy run=mine
    {model: Scores, name: Mine, settings: {scores: "DIR/{dataset}-{seed}-test.npy", valid_scores: …}}   a row of a suite

A file holds float scores (users, items), rows and columns by zero-based id as in sequential_data.txt and
<D>_item_sort.csv (docs/data_formats.md), the higher the better. ``scores`` follow each user's history but the last
item, which is to be found; ``valid_scores`` the history but the last two. evaluate.py --scores writes such files.

Reads:  both files; <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
Writes: <results_dir>/Scores/<D>/<run>/: metrics.json, ranks.csv, top.npy (docs/stage2.md)
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch

from common.dataset import Dataset, load_dataset
from common.device import Compute
from common.errors import UserError, run_script
from common.files import checksum, read_json, write_json
from common.processes import Processes
from common.ranking import metrics, target_ranks
from common.runs import METRICS, RANKS, TOP, carry_out, run_recipe, shaping, write_ranks, write_result, write_top
from common.settings import parse, setting
from reproduce.baselines.counted import Pop
from reproduce.baselines.settings import PopSettings
from stage2_sequence_preference_learning.data import (
    USERS_AT_ONCE,
    EvalLoader,
    SequenceDataset,
    inter_files,
    load_splits,
)
from stage2_sequence_preference_learning.evaluation import user_ids
from stage2_sequence_preference_learning.settings import FolderSettings, recbole_config

CONFIGS = Path(__file__).parent / "props" / "Scores"
FILES = ("valid_scores", "scores")


@dataclass
class Settings(FolderSettings):
    """Settings of scores from elsewhere."""

    scores: Optional[str] = setting(None, "npy of the test split's scores (users, items)")
    valid_scores: Optional[str] = setting(None, "likewise of the validation split")
    test: bool = setting(True, "rank the test split as well")


def run(settings: Settings, force: bool = False) -> Path:
    """Rank both splits; returns the run's folder.

    Raises:
        UserError: a file is missing or does not fit the data set.
    """
    for key in FILES:
        if not getattr(settings, key):
            raise UserError(f"{key}: name the npy of the {'test' if key == 'scores' else 'validation'} split's scores")
        if not Path(getattr(settings, key)).is_file():
            raise UserError(f"{key}={getattr(settings, key)}: no such file")
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    for key in FILES:
        check_scores(Path(getattr(settings, key)), dataset)
    inputs = {**inter_files(settings.dataset_dir / "recbole" / settings.dataset, settings.dataset)}
    inputs.update({key: Path(getattr(settings, key)) for key in FILES})
    shape = {key: value for key, value in shaping(settings).items() if key not in FILES}
    made_from = run_recipe("Scores", shape, inputs, "fp32", 1)

    def validate(run_dir: Path) -> None:
        _, valid, _ = _splits(settings)
        ranks, _, _ = rank(inputs["valid_scores"], valid, settings)
        found = {"valid": metrics(ranks), "best_epoch": 0, "epochs": 0}
        write_result(run_dir, "Scores", settings, found, 0.0, {"trained": 0, "frozen": 0}, None)

    def test(run_dir: Path) -> None:
        test_run(run_dir, settings.datasets_dir)

    if made_from["inputs"]["scores"]["sha256"] == made_from["inputs"]["valid_scores"]["sha256"]:
        print("warning: scores and valid_scores are the same: one of them was made after the wrong histories")
    run_dir = carry_out("Scores", settings, made_from, force, Processes(), validate, test)
    result = read_json(run_dir / METRICS)
    for split in ("valid", "test", "test_masked"):
        if split in result:
            print(f"{split:<11} " + ", ".join(f"{name} {value:.4f}" for name, value in result[split].items()))
    return run_dir


def check_scores(path: Path, dataset: Dataset) -> None:
    """Whether a file holds a number, or -inf, for each user and each item of the sequences.

    Raises:
        UserError: names the file, and the row.
    """
    users, items = np.array(dataset.users), np.unique(np.concatenate(dataset.sequences))
    scores = _opened(path, int(users.max()) + 1, dataset.n_items)
    for start in range(0, len(users), USERS_AT_ONCE):
        block = users[start : start + USERS_AT_ONCE]
        found = scores[block][:, items]
        for faulty, told in ((np.isnan(found), "not a number"), (np.isposinf(found), "infinite")):
            if faulty.any():
                raise UserError(f"{path}: row {int(block[faulty.any(axis=1)][0])}: a score is {told}")


def test_run(run_dir: Path, datasets_dir: str, compute: Optional[Compute] = None) -> Dict[str, Any]:
    """Rank the test split of a finished run, once; returns the content of metrics.json."""
    result: Dict[str, Any] = read_json(run_dir / METRICS)
    if "test" in result:
        return result
    made = read_json(run_dir / "made.json")
    splits = inter_files(Path(datasets_dir) / result["dataset"] / "recbole" / result["dataset"], result["dataset"])
    here = {**splits, "scores": Path(made["inputs"]["scores"]["path"])}
    for name, path in here.items():
        if checksum(path) != made["inputs"][name]["sha256"]:
            raise UserError(f"{run_dir}: was made with another {path} than lies there now; run reproduce.scores again")
    settings = Settings(dataset=result["dataset"], datasets_dir=datasets_dir)
    settings.max_seq_length = made["settings"]["max_seq_length"]
    _, _, split = _splits(settings)
    ranks, masked, top = rank(here["scores"], split, settings)
    targets = split.item_of_row()[split.inter_feat[split.iid_field].numpy()]
    write_ranks(run_dir / RANKS, user_ids(split), targets, ranks, masked)
    write_top(run_dir, split.item_of_row()[top])
    result.update(test=metrics(ranks), test_masked=metrics(masked))
    write_json(run_dir / METRICS, result)
    return result


def rank(path: Path, split: SequenceDataset, settings: Settings) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of a split's targets, history unmasked and masked (N,), and the rows of the best items (N, TOP)."""
    users, items = user_ids(split), split.item_of_row()[1:]
    scores = _opened(path, int(users.max()) + 1, load_dataset(settings.dataset_dir, settings.dataset).n_items)
    loader = EvalLoader(split)
    ranks, masked = np.zeros(len(users)), np.zeros(len(users))
    top = np.zeros((len(users), min(TOP, len(items))), dtype=np.int64)
    for rows, batch in loader:
        own = np.asarray(scores[users[rows]][:, items], dtype=np.float64)
        of_rows, targets = torch.from_numpy(own), batch.targets - 1  # without the padding, with which -inf would tie
        of_users, seen = loader.history(rows)
        ranks[rows] = target_ranks(of_rows, targets).numpy()
        masked[rows] = target_ranks(of_rows, targets, (of_users, seen - 1)).numpy()
        top[rows] = of_rows.topk(top.shape[1], dim=1).indices.numpy() + 1
    return ranks, masked, top


def _opened(path: Path, n_users: int, n_items: int) -> np.ndarray:
    try:
        scores: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as npy: {error}") from error
    if scores.ndim != 2 or len(scores) < n_users or scores.shape[1] != n_items or scores.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: holds {scores.dtype} {scores.shape}; here numbers of shape ({n_users}, {n_items}) are needed, "
            "rows by zero-based user, columns by zero-based item"
        )
    return scores


def _splits(settings: Settings) -> Tuple[SequenceDataset, SequenceDataset, SequenceDataset]:
    told = {key: getattr(settings, key) for key in ("dataset", "datasets_dir", "max_seq_length")}
    with tempfile.TemporaryDirectory() as unused:  # RecBole wants a model, and a folder for checkpoints
        return load_splits(recbole_config(Pop, PopSettings(**told), torch.device("cpu"), Path(unused)))


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and rank."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
