"""Stage 1, step 3: image features of all items, from the fine-tuned Swin.

SICSRec: the classification logits of each cover. Row = zero-based item id, matched by the cover's name: a missing
cover stops the run, or leaves its own row zero (S12); it never shifts the others.

    python stage1_content_modality_semantic_alignment/use_finetune_swinbase.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/use_finetune_swinbase.py -d Bili_Food missing_covers=zero

Reads   <finetune_dir>/<D>/64/<strategy>/swin/, covers of the data set
Writes  <datasets_dir>/<D>/[released/]<D>_image_llm_stage1.pth, float (items, labels), and a JSON that says what made it
        with features_dir=DIR into DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from common import text_encoders
from common.dataset import covers_path, items_path, load_dataset
from common.device import Compute
from common.errors import run_script
from common.settings import parse, setting
from stage1_content_modality_semantic_alignment import image_encoders
from stage1_content_modality_semantic_alignment.covers import image_size, read_covers
from stage1_content_modality_semantic_alignment.feature_export import (
    ExportSettings,
    Features,
    encode_all,
    export_features,
    finetuned_encoder,
)
from stage1_content_modality_semantic_alignment.item_inputs import Covers
from stage1_content_modality_semantic_alignment.strategy import seed_suffix

CONFIGS = Path(__file__).parent / "configs" / "use_finetune_swinbase"


@dataclass
class Settings(ExportSettings):
    """Settings of this step."""

    missing_covers: str = setting(
        "stop", "a cover that cannot be used stops the run; zero: its row is zeros", choices=("stop", "zero")
    )


def run(settings: Settings, force: bool = False) -> None:
    """Do the step, or say that its output stands. Raises `UserError` for bad input."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    if settings.model_path is None:
        path = str(finetuned_encoder(settings, "swin"))
    else:
        path = image_encoders.image_model_path(settings.model_path, dataset, settings.seed)

    def encode(compute: Compute) -> Features:
        swin = image_encoders.load_swin(path)
        torch.nn.Module.to(swin, compute.device)
        items, missing, pixels = read_covers(
            dataset, range(dataset.n_items), image_size(swin.config), settings.missing_covers
        )

        def logits(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = swin(pixel_values=images).logits  # (B, labels)
            return out

        return Features(items, encode_all(logits, Covers(pixels), settings.export_batch_size, compute), missing)

    shaping: Dict[str, Any] = {"model": settings.model_path or "fine-tuned", "missing_covers": settings.missing_covers}
    if settings.model_path is not None and seed_suffix(settings.seed):
        shaping["seed"] = settings.seed  # a classifier that such an encoder lacks starts at random
    inputs = {"items": items_path(dataset.folder, dataset.name), **text_encoders.model_inputs("model", path)}
    if dataset.covers is not None:
        inputs["covers"] = covers_path(dataset.folder)
    export_features(settings, dataset, "image", shaping, inputs, encode, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
