"""The quickstart: both methods and three models to compare on MovieLens 100K, then recommendations for one user.

    make quickstart            # or: python -m reproduce.quickstart

Runs the suite reproduce/suites/quickstart.yaml, prints its table, writes the report, and recommends films to a user.
Texts are encoded by MiniLM (requirements-models.txt); where it is missing, by a small encoder with random weights.
"""

from __future__ import annotations

from common.start import run_script

import os
from typing import List, Optional

import pandas as pd

from common.errors import UserError
from common.named_models import named_model_folder
from common.run import BEST
from common.settings import Parser
from reproduce import report, run
from reproduce.formats import mean_and_std
from reproduce.rows import MASKED, TEST, Results, ResultsSettings, read_results
from reproduce.significance import compare_means, resampled_means
from stage2_sequence_preference_learning import recommend

SUITE, DATASET, USER = "quickstart", "ml-100k", "3"
ADREC = "ADRec, ours"
RANDOM = ["text_model=small", "plm_layer=2"]
NEXT = """Next:
  bash run_train.sh SICSRec ml-100k && bash run_test.sh       # with images too: covers that are drawn from titles
  bash run_train.sh SICSRec Bili_Food data_dir=DIR            # the first real data set; DIR holds NineRec's files"""


def encoder_words() -> List[str]:
    """The settings of small random encoders where MiniLM is missing, with a warning."""
    try:
        named_model_folder("minilm")
    except UserError as error:
        print(f"warning: {error}\nEncoders are small and random here: the numbers below mean nothing.", flush=True)
        return RANDOM
    return []


def table(results: Results) -> str:
    """HIT@10 and NDCG@10 of each row on validation and test, also with the history masked, as Markdown."""
    columns = {"model": [row.name for row in results.rows]}
    for split in ("valid", TEST, MASKED):
        for metric in ("hit@10", "ndcg@10"):
            name = f"{split.replace('_', ', ')} {metric.upper()}"
            columns[name] = [mean_and_std(row.values(split, metric)) for row in results.rows]
    return str(pd.DataFrame(columns).to_markdown(index=False, disable_numparse=True))


def summary(results: Results) -> str:
    """What the table shows of both methods: NDCG@10 on test, with an interval over users."""
    gains = {name: ranks.gains("ndcg@10") for name, ranks in results.ranks(DATASET).items()}
    mean = {name: float(values.mean()) for name, values in gains.items()}
    drawn = resampled_means([gains["SICSRec"], gains["ID_SeqEncoder"]])
    found = compare_means(mean["SICSRec"] - mean["ID_SeqEncoder"], drawn[0], drawn[1])
    place = "above" if found.low > 0 else "below" if found.high < 0 else "level with"
    return (
        f"Test NDCG@10: SICSRec is {place} its ID encoder ({found.difference:+.4f}, 95 % interval over users "
        f"{found.low:+.4f} to {found.high:+.4f}); ADRec, from texts and item vectors, has "
        f"{mean[ADREC] / mean['Pop']:.1f} times Pop's and {mean[ADREC] / mean['SASRec']:.0%} of SASRec's."
    )


def main(argv: Optional[List[str]] = None) -> None:
    """Run, then show."""
    Parser(__doc__).parse_args(argv)
    words = encoder_words()
    run.main([SUITE, f"jobs={min(2, os.cpu_count() or 1)}", *words])
    results = read_results(SUITE, ResultsSettings())
    print(f"\n{table(results)}\n\n{summary(results)}\n")
    (folder,) = (row.folders[0] for row in results.rows if row.name == "SICSRec")
    recommend.main(["-d", DATASET, "--user", USER, "-k", "5", "--checkpoint", str(folder / BEST)])
    print()
    report.main([SUITE])
    print(f"{NEXT}")
    if words:
        print("The encoders were small and random: the numbers above mean nothing.")


if __name__ == "__main__":
    run_script(main)
