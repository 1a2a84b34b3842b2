"""Step 1 of stage 2: train the ID encoder alone (SASRec with full cross entropy).

    python stage2_sequence_preference_learning/id_encoder_main1.py -d Bili_Food
    torchrun --nproc_per_node=2 stage2_sequence_preference_learning/id_encoder_main1.py -d Bili_Food

Reads:  the prepared data set (sequential_data.txt, <D>_item_sort.csv)
Writes: <results_dir>/ID_SeqEncoder/<D>/<run>/ (common/run.py lists the files)
"""

from __future__ import annotations

from common.start import run_script

import argparse
from pathlib import Path
from typing import List, Optional

from common.run import Run
from common.settings import parse
from stage2_sequence_preference_learning.settings import PROPS, IDSettings, model_option

Settings = IDSettings
CONFIGS = PROPS / "ID_SeqEncoder"


def train(settings: IDSettings, force: bool = False) -> Path:
    """Train and test, unless the run is up to date. Returns the run's folder."""
    with Run("ID_SeqEncoder", settings, settings.input_files(), force) as run:
        if run.finished:
            return run.folder
        from common.training import fit, test
        from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
        from stage2_sequence_preference_learning.models import ID_SeqEncoder

        data = load_splits(settings)
        model = ID_SeqEncoder(settings, data).to(run.compute.device)
        batch_size, seed = settings.train_batch_size, settings.seed
        train_rows = TrainLoader(data.train, batch_size, seed, run.processes, str(settings.batch_by))
        fit(model, train_rows, EvalLoader(data.valid, data.n_items, run.processes), settings, run)
        test(model, EvalLoader(data.test, data.n_items, run.processes), run)
    return run.folder


def no_search(_: str) -> int:
    """``--n_trials``, which steps with a search take."""
    raise argparse.ArgumentTypeError("the ID encoder has no search; leave it out, or search step 2")


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    n_trials = (("--n_trials",), {"type": no_search, "help": argparse.SUPPRESS})
    command = parse(Settings, __doc__, CONFIGS, argv, [model_option("ID_SeqEncoder"), n_trials])
    train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
