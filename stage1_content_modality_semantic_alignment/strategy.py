"""Which pairs the steps after them work on, and where the encoders fine-tuned on these lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from common.settings import ComputeSettings, build, setting
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.content_model import ADAPTER_WIDTH


@dataclass
class StrategySettings(ComputeSettings):
    """What the fine-tuning and both exports must agree on."""

    variant: str = setting("paper", "paper, or released: what the authors' code does", choices=("paper", "released"))
    strategy: Optional[str] = setting(
        None, "name of the pairs' folder; null: the one llm_driven_sample.py gives them by its YAML and the variant"
    )
    finetune_dir: str = setting("finetune_llm", "fine-tuned encoders, one folder each data set")

    @property
    def strategy_name(self) -> str:
        """``strategy``, or the name under which the step before wrote."""
        if self.strategy is not None:
            return self.strategy
        told = {"dataset": self.dataset, "variant": self.variant}
        return build(llm_driven_sample.Settings, told, llm_driven_sample.CONFIGS).strategy_name

    @property
    def finetuned_dir(self) -> Path:
        """Where the encoders fine-tuned on the pairs lie."""
        return Path(self.finetune_dir) / self.dataset / str(ADAPTER_WIDTH) / self.strategy_name
