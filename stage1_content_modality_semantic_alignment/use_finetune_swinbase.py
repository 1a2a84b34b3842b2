"""Stage 1, step 3: image features of all items, from the fine-tuned Swin.

SICSRec: the classification logits of each cover. Row = zero-based item id, matched by the cover's name: a missing
cover stops the run, or leaves its own row zero (S12); it never shifts the others.

    python stage1_content_modality_semantic_alignment/use_finetune_swinbase.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/use_finetune_swinbase.py -d Bili_Food missing_covers=zero

Reads   <finetune_dir>/<D>/64/<strategy>/swin/, covers of the data set
Writes  <datasets_dir>/<D>/features/<strategy>/<D>_image_llm_stage1.pth, float (items, labels), and a JSON that says
        what made it; with features_dir=DIR into DIR
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

from common.dataset import items_path, load_dataset
from common.features import features_path, save_features
from common.files import making, recipe
from common.settings import parse, setting, shaping
from stage1_content_modality_semantic_alignment.exports import ExportSettings
from stage1_content_modality_semantic_alignment.settings import covers_folder, local_model

CONFIGS = Path(__file__).parent / "configs" / "use_finetune_swinbase"


@dataclass
class Settings(ExportSettings):
    """Settings of this step."""

    missing_covers: str = setting(
        "stop", "a cover that cannot be used stops the run; zero: its row is zeros", choices=("stop", "zero")
    )

    def input_files(self) -> Dict[str, Path]:
        """The files that shape the features, by meaning. Raises `UserError` without covers or fine-tuned encoder."""
        if self.model_path is None:
            self.fine_tuned("swin")
        return {
            "items": items_path(self.dataset_dir, self.dataset),
            "covers": covers_folder(self.dataset_dir),
            **local_model("model", self.encoder("swin")),
        }


def run(settings: Settings, force: bool = False) -> None:
    """Write the image features, unless they are up to date."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    path = features_path(settings.features_folder, settings.dataset, "image")
    made_from = recipe("image_features", shaping(settings), settings.input_files())
    with making(path.with_suffix(".json"), made_from, force) as needed:
        if not needed:
            return
        import torch

        from common.compute import pick_compute, seed_everything
        from stage1_content_modality_semantic_alignment.image_encoders import (
            image_model_path,
            image_size,
            load_swin,
            read_covers,
        )
        from stage1_content_modality_semantic_alignment.inputs import Covers, each_item_once

        compute = pick_compute(settings.device, settings.precision)
        seed_everything(settings.seed)  # a classifier without weights starts at random
        swin = load_swin(image_model_path(settings.encoder("swin"), dataset, settings.seed))
        torch.nn.Module.to(swin, compute.device)

        covers, side = covers_folder(settings.dataset_dir), image_size(swin.config)
        usable, missing, pixels = read_covers(covers, range(dataset.n_items), side, settings.missing_covers)
        items = torch.tensor(usable)
        features = torch.zeros(dataset.n_items, swin.config.num_labels or 0)
        for places, images, _ in each_item_once(Covers(pixels), settings.export_batch_size, compute, "covers encoded"):
            with torch.inference_mode(), compute.autocast():
                features[items[places]] = swin(pixel_values=images).logits.float().cpu()  # (B, labels)
        save_features(path, features, made_from, missing)
    zeros = f", zeros for {len(missing)} without a usable cover" if missing else ""
    print(f"written: {path}, {tuple(features.shape)}{zeros}")


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and export."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    run(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
