"""The models train under RecBole's own trainer, and RecBole's own evaluator gives the metrics that we compute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Type

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from stage2_helpers import INTER_FILES

from common.compute import Processes, pick_compute
from common.ranking import metrics
from reproduce.baselines.networks import SASRec
from stage2_sequence_preference_learning import recbole_process
from stage2_sequence_preference_learning.data import EvalLoader
from stage2_sequence_preference_learning.models import SICSRec
from stage2_sequence_preference_learning.ranking_model import RankingModel


def train_under_recbole(model_class: Type[RankingModel], datasets_dir: Path, folder: Path) -> Any:
    """The user's side: RecBole alone trains and evaluates a model on the files of recbole_process.py."""
    values = {
        "data_path": str(datasets_dir / "Tiny" / "recbole"),
        "datasets_dir": str(datasets_dir),
        **INTER_FILES,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
        "metrics": ["Hit", "NDCG", "MRR"],
        "topk": [5, 10],
        "metric_decimal_place": 12,
        "hidden_size": 8,
        "inner_size": 8,
        "epochs": 1,
        "train_batch_size": 16,
        "checkpoint_dir": str(folder),
        "use_gpu": False,
    }
    config = Config(model=model_class, dataset="Tiny", config_dict=values)
    train, valid, test = data_preparation(config, create_dataset(config))
    model = model_class(config, train.dataset)
    trainer = Trainer(config, model)
    trainer.fit(train, valid, saved=False, show_progress=False)
    return model, trainer.evaluate(test, load_best_model=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("model_class", [SICSRec, SASRec])
def test_recboles_trainer_and_evaluator_agree_with_ours(
    model_class: Type[RankingModel], datasets_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])  # RecBole reads it
    monkeypatch.chdir(tmp_path)  # and writes its logs to the working directory
    recbole_process.run(recbole_process.Settings(dataset="Tiny", datasets_dir=str(datasets_dir)))
    model, found = train_under_recbole(model_class, datasets_dir, tmp_path)
    assert model.settings.hidden_size == 8

    split = EvalLoader(model.data.test, model.n_items)
    ranks = model.rank(split, pick_compute("cpu", "fp32"), Processes())
    ours = metrics(ranks)
    for k in (5, 10):
        assert found[f"hit@{k}"] == pytest.approx(ours[f"hit@{k}"], abs=1e-9)
        assert found[f"ndcg@{k}"] == pytest.approx(ours[f"ndcg@{k}"], abs=1e-9)
        assert found[f"mrr@{k}"] == pytest.approx(np.where(ranks <= k, 1 / ranks, 0).mean(), abs=1e-9)
