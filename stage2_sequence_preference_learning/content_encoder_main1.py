"""Baseline of stage 2: train the content branch alone, on stage 1's features.

    python stage2_sequence_preference_learning/content_encoder_main1.py -d Bili_Food

Reads:  <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
        <D>_text_llm_stage1.pth and <D>_image_llm_stage1.pth, as far as modalities names them
Writes: <results_dir>/Content_SeqEncoder/<D>/<run>/ with best.pth, last.pth, metrics.json, ranks.csv,
        settings.yaml, train.log and TensorBoard's curves
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from common.errors import run_script
from common.settings import parse
from stage2_sequence_preference_learning.settings import PROPS, ContentSettings
from stage2_sequence_preference_learning.spine import train

Settings = ContentSettings
CONFIGS = PROPS / "Content_SeqEncoder"


def run(settings: Settings, force: bool = False) -> Path:
    """Train, or go on, or skip; returns the run's folder."""
    return train("Content_SeqEncoder", settings, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
