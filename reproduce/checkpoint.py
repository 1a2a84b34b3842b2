"""Recommend or evaluate with the checkpoint of any model, baselines and your own models included.

    python -m reproduce.checkpoint recommend SASRec -d Bili_Food --user 3 -k 10
    python -m reproduce.checkpoint evaluate mine.py:MyRec -d Bili_Food --checkpoint results/…/best.pth --scores out.npy

Without --checkpoint, recommend takes the model's run that is best on validation. The words after MODEL are those of
recommend.py and evaluate.py; --help after MODEL lists them.
"""

from __future__ import annotations

from common.start import run_script

import sys
from typing import TYPE_CHECKING, List, Mapping, Optional, Type

from common.errors import UserError
from common.settings import Parser
from reproduce.baseline import find
from reproduce.pipeline import PIPELINES, pipeline

if TYPE_CHECKING:
    from stage2_sequence_preference_learning.ranking_model import RankingModel


def name_of(model: str) -> str:
    """The name of MODEL. Raises `UserError` if it is unknown or has no checkpoint."""
    name = pipeline(model)[-1].name
    if name == "Scores":
        raise UserError("Scores: has no checkpoint; name another model")
    return name


def models_of(model: str) -> Mapping[str, Type[RankingModel]]:
    """The models of stage 2 that a checkpoint of MODEL may hold, by name."""
    from reproduce.baselines.ensemble import MODELS

    return find(model).models() if ".py:" in model else MODELS


def main(argv: Optional[List[str]] = None) -> None:
    """Find the model, and pass the other words on."""
    words = sys.argv[1:] if argv is None else argv
    parser = Parser(__doc__)
    parser.add_argument("what", choices=("recommend", "evaluate"))
    parser.add_argument("model", metavar="MODEL", help=f"{', '.join(PIPELINES)}, or FILE.py:CLASS")
    what = parser.parse_args(words[:2]).what
    model = name_of(words[1])
    if model == "ADRec" and what == "evaluate":
        raise UserError("evaluate ADRec: use python adrec/test_main.py -d DATASET")
    if model == "ADRec":
        from adrec import recommend as of_adrec

        of_adrec.main(words[2:])
        return
    from stage2_sequence_preference_learning import evaluate, recommend

    models = models_of(words[1])
    if what == "evaluate":
        evaluate.main(words[2:], models)
    else:
        recommend.main(words[2:], model, models)


if __name__ == "__main__":
    run_script(main)
