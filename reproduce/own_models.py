"""Models of your own: FILE.py:CLASS, wherever a model is named.

    python -m reproduce.baseline mine.py:MyRec -d Bili_Food n_trials=10 'search_space={learning_rate: [1e-3, 1e-2]}'
    bash run_train.sh mine.py:MyRec Bili_Food && bash run_test.sh mine.py:MyRec Bili_Food
    {model: mine.py:MyRec, settings: {epochs: 50}}            a row of a suite

CLASS is a sequential model as RecBole's are: ``calculate_loss`` trains it and ``full_sort_predict`` ranks. It is built
from its settings, over RecBole's defaults if it is or extends one of RecBole's models, and the training rows: ``num``,
``inter_feat`` and ``field2seqlen`` of RecBole's data set. A subclass of stage 2's `RankingModel` is used as it is, and
may read packed histories (docs/performance.md). Its settings are CLASSSettings of the same file, a dataclass derived
from `reproduce.baselines.settings.BaselineSettings`; without one, BaselineSettings. A model that reads features derives
its settings from `ContentSettings` and calls ``dataset.item_features("text")``.

The file's checksum is in the run's recipe: a changed file makes another run.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Dict, Iterator, List, Tuple, Type

import recbole
import torch
from omegaconf import OmegaConf
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError, nearest
from common.files import checksum
from reproduce.baselines.counted import ScoringModel
from reproduce.baselines.ensemble import MODELS
from reproduce.baselines.histories import latest, prefixes, train_rows
from reproduce.baselines.networks import RecBoleData
from reproduce.baselines.settings import BaselineSettings, RankingSettings
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, RecBoleConfig, Terms


def load_own(name: str) -> Tuple[Type[RankingModel], Type[RankingSettings]]:
    """The model of FILE.py:CLASS and the class of its settings.

    Raises:
        UserError: the file cannot be imported, or has no such class, or the class or its settings are of another kind.
    """
    file, _, wanted = name.rpartition(":")
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise UserError(f"{file}: no such file; a model of your own is FILE.py:CLASS")
    if wanted in (*MODELS, "ADRec", "Scores"):
        raise UserError(f"{name}: {wanted} is the name of another model; rename the class")
    module = import_file(path.resolve(), checksum(path))
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    found = classes.get(wanted)
    if found is None:
        raise UserError(f"{file}: has no class '{wanted}'{nearest(wanted, classes)}")
    if not issubclass(found, SequentialRecommender):
        raise UserError(f"{name}: neither RecBole's SequentialRecommender nor a RankingModel; derive it from one")
    settings = classes.get(f"{wanted}Settings", BaselineSettings)
    if not (dataclasses.is_dataclass(settings) and issubclass(settings, RankingSettings)):
        raise UserError(f"{file}:{wanted}Settings: not a dataclass derived from BaselineSettings; derive it from that")
    schema = with_file(settings, path.resolve(), f"{wanted}Settings")
    content = {"schema": schema, "parts": classmethod(lambda kind, settings: {"source": path.resolve()})}
    if issubclass(found, RankingModel):
        return type(wanted, (found,), content), schema
    return type(wanted, (OwnModel,), {**content, "net_class": found}), schema


@cache
def import_file(path: Path, sha256: str) -> ModuleType:
    """The module, executed once per content of the file."""
    name = f"own_model_{sha256}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def with_file(settings: Type[RankingSettings], path: Path, wanted: str) -> Type[RankingSettings]:
    """The settings with the user's file among the input files, and so in the recipe; ``wanted`` is their name there."""

    def input_files(own: RankingSettings) -> Dict[str, Path]:
        return {**settings.input_files(own), "source": path}

    def missing(own: RankingSettings, name: str) -> Any:
        raise NotThere(f"{path}: the model reads '{name}' of its settings; add it to {wanted}")

    content = {"input_files": input_files, "__getattr__": missing, "__doc__": settings.__doc__}
    return type(settings.__name__, (settings,), content)


class Rows(Interaction):
    """A batch as RecBole's loader gives it, without users and sampled negatives."""

    def __getitem__(self, index: Any) -> Any:
        """A field, or rows. Raises `UserError` if there is no such field."""
        if isinstance(index, str) and index not in self.interaction:
            raise UserError(f"the model reads '{index}' of its batch, which has only {', '.join(self.interaction)}")
        return super().__getitem__(index)


