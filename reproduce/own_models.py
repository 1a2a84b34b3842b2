"""A model of yours among ours: wherever a model is named, FILE.py:CLASS may stand.

    python -m reproduce.baseline mine.py:MyRec -d Bili_Food n_trials=10 'search_space={learning_rate: [1e-3, 1e-2]}'
    bash run_train.sh mine.py:MyRec Bili_Food && bash run_test.sh mine.py:MyRec Bili_Food
    {model: mine.py:MyRec, settings: {epochs: 50}}            a row of a suite

CLASS is a sequential model of RecBole's kind: its ``calculate_loss`` trains and its ``full_sort_predict`` ranks, as
they are, on this project's splits, batches, validation and ranks. A subclass of `RankingModel` (stage 2) is taken as it
is, and may read packed histories (docs/stage2.md). What it reads of its config stands in a dataclass CLASSSettings of
the same file, a subclass of `reproduce.baselines.settings.BaselineSettings`; without one, in that.
The file's checksum belongs to what makes a run: a changed file is another run.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Tuple, Type

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError, nearest
from common.files import checksum
from reproduce.baselines.neural import latest, prefixes
from reproduce.baselines.settings import BaselineSettings
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


class Rows(Interaction):
    """A batch as RecBole's loader would give it, without users and sampled negatives."""

    def __getitem__(self, index: Any) -> Any:
        """A field, or rows.

        Raises:
            UserError: there is no such field.
        """
        if isinstance(index, str) and index not in self.interaction:
            raise UserError(f"the model reads '{index}' of its batch, which holds {', '.join(self.interaction)} alone")
        return super().__getitem__(index)


class RecBolesWay(RankingModel):
    """A model of RecBole's kind by its own loss and scores; each prefix is a row of ``max_seq_length`` positions."""

    net_class: ClassVar[Type[Any]]

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.net: nn.Module = self.net_class(config, dataset)

    def interaction(self, batch: Batch) -> Rows:
        """What RecBole's loader would give: N rows."""
        items, lengths = latest(*prefixes(batch), self.max_seq_length)
        items = F.pad(items, (0, self.max_seq_length - items.shape[1]))
        return Rows({self.ITEM_SEQ: items, self.ITEM_SEQ_LEN: lengths, self.ITEM_ID: batch.targets})

    def terms(self, batch: Batch) -> Terms:
        """Its loss, or each of its losses."""
        found = self.net.calculate_loss(self.interaction(batch))  # type: ignore[operator]
        parts = found if isinstance(found, tuple) else (found,)
        return {"loss" if len(parts) == 1 else f"loss {n}": part.reshape(()) for n, part in enumerate(parts, start=1)}

    def candidates(self) -> Tensor:
        """Nothing per item that we know of."""
        return torch.empty(0)

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        scores: Tensor = self.net.full_sort_predict(self.interaction(batch))  # type: ignore[operator]
        scores = scores.view(len(batch), -1)[:, : self.n_items].float().clone()
        scores[:, 0] = -torch.inf
        return scores


def is_own(name: str) -> bool:
    """Whether a model's name is FILE.py:CLASS."""
    return ".py:" in name


def load_own(name: str) -> Tuple[Type[RankingModel], Type[Any]]:
    """The model and its settings of FILE.py:CLASS.

    Raises:
        UserError: the file does not import, has no such class, or the class is none of a sequential model.
    """
    file, _, wanted = name.rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file; a model of yours is FILE.py:CLASS")
    module = _imported(Path(file).resolve(), checksum(Path(file)))
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    found = classes.get(wanted)
    if found is None:
        raise UserError(f"{file}: has no class '{wanted}'{nearest(wanted, classes)}")
    if not issubclass(found, SequentialRecommender):
        raise UserError(f"{name}: is no SequentialRecommender of RecBole's, nor a RankingModel")
    settings = classes.get(f"{wanted}Settings", BaselineSettings)
    if not (dataclasses.is_dataclass(settings) and issubclass(settings, BaselineSettings)):
        raise UserError(f"{file}:{wanted}Settings: must be a dataclass, and a subclass of BaselineSettings")
    of_features = {"features_dir", "modalities"} & {field.name for field in dataclasses.fields(settings)}
    if len(of_features) == 1:
        raise UserError(f"{file}:{wanted}Settings: a model that reads features needs features_dir and modalities, both")
    source = {"source": Path(file).resolve(), "__doc__": found.__doc__}
    if issubclass(found, RankingModel):
        return type(wanted, (found,), source), settings
    return type(wanted, (RecBolesWay,), {"net_class": found, **source}), settings


@cache
def _imported(path: Path, sha256: str) -> Any:
    """The module, run once as long as the file stays as it is."""
    name = f"own_model_{sha256}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: does not import: {type(error).__name__}: {error}") from error
    return module
