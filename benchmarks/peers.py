"""An epoch of ID_SeqEncoder beside RecBole's SASRec with RecBole's trainer, and RecTools' where it is installed.

    python -m benchmarks.peers epochs=3                          # on the quickstart's ml-100k
    python -m benchmarks.peers -d Bili_Food epochs=1

All have the same train part, targets, width, layers, dropout and learning rate, and cross entropy over all items. A
batch of RecBole's has ``train_batch_size`` prefixes; RecTools' has as many users as have that many targets on average.
Peers compute in fp32. Metrics are those of the validation split after ``epochs`` epochs, history unmasked.
"""

from __future__ import annotations

from common.start import run_script

import importlib.util
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from common.settings import as_dict, parse, setting
from stage2_sequence_preference_learning.settings import IDSettings

METRICS = ("hit@10", "ndcg@10")


@dataclass
class Settings(IDSettings):
    """ID_SeqEncoder's settings, which peers get too. RecTools has one dropout rate, and layers without inner_size."""

    epochs: int = setting(3, "epochs, over which seconds are averaged", minimum=1)


@dataclass
class Result:
    """A row of the table."""

    name: str
    seconds: Tuple[float, float]  # of an epoch, and of the CPU
    metrics: Dict[str, float]


def timed(train: Callable[[], object], epochs: int) -> Tuple[float, float]:
    """Seconds of an epoch, and CPU seconds, of a training over ``epochs``."""
    from benchmarks import measured

    cpu = time.process_time()
    seconds = measured.timed(train)
    return seconds / epochs, (time.process_time() - cpu) / epochs


def ours(settings: Settings, precision: str) -> Result:
    """ID_SeqEncoder."""
    from benchmarks.epochs import epoch_of, make
    from common.compute import Processes, pick_compute, seed_everything
    from common.ranking import metrics
    from stage2_sequence_preference_learning.data import EvalLoader

    compute = pick_compute(settings.device, precision)
    seed_everything(settings.seed)
    own, data, model = make("ID_SeqEncoder", **as_dict(settings))
    epoch = epoch_of(model.to(compute.device), data, own, compute)
    seconds = timed(lambda: [epoch() for _ in range(settings.epochs)], settings.epochs)
    ranks = model.rank(EvalLoader(data.valid, data.n_items), compute, Processes())
    return Result(f"ID_SeqEncoder, {compute.precision}", seconds, metrics(ranks))


def recbole(settings: Settings) -> Result:
    """RecBole's SASRec on the files of recbole_process.py."""
    from logging import ERROR, disable
    from tempfile import gettempdir
    from unittest import mock

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    from stage2_sequence_preference_learning import recbole_process

    files = recbole_process.Settings(settings.dataset, settings.datasets_dir)
    files.max_seq_length = settings.max_seq_length
    recbole_process.run(files)
    values = {
        **as_dict(settings),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": settings.max_seq_length,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
        "metrics": ["Hit", "NDCG"],
        "topk": [10],
        "seed": settings.seed,
        "show_progress": False,
        "checkpoint_dir": gettempdir(),
        "use_gpu": settings.device != "cpu",
    }
    disable(ERROR)
    with mock.patch("sys.argv", [""]):  # which RecBole reads
        config = Config(model=SASRec, dataset=settings.dataset, config_dict=values)
    config["data_path"] = str(recbole_process.inter_path(files, "train").parent)  # RecBole has its own of ml-100k
    init_seed(settings.seed, reproducibility=True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    with mock.patch("recbole.trainer.trainer.get_tensorboard"):  # writes to the working directory
        trainer = Trainer(config, SASRec(config, train.dataset).to(config["device"]))
    seconds = timed(lambda: trainer.fit(train, None, verbose=False, saved=False), settings.epochs)
    return Result("RecBole's SASRec, fp32", seconds, dict(trainer.evaluate(valid, load_best_model=False)))


def rectools(settings: Settings) -> Result:
    """RecTools' SASRec, one row a user."""
    import numpy as np
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    from common.dataset import load_dataset
    from common.splits import SplitSettings, split_dataset

    data = load_dataset(settings.dataset_dir, settings.dataset)
    splits = split_dataset(data, SplitSettings(settings.dataset, settings.datasets_dir))
    log = pd.DataFrame({Columns.User: np.repeat(np.arange(len(data.users)), splits.n_train)})
    log[Columns.Item] = np.concatenate([own[:n] for own, n in zip(data.sequences, splits.n_train)])
    log[Columns.Weight] = 1.0
    log[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(log)), unit="s")
    train = Dataset.construct(log)
    targets_each = np.minimum(splits.n_train[splits.n_train > 1] - 1, settings.max_seq_length).mean()
    model = SASRecModel(
        n_blocks=settings.n_layers,
        n_heads=settings.n_heads,
        n_factors=settings.hidden_size,
        dropout_rate=settings.hidden_dropout_prob,
        session_max_len=settings.max_seq_length,
        lr=settings.learning_rate,
        batch_size=max(1, round(settings.train_batch_size / targets_each)),
        epochs=settings.epochs,
        loss="softmax",
    )
    seconds = timed(lambda: model.fit(train), settings.epochs)
    users = splits.valid.users
    target = pd.Series([data.sequences[user][place] for user, place in zip(*splits.valid)], index=users)
    found = model.recommend(users, train, k=10, filter_viewed=False)
    ranks = found[Columns.Rank][found[Columns.Item].to_numpy() == target[found[Columns.User]].to_numpy()]
    values = {"hit@10": len(ranks) / len(users), "ndcg@10": (1 / np.log2(ranks + 1)).sum() / len(users)}
    return Result("RecTools' SASRec, fp32", seconds, values)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure each, print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    rows = [ours(settings, "fp32"), recbole(settings)]
    rows += [ours(settings, settings.precision)] if settings.precision != "fp32" else []
    if importlib.util.find_spec("rectools"):
        rows.append(rectools(settings))
    else:
        print("RecTools is left out: it is not installed (pip install 'rectools[torch]')")
    print(f"{settings.dataset}, {settings.epochs} epochs")
    print("| | seconds an epoch | CPU seconds | times the first | HIT@10 | NDCG@10 |\n|---|---|---|---|---|---|")
    for row in rows:
        values = " | ".join(f"{row.metrics[name]:.4f}" for name in METRICS)
        (seconds, cpu), first = row.seconds, rows[0].seconds[0]
        print(f"| {row.name} | {seconds:.2f} | {cpu:.2f} | {seconds / first:.1f}× | {values} |")


if __name__ == "__main__":
    run_script(main)
