"""The settings that both exports share, and which encoder they read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from common.errors import UserError
from common.features import features_dir
from common.files import checksum, read_json
from common.run import MADE
from common.settings import setting
from stage1_content_modality_semantic_alignment.settings import EncoderSettings


@dataclass
class ExportSettings(EncoderSettings):
    """Settings of both exports."""

    model_path: Optional[str] = setting(
        None, "an encoder without fine-tuning: name on the hub, folder, minilm, or small; null: the fine-tuned one"
    )
    features_dir: Optional[str] = setting(
        None, "folder to write to; null: <datasets_dir>/<D>/features/<strategy>", shapes=False
    )
    export_batch_size: int = setting(64, "items per batch", minimum=1, shapes=False)

    @property
    def features_folder(self) -> Path:
        """``features_dir`` or its default."""
        return Path(self.features_dir) if self.features_dir else features_dir(self.dataset_dir, self.strategy_name)

    def encoder(self, part: str) -> str:
        """``model_path``, or the folder of the fine-tuned ``bert`` or ``swin``."""
        return self.model_path or str(self.encoders_folder / part)

    def fine_tuned(self, part: str) -> Dict[str, Any]:
        """The settings that the encoder ``<encoders_folder>/<part>``, ``bert`` or ``swin``, was fine-tuned with.

        Raises:
            UserError: there is no such encoder, or it was changed since.
        """
        folder = self.encoders_folder
        made = read_json(folder / MADE) if (folder / MADE).is_file() else {"outputs": {}}
        if part not in made["outputs"]:
            raise UserError(
                f"{folder}: no fine-tuned {part}; run sft_content_encoder.py with the modality, correct strategy or "
                "finetune_dir, or export another encoder with model_path=NAME"
            )
        if not (folder / part).is_dir() or checksum(folder / part) != made["outputs"][part]["sha256"]:
            raise UserError(f"{folder / part}: not the encoder that {MADE} describes; run sft_content_encoder.py again")
        found: Dict[str, Any] = made["settings"]
        return found
