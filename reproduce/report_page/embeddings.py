"""Item vectors on their first two principal components: before and after stage 1, and ADRec's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch

from common.checkpoints import load_checkpoint
from common.dataset import Dataset
from common.features import MODALITIES, features_path, load_features
from common.files import checksum, read_json
from common.runs import MADE
from reproduce.rows import Row


@dataclass
class Plane:
    """Points (n, 2) of some items, the share of variance of both components, and where the vectors come from."""

    points: np.ndarray
    shares: np.ndarray
    source: str


def principal_plane(vectors: torch.Tensor, items: np.ndarray, source: str) -> Plane:
    """Principal components of all vectors (n_items, width) that are not zero; points of some items.

    An item of zeros (it had no cover) is no point: NaN.
    """
    rows = vectors.double().numpy()
    present = rows.any(axis=1)
    mean = rows[present].mean(axis=0)
    centred = rows[present] - mean
    values, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    values, directions = np.maximum(values[::-1], 0), directions[:, ::-1][:, :2]
    points = np.where(present[items, None], (rows[items] - mean) @ directions, np.nan)
    return Plane(points, values[:2] / max(values.sum(), 1e-30), source)


def _told(path: Path) -> str:
    about = path.with_suffix(".json")
    model = read_json(about).get("settings", {}).get("model") if about.is_file() else None
    return f"{path}" + (f", encoder: {model}" if model else "")


def _used(rows: List[Row], modality: str) -> Optional[Tuple[Path, str]]:
    """The features that the first of the runs with this modality was trained on, and their checksum then."""
    for row in rows:
        entry = read_json(row.folders[0] / MADE)["inputs"].get(modality)
        if entry is not None:
            return Path(entry["path"]), entry["sha256"]
    return None


def planes(rows: List[Row], dataset: Dataset, before_dir: Path, items: np.ndarray) -> Dict[str, Dict[str, Plane]]:
    """Modality, or row of ADRec → ``before``, ``after`` → plane, for the vectors that there are.

    Raises:
        UserError: a features file does not fit the data set.
    """
    found: Dict[str, Dict[str, Plane]] = {}
    for modality in MODALITIES:
        used, then = _used(rows, modality) or (features_path(dataset.folder, dataset.name, modality), None)
        for side, path in (("before", features_path(before_dir, dataset.name, modality)), ("after", used)):
            if path.is_file():
                again = side == "after" and then not in (None, checksum(path))
                told = _told(path) + (", made again since the runs were trained" if again else "")
                plane = principal_plane(load_features(path, dataset.n_items), items, told)
                found.setdefault(modality, {})[side] = plane
    for row in rows:
        path = row.folders[0] / "item_embeddings.pth"  # of ADRec's test
        if path.is_file():
            vectors = load_checkpoint(path)["embeddings"]
            found[f"vectors of {row.name}"] = {"after": principal_plane(vectors, items, str(path))}
    return found
