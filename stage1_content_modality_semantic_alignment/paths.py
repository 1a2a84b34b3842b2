"""Where stage 1 keeps its pairs and encoders: plain functions of the data set and the strategy.

A strategy is one way of choosing pairs, with all that is made from them. Features: `common.features.features_dir`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Protocol


class WithStrategy(Protocol):
    """Settings that name a strategy."""

    variant: str
    strategy: Optional[str]


def strategy_of(settings: WithStrategy) -> str:
    """The strategy's name; by default the variant's (``paper`` or ``released``)."""
    return settings.strategy or settings.variant


def pairs_dir(dataset_dir: Path, strategy: str) -> Path:
    """The folder of a strategy's pairs."""
    return dataset_dir / "pairs" / strategy


def encoders_dir(finetune_dir: Path, dataset: str, strategy: str) -> Path:
    """The folder of the encoders fine-tuned on a strategy's pairs; 64 is the width of the adapters."""
    return finetune_dir / dataset / "64" / strategy
