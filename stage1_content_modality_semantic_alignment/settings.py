"""What the scripts of stage 1 share: settings, and where pairs and encoders are. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

from common.dataset import covers_path
from common.errors import UserError
from common.settings import ComputeSettings, setting

LOSSES = {"t2t": {"text"}, "i2i": {"image"}, "t2i": {"text", "image"}}  # term → the modalities that it needs


@dataclass
class StrategySettings(ComputeSettings):
    """Variant and strategy. A strategy is one way of choosing pairs, with all that is made from them."""

    variant: str = setting(
        "paper",
        "paper: faults fixed; released: as the authors' code (docs/deviations.md)",
        choices=("paper", "released"),
    )
    strategy: Optional[str] = setting(
        None, "name of the pairs and of what is made from them; null: the variant", shapes=False
    )

    @property
    def strategy_name(self) -> str:
        """``strategy`` or its default."""
        return self.strategy or self.variant

    @property
    def pairs_folder(self) -> Path:
        """The folder of the strategy's pairs."""
        return pairs_dir(self.dataset_dir, self.strategy_name)


@dataclass
class EncoderSettings(StrategySettings):
    """Which fine-tuned encoders are written or read."""

    finetune_dir: str = setting("finetune_llm", "folder of the fine-tuned encoders, <D>/64/<strategy>/", shapes=False)

    @property
    def encoders_folder(self) -> Path:
        """The folder of the strategy's fine-tuned encoders; 64 is the width of the adapters."""
        return Path(self.finetune_dir) / self.dataset / "64" / self.strategy_name


def pairs_dir(dataset_dir: Path, strategy: str) -> Path:
    """The folder of a strategy's pairs."""
    return dataset_dir / "pairs" / strategy


def local_model(meaning: str, name: str) -> Dict[str, Path]:
    """The input file of an encoder in a local folder; one of the hub is identified by its name alone."""
    return {meaning: Path(name)} if Path(name).is_dir() else {}


def covers_folder(dataset_dir: Path) -> Path:
    """The folder of a data set's covers. Raises `UserError` if there is none."""
    folder = covers_path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put <item>.jpg there, or set modalities=[text]")
    return folder
