"""Step 1 of stage 2: train the ID encoder alone (SASRec with full cross entropy).

    python stage2_sequence_preference_learning/id_encoder_main1.py -d Bili_Food

Reads:  <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
Writes: <results_dir>/ID_SeqEncoder/<D>/<run>/ with best.pth, last.pth, metrics.json, ranks.csv,
        settings.yaml, train.log and TensorBoard's curves
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from common.errors import run_script
from common.settings import parse
from stage2_sequence_preference_learning.settings import PROPS, IDSettings
from stage2_sequence_preference_learning.spine import train

Settings = IDSettings
CONFIGS = PROPS / "ID_SeqEncoder"


def run(settings: Settings, force: bool = False) -> Path:
    """Train, or go on, or skip; returns the run's folder."""
    return train("ID_SeqEncoder", settings, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
