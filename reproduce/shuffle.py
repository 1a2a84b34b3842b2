"""The shuffle test: does the order of a history matter? Rank the test again with each history in random order.

Procedure of "Does It Look Sequential?" (arXiv 2408.12008): the model was trained on the original order, the target
stays, the items of the history that the model reads are permuted. A large drop and a low Jaccard@10 of both lists mean
that the data are sequential.

    python -m reproduce.shuffle SASRec -d ml-100k                       # the run that is best on validation
    python -m reproduce.shuffle ADRec -d ml-100k draws=10 --checkpoint results/ADRec/ml-100k/RUN/best.pth
    python -m reproduce.shuffle SICSRec -d Bili_Food --checkpoint results/SICSRec/Bili_Food/*/best.pth   # their mean

Reads:  checkpoints of a model; the data set
Writes: nothing
"""

from __future__ import annotations

from common.start import run_script

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional

import numpy as np

from common.dataset import load_dataset
from common.run import best_run
from common.settings import DeviceSettings, Parser, SeedSettings, parse, setting
from reproduce.checkpoint import models_of, name_of
from reproduce.pipeline import PIPELINES

if TYPE_CHECKING:
    from common.compute import Compute
    from common.ranking import Ranking

METRICS = ("hit@10", "ndcg@10")
CHECKPOINTS = (
    ("--checkpoint",),
    {"type": Path, "nargs": "+", "metavar": "FILE", "help": "default: the run that is best on validation (NDCG@10)"},
)


@dataclass
class Settings(SeedSettings, DeviceSettings):
    """Settings of the shuffle test."""

    results_dir: str = setting("results", "folder of results and checkpoints, <model>/<dataset>/<run>/")
    draws: int = setting(5, "random orders of each history; results are their mean", minimum=1)


class Tested(NamedTuple):
    """The test split of a checkpoint."""

    items: np.ndarray  # the histories' items end to end, as the model numbers them
    lengths: np.ndarray  # (N,)
    rank: Callable[[np.ndarray], Ranking]  # ranks the targets after these items, which are in any order


def load_stage_2(checkpoint: Path, model: str, settings: Settings, compute: Compute) -> Tested:
    """A model of stage 2 or a baseline; ``model`` is a name or FILE.py:CLASS."""
    from common.arrays import ranges, starts_of
    from common.compute import Processes
    from stage2_sequence_preference_learning.checkpoints import load_model
    from stage2_sequence_preference_learning.data import EvalLoader

    trained = load_model(checkpoint, settings.dataset, settings.datasets_dir, compute, models=models_of(model))
    test, n_items = trained.data.test, trained.data.n_items
    starts, places = starts_of(test.lengths + 1), ranges(test.begin, test.lengths + 1)
    sequences = replace(test, items=test.items[places], begin=starts[:-1])  # no sequence shares items with another
    in_history = np.ones(len(places), bool)
    in_history[starts[1:] - 1] = False  # the targets

    def rank(items: np.ndarray) -> Ranking:
        sequences.items[in_history] = items
        return trained.test(EvalLoader(sequences, n_items), compute, Processes())

    return Tested(sequences.items[in_history], test.lengths, rank)


def load_adrec(checkpoint: Path, settings: Settings, compute: Compute) -> Tested:
    """ADRec."""
    from adrec.checkpoint import load_encoders
    from adrec.data import item_tokens, rows_of
    from adrec.model import ranking_of
    from common.arrays import starts_of
    from common.splits import split_dataset

    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    loaded = load_encoders(checkpoint, settings.dataset, settings.datasets_dir, compute)
    loaded.check_data(dataset, "sequences", "items", "fields", "times")
    vectors = loaded.encoders.encode_items(item_tokens(dataset, loaded.settings, loaded.tokenizer), compute)
    rows = rows_of(dataset, split_dataset(dataset, loaded.settings).test, loaded.settings.max_seq_length)
    items, lengths = rows.histories(np.arange(len(rows)))
    starts = starts_of(lengths)
    rows = replace(rows, start=starts[:-1], stop=starts[1:])

    def rank(items: np.ndarray) -> Ranking:
        return ranking_of(loaded.encoders, vectors, replace(rows, items=items), dataset.users[rows.users])

    return Tested(items, lengths, rank)


def shuffled(items: np.ndarray, lengths: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """Histories (end to end) with the items of each in random order."""
    random = np.random.default_rng([seed, draw]).random(len(items))
    return items[np.lexsort((random, np.repeat(np.arange(len(lengths)), lengths)))]


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|intersection| / |union| of each row's list, (N, k) → (N,)."""
    both = (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    return np.asarray(both / (2 * a.shape[1] - both))


def compare(tested: List[Tested], draws: int, seed: int) -> str:
    """A table of the metrics before and after, of the mean over checkpoints and draws."""
    import pandas as pd

    from reproduce.ranks import Ranks
    from reproduce.significance import interval, resampled_means

    before = [one.rank(one.items) for one in tested]
    after = [[one.rank(shuffled(one.items, one.lengths, seed, draw)) for draw in range(draws)] for one in tested]
    overlap = np.mean([jaccard(first.top, again.top) for first, drawn in zip(before, after) for again in drawn])
    lines = []
    for history, field in (("unmasked", "ranks"), ("masked", "masked")):
        original = Ranks(before[0].users, before[0].targets, np.stack([getattr(one, field) for one in before]))
        new = replace(original, ranks=np.stack([[getattr(again, field) for again in drawn] for drawn in after]))
        for metric in METRICS:
            was = original.gains(metric)  # (checkpoints, users)
            difference = (new.gains(metric) - was[:, None]).mean(axis=1)  # over the draws
            low, high = interval(resampled_means([difference])[0])
            mean, change = was.mean(), difference.mean()
            percent = f"{100 * change / mean:+.1f}" if mean else "-"
            line = [history, metric.upper(), f"{mean:.4f}", f"{mean + change:.4f}", percent]
            lines.append([*line, f"{change:+.4f} ({low:+.4f}, {high:+.4f})"])
    columns = ["history", "metric", "original", "shuffled", "change, %", "difference (95 % interval)"]
    table = pd.DataFrame(lines, columns=columns).to_markdown(index=False, disable_numparse=True)
    return f"{table}\nJaccard@10 of both lists: {overlap:.2f}"


def main(argv: Optional[List[str]] = None) -> None:
    """Load, rank, print. It reads the test split: do not choose anything by what it prints."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        parser = Parser(__doc__)
        parser.add_argument("MODEL", help=f"{', '.join(PIPELINES)}, FILE.py:CLASS; MODEL --help lists the settings")
        parser.print_help()
        return
    name = name_of(words[0])
    command = parse(Settings, __doc__, None, words[1:], (CHECKPOINTS,), has_force=False)
    settings = command.settings
    checkpoints = command.arguments.checkpoint or [best_run(settings.results_dir, name, settings.dataset, "ndcg@10")]

    from common.compute import pick_compute

    compute = pick_compute(settings.device, "fp32")
    tested = [
        load_adrec(path, settings, compute) if name == "ADRec" else load_stage_2(path, words[0], settings, compute)
        for path in checkpoints
    ]
    counts = f"{len(tested[0].lengths)} rows, checkpoints: {len(tested)}, random orders: {settings.draws}"
    print(f"{name} on {settings.dataset}, test, {counts}")
    print(compare(tested, settings.draws, settings.seed))


if __name__ == "__main__":
    run_script(main)
