"""What the two export scripts share: which encoder to read, and how its vectors become a features file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from tqdm import tqdm

from common.dataset import Dataset
from common.device import Compute, pick_compute
from common.errors import UserError
from common.features import features_path, save_features, variant_dir
from common.files import checksum, exclusive, read_json, recipe, told_to_stand
from common.seeding import seed_everything
from common.settings import build, setting
from stage1_content_modality_semantic_alignment import sft_content_encoder
from stage1_content_modality_semantic_alignment.item_inputs import RawItems, batches_by_length
from stage1_content_modality_semantic_alignment.losses import LOSSES
from stage1_content_modality_semantic_alignment.strategy import StrategySettings, seed_suffix


@dataclass
class ExportSettings(StrategySettings):
    """Settings that both export scripts know."""

    model_path: Optional[str] = setting(
        None, "an encoder that was not fine-tuned: name on the hub, folder, or small; null: the fine-tuned one"
    )
    features_dir: Optional[str] = setting(
        None,
        "folder to write to; null: beside the data, in released/ by variant; losses' or a seed's in their own folder",
    )
    modalities: Optional[List[str]] = setting(
        None,
        "what the encoders were fine-tuned on; null: as sft_content_encoder.py's YAML of the data set says, else both",
        choices=("text", "image"),
    )
    export_batch_size: int = setting(64, "items at once", minimum=1)

    @property
    def tuned_modalities(self) -> List[str]:
        """``modalities``, or those of the step before by its YAML."""
        if self.modalities is not None:
            return self.modalities
        told = {"dataset": self.dataset, "variant": self.variant}
        return build(sft_content_encoder.Settings, told, sft_content_encoder.CONFIGS).modalities

    @property
    def features_folder(self) -> Path:
        """Where the features go, so that those of ablations and variants lie side by side."""
        if self.features_dir is not None:
            return Path(self.features_dir)
        if set(self.losses) == set(LOSSES) and not seed_suffix(self.seed):
            return variant_dir(self.dataset_dir, self.variant)
        return self.dataset_dir / self.encoders_name


def finetuned_encoder(settings: ExportSettings, part: str) -> Path:
    """The folder of the fine-tuned ``bert`` or ``swin``.

    Raises:
        UserError: it was not made, or was changed since.
    """
    folder = settings.finetuned_dir
    about = folder / "sft.json"
    outputs = read_json(about).get("outputs", {}) if about.is_file() else {}
    if part not in outputs:
        raise UserError(
            f"{folder}: holds no fine-tuned {part}; run sft_content_encoder.py, correct strategy, modalities "
            "(as they were there) or finetune_dir, or export another encoder with model_path=NAME"
        )
    if not (folder / part).is_dir() or checksum(folder / part) != outputs[part]["sha256"]:
        raise UserError(
            f"{folder / part}: not the encoder that {about.name} tells of; run sft_content_encoder.py again"
        )
    return folder / part


def finetuned_on(settings: ExportSettings) -> Dict[str, Any]:
    """The settings that shaped the fine-tuned encoder."""
    found: Dict[str, Any] = read_json(settings.finetuned_dir / "sft.json")["settings"]
    return found


def encode_all(
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], raw: RawItems, batch_size: int, compute: Compute
) -> torch.Tensor:
    """Raw inputs (n) → vectors (n, width) on the CPU, in fp32, in batches of similar length."""
    found: Dict[int, torch.Tensor] = {}
    with tqdm(total=len(raw.lengths), desc="items encoded", disable=None, unit="item") as bar, torch.inference_mode():
        for positions in batches_by_length(raw.lengths, batch_size):
            with compute.autocast():
                vectors = encode(*raw.batch(positions, compute.device)).float().cpu()
            found.update(zip(positions, vectors))
            bar.update(len(positions))
    return torch.stack([found[position] for position in range(len(raw.lengths))])


@dataclass(frozen=True)
class Features:
    """Vectors (items, width) of some items by id, and the items that had no input (S12)."""

    items: List[int]
    vectors: torch.Tensor
    missing: List[int]

    def rows(self) -> torch.Tensor:
        """(n_items, width), row = item id; missing items are zeros."""
        rows = torch.zeros(len(self.items) + len(self.missing), self.vectors.shape[1])
        rows[self.items] = self.vectors
        return rows


def export_features(
    settings: ExportSettings,
    dataset: Dataset,
    modality: str,
    shaping: Dict[str, Any],
    inputs: Dict[str, Path],
    encode: Callable[[Compute], Features],
    force: bool,
) -> None:
    """Write the features of one modality, or say that they stand.

    Args:
        shaping: settings that shape the features; ``inputs``: the files they are made from.
    """
    compute = pick_compute(settings.device, settings.precision)
    path = features_path(settings.features_folder, dataset.name, modality)
    made_from = recipe(f"{modality}_features", {**shaping, "precision": compute.precision}, inputs)
    if not force and told_to_stand(path.with_suffix(".json"), made_from, path):
        return
    with exclusive(path.parent / ".locks" / f"{modality}_features"):
        if not force and told_to_stand(path.with_suffix(".json"), made_from, path):  # made by another, just now
            return
        seed_everything(settings.seed)
        features = encode(compute)
        rows = features.rows()
        save_features(path, rows, made_from, features.missing)
    zeros = f", zeros for {len(features.missing)} without a usable cover" if features.missing else ""
    print(f"written: {path}, {rows.shape[0]} x {rows.shape[1]}{zeros}")
