"""Shared by the tests of models from outside this repository: a user's file of models, and small settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

MINE = '''
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from common.settings import setting
from recbole.model.sequential_recommender.sasrec import SASRec
from reproduce.baselines.settings import AttentionSettings, ContentSettings

@dataclass
class MyRecSettings(AttentionSettings):
    """Settings of MyRec."""
    factor: float = setting(2.0, "factor of the loss")

class MyRec(SASRec):
    """A SASRec with two loss terms."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.factor = config["factor"]
    def calculate_loss(self, interaction):
        return self.factor * super().calculate_loss(interaction), 0.0 * self.item_embedding.weight.sum()

class MyText(SASRec):
    """A SASRec that reads text features."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.plm_text_embedding = nn.Embedding.from_pretrained(dataset.item_features("text"))
        self.to_d = nn.Linear(self.plm_text_embedding.embedding_dim, self.hidden_size)
    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) + self.to_d(self.plm_text_embedding.weight).square().mean()

@dataclass
class MyTextSettings(AttentionSettings, ContentSettings):
    """Settings of MyText."""

class NotAModel:
    pass
'''
SMALL = ["max_seq_length=10", "hidden_size=8", "inner_size=8", "epochs=2", "train_batch_size=16"]


def only(folder: Path) -> Path:
    """The only run in a folder of runs."""
    (found,) = folder.glob("*/metrics.json")
    return found.parent


def read(run_dir: Path) -> Dict[str, Any]:
    """The results of a run."""
    found: Dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return found


def write_mine(folder: Path) -> str:
    """Write the file of models; returns ``FILE.py:MyRec``."""
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    return f"{folder / 'mine.py'}:MyRec"


def words_of(datasets_dir: Path, folder: Path) -> List[str]:
    """Arguments of every command; training commands add ``precision=fp32``."""
    return [f"datasets_dir={datasets_dir}", f"results_dir={folder / 'r'}", "device=cpu"]
