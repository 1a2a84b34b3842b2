"""Any model's checkpoint, baselines and models of yours too: what it recommends, or its metrics and scores.

    python -m reproduce.checkpoint recommend SASRec -d Bili_Food --user 3 -k 10
    python -m reproduce.checkpoint evaluate mine.py:MyRec -d Bili_Food --checkpoint results/…/best.pth --scores out.npy

recommend without --checkpoint takes the model's run that is best on validation. What follows MODEL is that of
recommend.py and evaluate.py (add --help there).
"""

from __future__ import annotations

import sys
from typing import List, Optional

from adrec import recommend as adrec_recommend
from common.arguments import Parser
from common.errors import UserError, run_script
from reproduce.steps import PIPELINES, pipeline
from stage2_sequence_preference_learning import evaluate, recommend


def main(argv: Optional[List[str]] = None) -> None:
    """Know the model, and hand the rest on."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 2 or words[0] in ("-h", "--help"):
        parser = Parser(__doc__)
        parser.add_argument("what", choices=("recommend", "evaluate"))
        parser.add_argument("MODEL", help=f"{', '.join(PIPELINES)}, or FILE.py:CLASS")
        parser.parse_args(words)
        return
    what, model, rest = words[0], pipeline(words[1])[-1].name, words[2:]
    if what not in ("recommend", "evaluate") or model == "Scores":
        raise UserError(f"{what} {model}: there are recommend and evaluate, for models with a checkpoint")
    if model == "ADRec":
        if what == "evaluate":
            raise UserError("evaluate ADRec: python adrec/test_main.py -d DATASET tests it")
        adrec_recommend.main(rest)
    elif what == "evaluate":
        evaluate.main(rest)
    else:
        recommend.main(rest, model)


if __name__ == "__main__":
    run_script(main)
