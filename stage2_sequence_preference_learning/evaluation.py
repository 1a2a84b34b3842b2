"""Full ranking of a checkpoint, ours or published: metrics, ranks per user, scores."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Type

import numpy as np
import torch
from torch import Tensor

from common.checkpoints import load_published, load_weights
from common.device import Compute
from common.errors import UserError
from common.features import MODALITIES
from common.files import checksum, read_json, write_json
from common.processes import Processes
from common.ranking import metrics, target_ranks
from common.runs import METRICS, RANKS, TOP, write_ranks, write_top
from stage2_sequence_preference_learning.data import EvalLoader, SequenceDataset, inter_files, load_splits
from stage2_sequence_preference_learning.models import MODELS, model_class
from stage2_sequence_preference_learning.ranking_model import RankingModel
from stage2_sequence_preference_learning.settings import (
    CHECKPOINTS,
    SWITCHES,
    recbole_config,
    resolve_switches,
    schema_of,
)


@dataclass
class Loaded:
    """A model with its weights, and the splits it is judged by."""

    model: RankingModel
    settings: Any
    valid: SequenceDataset
    test: SequenceDataset


def infer_settings(weights: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Model and sizes of a published state dict, from its names and shapes; what leaves no trace keeps its default.

    Raises:
        UserError: the names are those of none of the three models.
    """
    if "aggregation_layer.weight" in weights:
        model, stack = "SICSRec", "trm_encoder"
    elif "trm_encoder.layer.0.feed_forward.dense_1.weight" in weights:
        model, stack = "ID_SeqEncoder", "trm_encoder"
    elif "content_trm_decoder.layer.0.feed_forward.dense_1.weight" in weights:
        model, stack = "Content_SeqEncoder", "content_trm_decoder"
    else:
        raise UserError(f"not the weights of {', '.join(MODELS)}: they begin with {', '.join(list(weights)[:3])}")
    length, width = weights["position_embedding.weight"].shape
    found: Dict[str, Any] = {
        "max_seq_length": length,
        "hidden_size": width,
        "n_layers": len({name.split(".")[2] for name in weights if name.startswith(f"{stack}.layer.")}),
        "inner_size": len(weights[f"{stack}.layer.0.feed_forward.dense_1.weight"]),
    }
    if model != "ID_SeqEncoder":
        found["modalities"] = [m for m in MODALITIES if f"plm_{m}_embedding.weight" in weights]
    if model == "SICSRec":
        found["lora_rank"] = len(weights["trm_encoder.layer.0.att_lora_layer.lora_A.weight"])
    return {"model": model, "settings": found}


def feature_table(weights: Mapping[str, Tensor], modality: str) -> Optional[Tensor]:
    """A modality's features among a model's weights, also within a user's model."""
    name = f"plm_{modality}_embedding.weight"
    return next((weights[key] for key in (name, f"net.{name}") if key in weights), None)


def check_split(checkpoint: Path, trained_on: Mapping[str, str], folder: Path, dataset: str) -> None:
    """Whether a checkpoint belongs to the split that lies in a data set's folder: rows of items are numbered by it.

    Args:
        trained_on: checksums of the run's inputs; published files do not tell any.

    Raises:
        UserError: names the file that is another.
    """
    for split, path in inter_files(folder / "recbole" / dataset, dataset).items():
        if split in trained_on and checksum(path) != trained_on[split]:
            raise UserError(f"{checkpoint}: was trained on another {split} split than {path}; train again on this one")


def check_parts(checkpoint: Path, trained_on: Mapping[str, str], kind: Type[RankingModel], settings: Any) -> None:
    """Whether what a model is made of beside its weights is as it was: a user's file, the checkpoints of an ensemble.

    Raises:
        UserError: names the file that is another.
    """
    parts = {key: Path(getattr(settings, key)) for key in CHECKPOINTS if getattr(settings, key, None)}
    if kind.source is not None:
        parts["code"] = kind.source
    for name, path in parts.items():
        if name in trained_on and checksum(path) != trained_on[name]:
            raise UserError(f"{checkpoint}: was trained with another {path} than lies there now; train again")


