"""Checkpoints of stage 2, of this project or published: what they hold, and models rebuilt from them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Type

from torch import Tensor

from common.checkpoints import check_weights, load_published, load_weights
from common.compute import Compute
from common.errors import UserError
from common.features import MODALITIES
from common.files import checksum
from common.run import Run
from common.splits import check_same_split
from stage2_sequence_preference_learning.data import load_splits
from stage2_sequence_preference_learning.models import MODELS, SICSRec
from stage2_sequence_preference_learning.ranking_model import RankingModel
from stage2_sequence_preference_learning.settings import HistorySettings

RELEASED_NAMES = {  # of the released `Content_SeqEncoder` (S20), and ours
    "content_trm_encoder.": "content_trm_decoder.",
    "text_mlp.": "text_adapter.",
    "image_mlp.": "image_adapter.",
}


def load_id_encoder(model: SICSRec, run: Run) -> None:
    """Start SICSRec's ID branch from ``pretrain_id``, a checkpoint of this project or a published one.

    Raises:
        UserError: it was trained on other data or with other sizes; lists weights that are missing or unexpected.
    """
    path = str(model.settings.pretrain_id)
    if path == "none":
        return
    weights, about = read_checkpoint(Path(path))
    trained = about.get("model", "ID_SeqEncoder")  # published files do not say
    if trained != "ID_SeqEncoder":
        raise UserError(f"pretrain_id={path}: a checkpoint of {trained}; give that of an ID_SeqEncoder")
    for name, sha256 in about.get("inputs", {}).items():
        if run.recipe["inputs"][name]["sha256"] != sha256:
            raise UserError(f"pretrain_id={path}: trained on other {name}; train the ID encoder again")
    if about:
        check_same_split(model.settings, about["settings"], f"pretrain_id={path}")
    for key in ("n_heads", "hidden_act", "layer_norm_eps"):  # which the weights' shapes do not show
        here = getattr(model.settings, key)
        there = about.get("settings", {}).get(key, here)
        if there != here:
            raise UserError(f"pretrain_id={path}: trained with {key}={there}, but here {key}={here}; use the same")
    if "id" not in model.branches:
        weights = {name: w for name, w in weights.items() if not name.startswith(("LayerNorm.", "trm_encoder."))}
    check_weights(model.id_encoder_state(), weights, f"pretrain_id={path}")
    model.load_id_encoder(weights)


def read_checkpoint(path: Path) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """A checkpoint's weights and what it says of itself: model, data set, settings, inputs; published ones say nothing.

    Raises:
        UserError: the file is missing or holds no state dict.
    """
    content = load_published(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    about = content.get("about", {}) if isinstance(content, dict) else {}
    if weights is None or not (weights or about) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{path}: no 'state_dict' of tensors; give a checkpoint")
    for theirs, ours in ({} if about else RELEASED_NAMES).items():
        weights = {re.sub(f"^{re.escape(theirs)}", ours, name): weight for name, weight in weights.items()}
    return weights, about


def infer_settings(weights: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Model and sizes of a published state dict by its names and shapes; other settings keep their defaults.

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
        found["variant"] = "released"  # it was trained by the authors' code
    return {"model": model, "settings": found}


def load_model(
    checkpoint: Path,
    dataset: str,
    datasets_dir: str,
    compute: Compute,
    overrides: Optional[Mapping[str, Any]] = None,
    models: Mapping[str, Type[RankingModel]] = MODELS,
) -> RankingModel:
    """Rebuild a model, with the splits of the data set, from its checkpoint; stage 1's features are in its weights.

    Args:
        overrides: settings that replace the checkpoint's, such as ``variant``; a variant sets all switches that are
            not given.
        models: models by name.

    Raises:
        UserError: the file or the data set does not fit.
    """
    weights, about = read_checkpoint(checkpoint)
    about = about or infer_settings(weights)
    if about["model"] not in models:
        script = "adrec/test_main.py" if about["model"] == "ADRec" else "python -m reproduce.checkpoint"
        raise UserError(f"{checkpoint}: a checkpoint of {about['model']}; use {script}")
    kind = models[about["model"]]
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    known = {f.name: f for f in fields(kind.schema)}
    for key in given:
        if key not in known:
            raise UserError(f"{checkpoint}: {key}={given[key]}: {about['model']} has no such setting; leave it out")
    own = {key: value for key, value in about["settings"].items() if key in known}
    if "variant" in given:
        own = {key: value for key, value in own.items() if not known[key].metadata.get("switch")}
    settings: HistorySettings = kind.schema(**{**own, **given, "dataset": dataset, "datasets_dir": datasets_dir})
    trained_on = about.get("inputs", {})
    for name, path in {**HistorySettings.input_files(settings), **kind.parts(settings)}.items():
        if name in trained_on and checksum(path) != trained_on[name]:
            raise UserError(f"{checkpoint}: trained with another {path} ({name}) than there is now; train again")
    tables = {m: w for m in MODALITIES for name, w in weights.items() if name.endswith(f"plm_{m}_embedding.weight")}
    model = kind(settings, load_splits(settings, tables))
    load_weights(model, weights, checkpoint)
    return model.to(compute.device).eval()
