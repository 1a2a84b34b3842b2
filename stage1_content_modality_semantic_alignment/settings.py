"""What the fine-tuning and both exports of features have in common. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

from common.dataset import covers_path
from common.errors import UserError
from common.settings import ComputeSettings, setting
from stage1_content_modality_semantic_alignment.paths import encoders_dir, strategy_of

LOSSES = {"t2t": {"text"}, "i2i": {"image"}, "t2i": {"text", "image"}}  # term → the modalities that it needs


@dataclass
class EncoderSettings(ComputeSettings):
    """Which fine-tuned encoders are written or read."""

    variant: str = setting(
        "paper",
        "paper: faults fixed; released: as the authors' code (docs/deviations.md)",
        choices=("paper", "released"),
    )
    strategy: Optional[str] = setting(
        None, "name of the pairs and of what is made from them; null: paper or released, as variant says", shapes=False
    )
    finetune_dir: str = setting("finetune_llm", "folder of the fine-tuned encoders, <D>/64/<strategy>/", shapes=False)

    @property
    def encoders_folder(self) -> Path:
        """The folder of the strategy's fine-tuned encoders."""
        return encoders_dir(Path(self.finetune_dir), self.dataset, strategy_of(self))


def local_model(meaning: str, name: str) -> Dict[str, Path]:
    """The input file of an encoder in a local folder; one of the hub is identified by its name alone."""
    return {meaning: Path(name)} if Path(name).is_dir() else {}


def covers_folder(dataset_dir: Path) -> Path:
    """The folder of a data set's covers. Raises `UserError` if there is none."""
    folder = covers_path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put <item>.jpg there, or set modalities=[text]")
    return folder
