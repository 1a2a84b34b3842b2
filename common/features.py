"""Item features between stage 1 and stage 2: ``<D>_{text,image}_llm_stage1.pth`` and the JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

import torch

from common.checkpoints import full_disk_told, load_published
from common.errors import UserError
from common.files import atomic, checksum, read_json, record

MODALITIES = ("text", "image")


def features_dir(dataset_dir: Path, strategy: str) -> Path:
    """The default folder of the features that a strategy of stage 1 makes."""
    return dataset_dir / "features" / strategy


def features_path(folder: Path, dataset: str, modality: str) -> Path:
    """``modality`` is ``text`` or ``image``."""
    return Path(folder) / f"{dataset}_{modality}_llm_stage1.pth"


def variant_dir(dataset_dir: Path, variant: str) -> Path:
    """Where stage 1 puts a variant's features: ``released`` ones by themselves, so that neither undoes the other."""
    return dataset_dir / "released" if variant == "released" else dataset_dir


def find_features(dataset_dir: Path, variant: str) -> Path:
    """The folder to read a variant's features from: the data set's, where stage 1 did not run as released."""
    own = variant_dir(dataset_dir, variant)
    return own if own.is_dir() else dataset_dir


def save_features(
    path: Path, features: torch.Tensor, made_from: Mapping[str, Any], zero_rows: Sequence[int] = ()
) -> None:
    """Save float features (n_items, width), row = zero-based item id, and what made them.

    Args:
        zero_rows: items that had no input and were written as zeros (S12).
    """
    features = features.detach().to("cpu", torch.float32).contiguous().clone()
    if not torch.isfinite(features).all():
        rows = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
        raise UserError(f"{path}: not written, for these items' features are not finite: {rows[:20]}")
    with atomic(path) as temporary, full_disk_told(path):
        torch.save(features, temporary)
    extra = {"item_ids": list(range(len(features))), "shape": list(features.shape), "zero_rows": list(zero_rows)}
    record(path.with_suffix(".json"), made_from, {"features": path}, extra)


def check_there(path: Path) -> None:
    """Raise a `UserError` that names the cures where a file of features is missing."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such features; run stage 1, point features_dir=DIR to where they lie, use one modality alone "
            "(modalities=[text]), or make stand-ins of titles (python -m reproduce.standin)"
        )


def check_made_from(path: Path, items: Path) -> None:
    """Whether features are of the items as they are now, where the JSON beside them tells what they were made from.

    Raises:
        UserError: they were made from another file of items.
    """
    described = path.with_suffix(".json")
    about = read_json(described) if described.is_file() else {}
    told = about.get("inputs", {}).get("items", {}).get("sha256")
    if told is not None and told != checksum(items):
        raise UserError(f"{path}: was made from other titles than {items} has now; make the features again (stage 1)")


def load_features(path: Path, n_items: int) -> torch.Tensor:
    """Load features as (n_items, width) float32, row = zero-based item id.

    The JSON beside the file is checked where it stands; published files come without one, and their
    rows are taken as items 0, 1, …

    Raises:
        UserError: missing file, wrong number of rows, other item ids, changed since written, not finite.
    """
    check_there(path)
    features = load_published(path)
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        raise UserError(f"{path}: holds no tensor of (items, width)")
    if len(features) != n_items:
        raise UserError(f"{path}: has {len(features)} rows, the data set has {n_items} items: made from other data")
    described = path.with_suffix(".json")
    if described.is_file():
        about = read_json(described)
        ids: Optional[List[int]] = about.get("item_ids")
        if ids != list(range(n_items)):
            raise UserError(f"{described}: its item ids are not 0 … {n_items - 1}; make the features again")
        if about.get("outputs", {}).get("features", {}).get("sha256") != checksum(path):
            raise UserError(f"{path}: not the file that {described.name} tells of; make the features again")
    features = features.float()
    if not torch.isfinite(features).all():
        raise UserError(f"{path}: holds values that are not finite; make the features again")
    return features