def load_model(
    checkpoint: Path, dataset: str, datasets_dir: str, compute: Compute, overrides: Optional[Mapping[str, Any]] = None
) -> Loaded:
    """Rebuild a model from its checkpoint alone; stage 1's features are in its weights.

    Args:
        overrides: settings that win over the checkpoint's own, such as ``variant``; a variant given
            here sets all switches that are not given themselves.

    Raises:
        UserError: the file or the data set does not fit.
    """
    loaded = load_published(checkpoint)
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    counted = isinstance(loaded, dict) and "about" in loaded  # may hold no weights
    if weights is None or not (weights or counted) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{checkpoint}: holds no 'state_dict' of tensors")
    about = loaded.get("about") or infer_settings(weights)
    if isinstance(about, str):
        raise UserError(f"{checkpoint}: is a checkpoint of ADRec; adrec/test_main.py and adrec/recommend.py take it")
    check_split(checkpoint, about.get("inputs", {}), Path(datasets_dir) / dataset, dataset)
    own = {k: v for k, v in about["settings"].items() if k not in ("precision", "processes")}
    if overrides and overrides.get("variant"):
        own.update(dict.fromkeys(SWITCHES))
    kind = model_class(about["model"])
    schema = schema_of(about["model"])
    fields = {f.name for f in dataclass_fields(schema)}
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    for key in given:
        if key not in fields:
            raise UserError(f"{checkpoint}: {key}={given[key]}: {about['model']} has no such setting; leave it out")
    values = {k: v for k, v in {**own, **given}.items() if k in fields}
    settings: Any = schema(**{**values, "dataset": dataset, "datasets_dir": datasets_dir})
    resolve_switches(settings)
    check_parts(checkpoint, about.get("inputs", {}), kind, settings)

    with tempfile.TemporaryDirectory() as unused:  # RecBole wants a folder for checkpoints
        config = recbole_config(kind, settings, compute.device, Path(unused))
        train, valid, test = load_splits(config)
    for modality in MODALITIES:
        table = feature_table(weights, modality)
        if table is not None:
            train.use_features(modality, torch.zeros_like(table))
    model = kind(config, train)
    load_weights(model, weights, checkpoint)
    return Loaded(model.to(compute.device).eval(), settings, valid, test)


@torch.no_grad()
def rank_split(
    model: RankingModel,
    loader: EvalLoader,
    device: torch.device,
    processes: Processes,
    masked: bool = False,
    top: Optional[Tensor] = None,
) -> np.ndarray:
    """The target's rank for each row of a split: (N,) float64 in the split's order; computed in fp32.

    Args:
        top: (N, k) int64 zeros, filled with the k best items of each row, best first, of equal ones any.
    """
    model.eval()
    found = torch.zeros(len(loader.targets), dtype=torch.float64)
    with model.fixed_items():
        for rows, batch in loader:
            batch = batch.to(device)
            scores = model.full_sort_scores(batch)
            excluded = [index.to(device) for index in loader.history(rows)] if masked else None
            found[torch.from_numpy(rows)] = target_ranks(scores, batch.targets, excluded).cpu()
            if top is not None:
                top[torch.from_numpy(rows)] = scores.topk(top.shape[1], dim=1).indices.cpu()
    processes.sum(found)
    if top is not None:
        processes.sum(top)
    return found.numpy()


def user_ids(split: SequenceDataset) -> np.ndarray:
    """Zero-based user of each row of a split."""
    tokens = split.field2id_token[split.uid_field][split.inter_feat[split.uid_field].numpy()]
    return tokens.astype(np.int64) - 1


def test_run(run_dir: Path, datasets_dir: str, compute: Compute, processes: Processes) -> Dict[str, Any]:
    """Evaluate a finished run's best epoch on the test split, once; a second call reads the result.

    Returns:
        The content of metrics.json.
    """
    path, checkpoint = run_dir / METRICS, run_dir / "best.pth"
    result: Dict[str, Any] = processes.agree(read_json(path) if processes.first else None)  # written by the first
    if "test" in result and result.get("checkpoint") == checksum(checkpoint):
        return result
    loaded = load_model(checkpoint, result["dataset"], datasets_dir, compute)
    loader = EvalLoader(loaded.test, processes.rank, processes.size)
    top = torch.zeros(len(loader.targets), min(TOP, loaded.test.item_num - 1), dtype=torch.int64)
    ranks = rank_split(loaded.model, loader, compute.device, processes, top=top)
    masked = rank_split(loaded.model, loader, compute.device, processes, masked=True)
    result.update(test=metrics(ranks), test_masked=metrics(masked), checkpoint=checksum(checkpoint))
    if processes.first:
        targets = loaded.test.item_of_row()[loaded.test.inter_feat[loaded.test.iid_field].numpy()]
        write_ranks(run_dir / RANKS, user_ids(loaded.test), targets, ranks, masked)
        write_top(run_dir, loaded.test.item_of_row()[top.numpy()])
        write_json(path, result)
    return result
