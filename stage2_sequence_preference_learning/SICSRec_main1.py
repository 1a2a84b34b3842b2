"""Step 2 of stage 2: train SICSRec from the ID encoder of step 1.

    python stage2_sequence_preference_learning/SICSRec_main1.py -d Bili_Food
    python stage2_sequence_preference_learning/SICSRec_main1.py -d Bili_Food n_trials=10    # searches α
    torchrun --nproc_per_node=2 stage2_sequence_preference_learning/SICSRec_main1.py -d Bili_Food

Reads:  the prepared data set; <D>_text_llm_stage1.pth and <D>_image_llm_stage1.pth, as modalities says;
        pretrain_id=FILE, an ID encoder of this project or a published one; without it step 1 is trained first
Writes: <results_dir>/SICSRec/<D>/<run>/ (common/run.py lists the files); a search: see search.py
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import fields, replace
from pathlib import Path
from typing import List, Optional

from common.errors import UserError
from common.run import Run
from common.settings import ComputeSettings, build, parse, typed
from stage2_sequence_preference_learning import id_encoder_main1
from stage2_sequence_preference_learning.settings import (
    N_TRIALS,
    PRETRAIN_ID,
    PROPS,
    IDSettings,
    NetworkSettings,
    SICSRecSettings,
    model_option,
)

Settings = SICSRecSettings
CONFIGS = PROPS / "SICSRec"
OF_BOTH_STEPS = sorted(
    {"results_dir", "batch_by", *(f.name for schema in (NetworkSettings, ComputeSettings) for f in fields(schema))}
)


def train(settings: SICSRecSettings, force: bool = False) -> Path:
    """Train and test, unless the run is up to date; with ``n_trials`` search first. Returns the run's folder."""
    if settings.n_trials:
        from stage2_sequence_preference_learning.search import search

        settings = search("SICSRec", settings, train, force)
    if settings.pretrain_id is None:
        settings.input_files()  # missing features are an error before step 1, not after it
        print("step 1: ID_SeqEncoder; pretrain_id=FILE uses a trained one")
        settings = replace(settings, pretrain_id=str(id_encoder_main1.train(id_settings(settings)) / "best.pth"))
    with Run("SICSRec", settings, settings.input_files(), force) as run:
        if run.finished:
            return run.folder
        from common.training import fit, test
        from stage2_sequence_preference_learning.checkpoints import load_id_encoder
        from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
        from stage2_sequence_preference_learning.models import SICSRec

        data = load_splits(settings)
        model = SICSRec(settings, data).to(run.compute.device)
        load_id_encoder(model, run)
        batch_size, seed = settings.train_batch_size, settings.seed
        train_rows = TrainLoader(data.train, batch_size, seed, run.processes, str(settings.batch_by))
        fit(model, train_rows, EvalLoader(data.valid, data.n_items, run.processes), settings, run)
        test(model, EvalLoader(data.test, data.n_items, run.processes), run)
    return run.folder


def id_settings(settings: SICSRecSettings) -> IDSettings:
    """Step 1's settings: those that both steps share (S7), and ``step_1`` over step 1's own YAML.

    Raises:
        UserError: ``step_1`` holds a setting that both steps share.
    """
    shared = {name: getattr(settings, name) for name in OF_BOTH_STEPS}
    own = typed(IDSettings, settings.step_1, "step_1")
    for key, value in own.items():
        if key in shared and value != shared[key]:
            raise UserError(f"step 1: {key}={value}: both steps need the same; {key}=VALUE sets it for both")
    return build(IDSettings, {**own, **shared}, id_encoder_main1.CONFIGS)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    command = parse(Settings, __doc__, CONFIGS, argv, [model_option("SICSRec")], [N_TRIALS, PRETRAIN_ID])
    train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