class ReadConfig(RecBoleConfig):
    """RecBole's config: the settings over RecBole's own defaults of the model.

    ``missing`` lists the names that were read and are in neither.
    """

    def __init__(self, settings: RankingSettings, net_class: Type[SequentialRecommender]) -> None:
        super().__init__(settings)
        self.missing: List[str] = []
        self.wanted = f"{net_class.__name__}Settings"
        for base in net_class.__mro__:
            path = Path(recbole.__file__).parent / "properties" / "model" / f"{base.__name__}.yaml"
            defaults: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
            for key, value in defaults.items():
                self.setdefault(key, value)

    def __missing__(self, key: str) -> None:
        self.missing.append(key)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotThere(f"the model reads '{name}' of its config; add it to {self.wanted}")


class NotThere(UserError, AttributeError):
    """A model reads what its settings or data set do not have; an `AttributeError` for ``hasattr``."""


class Data(RecBoleData):
    """What a model may read of RecBole's data set, and the features of stage 1."""

    def __init__(self, data: SequenceData) -> None:
        super().__init__(data)
        self.data = data
        self.modalities: List[str] = []  # that the model has read

    def num(self, field: str) -> int:
        """The number of items, padding included. Raises `UserError` for another field."""
        if field not in self.sizes:
            raise UserError(f"the model reads the number of '{field}'; here only {', '.join(self.sizes)} is numbered")
        return super().num(field)

    def __getattr__(self, name: str) -> Any:
        raise NotThere(
            f"the model reads '{name}' of its data set, which has only num, inter_feat, field2seqlen, "
            "get_item_feature and item_features"
        )

    @cached_property
    def inter_feat(self) -> Interaction:
        """The training rows, histories right-padded with 0."""
        items, lengths = train_rows(self.data.train, self.field2seqlen["item_id_list"])
        targets = torch.from_numpy(self.data.train.targets)
        return Interaction({"item_id_list": items, "item_length": lengths, "item_id": targets})

    def item_features(self, modality: str) -> Tensor:
        """Features of a modality by row of the item table: (n_items, width), row 0 zero.

        Raises:
            UserError: the settings do not name the modality.
        """
        if modality not in self.data.features:
            raise UserError(
                f"the model reads {modality} features, but its settings do not name them; derive the settings from "
                f"ContentSettings and use modalities=[{modality}]"
            )
        self.modalities.append(modality)
        return self.data.features[modality]


class OwnModel(ScoringModel):
    """A model as RecBole's are, with its own loss and scores; each prefix is a row of ``max_seq_length`` positions."""

    net_class: ClassVar[Type[SequentialRecommender]]

    def __init__(self, settings: RankingSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.config, read = ReadConfig(settings, self.net_class), Data(self.data)
        with self.missing_settings_named():
            self.net = self.net_class(self.config, read)
        for modality in read.modalities:
            if f"plm_{modality}_embedding.weight" not in self.net.state_dict():
                raise UserError(
                    f"{self.net_class.__name__}: its checkpoint would not hold the {modality} features; keep them as "
                    f"self.plm_{modality}_embedding, an Embedding"
                )

    @contextmanager
    def missing_settings_named(self) -> Iterator[None]:
        """Raise a `UserError` for what a model may raise that has read None in place of a setting."""
        try:
            yield
        except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
            if not self.config.missing or isinstance(error, UserError):
                raise
            name, keys = self.net_class.__name__, list(dict.fromkeys(self.config.missing))
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            add = f"add {'them' if len(keys) > 1 else 'it'} to {self.config.wanted}"
            raise UserError(f"{name}: {reason}; it reads {', '.join(keys)} of its config: {add}") from error

    def to(self, device: torch.device) -> OwnModel:  # type: ignore[override]
        """Move the model; RecBole's modules keep their device as an attribute, too."""
        for module in self.net.modules():
            if "device" in vars(module):
                module.device = device
        return super().to(device)

    def interaction(self, batch: Batch) -> Rows:
        """N rows as RecBole's loader gives them."""
        length = self.settings.max_seq_length
        items, lengths = latest(*prefixes(batch), length)
        items = F.pad(items, (0, length - items.shape[1]))
        return Rows({self.ITEM_SEQ: items, self.ITEM_SEQ_LEN: lengths, self.ITEM_ID: batch.targets})

    def loss_terms(self, batch: Batch) -> Terms:
        """Its loss, or each of its losses."""
        with self.missing_settings_named():
            found = self.net.calculate_loss(self.interaction(batch))
        parts = found if isinstance(found, tuple) else (found,)
        return {"loss" if len(parts) == 1 else f"loss {n}": part.reshape(()) for n, part in enumerate(parts, start=1)}

    def full_sort_scores(self, batch: Batch) -> Tensor:
        """(N, n_items)."""
        with self.missing_settings_named():
            scores: Tensor = self.net.full_sort_predict(self.interaction(batch))
        scores = scores.view(len(batch), -1)[:, : self.n_items].float().clone()
        scores[:, 0] = -torch.inf
        return scores
