"""Which pairs the fine-tuning and the exports use, and where the fine-tuned encoders are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from common.settings import ComputeSettings, setting
from stage1_content_modality_semantic_alignment.losses import LOSSES
from stage1_content_modality_semantic_alignment.paths import encoders_dir, strategy_of


def seed_suffix(seed: int) -> str:
    """What a seed other than the usual adds to names, so that what several seeds make lies side by side."""
    return "" if seed == ComputeSettings.seed else f"-seed{seed}"


@dataclass
class StrategySettings(ComputeSettings):
    """What the fine-tuning and both exports must agree on."""

    variant: str = setting("paper", "paper, or released: what the authors' code does", choices=("paper", "released"))
    strategy: Optional[str] = setting(None, "name of the folder of the pairs; null: the variant")
    losses: List[str] = setting(
        list(LOSSES),
        "terms of the fine-tuning's loss; ablations: fewer of them, or [], which leaves the encoders as they were "
        "pretrained: no stage 1",
        choices=LOSSES,
    )
    finetune_dir: str = setting("finetune_llm", "fine-tuned encoders, one folder each data set")

    @property
    def tuned_modalities(self) -> List[str]:
        """What the encoders are fine-tuned on."""
        raise NotImplementedError

    @property
    def encoders_name(self) -> str:
        """The strategy, an ablation's losses, one modality alone, a seed of one's own: ``tfidf-t2t-text-seed7``.

        Without losses it begins with ``pretrained``: the pairs do not matter then.
        """
        kept = [loss for loss in LOSSES if loss in self.losses]
        name = strategy_of(self) if kept else "pretrained"
        alone = f"-{self.tuned_modalities[0]}" if len(self.tuned_modalities) == 1 else ""
        seed = "" if name.endswith(seed_suffix(self.seed)) else seed_suffix(self.seed)  # drawn pairs have it already
        return name + ("" if len(kept) in (0, len(LOSSES)) else f"-{'+'.join(kept)}") + alone + seed

    @property
    def finetuned_dir(self) -> Path:
        """The folder of the encoders fine-tuned on the pairs."""
        return encoders_dir(Path(self.finetune_dir), self.dataset, self.encoders_name)
