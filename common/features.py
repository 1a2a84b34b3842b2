"""Item features between stage 1 and stage 2: ``<D>_{text,image}_llm_stage1.pth`` and the JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence

from common.errors import UserError
from common.files import Recipe, checksum, read_json, record

if TYPE_CHECKING:  # torch is imported where it is needed: settings need the paths alone
    import torch

MODALITIES = ("text", "image")


def features_path(folder: Path, dataset: str, modality: str) -> Path:
    """``modality`` is ``text`` or ``image``."""
    return Path(folder) / f"{dataset}_{modality}_llm_stage1.pth"


def features_dir(dataset_dir: Path, strategy: str) -> Path:
    """Where stage 1 writes the features of a strategy."""
    return Path(dataset_dir) / "features" / strategy


def save_features(path: Path, features: torch.Tensor, made_from: Recipe, zero_rows: Sequence[int] = ()) -> None:
    """Save float features (n_items, width), row = zero-based item id, and what made them.

    Args:
        zero_rows: items that had no input and have zeros (S12).

    Raises:
        UserError: a value is not finite.
    """
    import torch

    from common.checkpoints import save_checkpoint

    features = features.detach().to("cpu", torch.float32).contiguous().clone()
    if not torch.isfinite(features).all():
        rows = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
        raise UserError(f"{path}: not written: the features of items {rows[:20]} are not finite; use precision=fp32")
    save_checkpoint(path, features)
    extra = {"item_ids": list(range(len(features))), "shape": list(features.shape), "zero_rows": list(zero_rows)}
    record(path.with_suffix(".json"), made_from, {"features": path}, extra)


def check_there(path: Path) -> None:
    """Raise a `UserError` if a file of features is missing."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such features; run stage 1, set features_dir=DIR to their folder, use one modality "
            "(modalities=[text]), or make stand-ins from titles (python -m reproduce.standin)"
        )


def check_made_from(path: Path, items: Path) -> None:
    """Raise a `UserError` if the JSON beside the features, where there is one, names another file of items."""
    described = path.with_suffix(".json")
    about = read_json(described) if described.is_file() else {}
    made_from = about.get("inputs", {}).get("items", {}).get("sha256")
    if made_from is not None and made_from != checksum(items):
        raise UserError(f"{path}: made from other titles than those of {items}; make the features again (stage 1)")


def load_features(path: Path, n_items: int) -> torch.Tensor:
    """Load features: (n_items, width) float32, row = zero-based item id.

    Published files have no JSON beside them; their rows are items 0, 1, …

    Raises:
        UserError: missing file, wrong number of rows, other item ids, changed since written, not finite.
    """
    import torch

    from common.checkpoints import load_published

    check_there(path)
    features = load_published(path, mmap=True)
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        raise UserError(f"{path}: not a tensor of shape (items, width); give a file of stage 1")
    if len(features) != n_items:
        raise UserError(f"{path}: {len(features)} rows, but the data set has {n_items} items; make the features again")
    described = path.with_suffix(".json")
    if described.is_file():
        about = read_json(described)
        ids: Optional[List[int]] = about.get("item_ids")
        if ids != list(range(n_items)):
            raise UserError(f"{described}: its item ids are not 0 … {n_items - 1}; make the features again")
        if about.get("outputs", {}).get("features", {}).get("sha256") != checksum(path):
            raise UserError(f"{path}: not the file that {described.name} describes; make the features again")
    features = features.float()
    if not all(torch.isfinite(value) for value in features.aminmax()):  # without a copy of them
        raise UserError(f"{path}: some values are not finite; make the features again")
    return features
