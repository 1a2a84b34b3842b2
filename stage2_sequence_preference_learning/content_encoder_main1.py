"""Baseline of stage 2: train the content branch alone, on stage 1's features.

    python stage2_sequence_preference_learning/content_encoder_main1.py -d Bili_Food

Reads:  the prepared data set; <D>_text_llm_stage1.pth and <D>_image_llm_stage1.pth, as modalities says
Writes: <results_dir>/Content_SeqEncoder/<D>/<run>/ (common/run.py lists the files)
"""

from __future__ import annotations

from common.start import run_script

from pathlib import Path
from typing import List, Optional

from common.run import Run
from common.settings import parse
from stage2_sequence_preference_learning.settings import N_TRIALS, PROPS, ContentSettings, model_option

Settings = ContentSettings
CONFIGS = PROPS / "Content_SeqEncoder"


def train(settings: ContentSettings, force: bool = False) -> Path:
    """Train and test, unless the run is up to date; with ``n_trials`` search first. Returns the run's folder."""
    if settings.n_trials:
        from stage2_sequence_preference_learning.search import search

        settings = search("Content_SeqEncoder", settings, train, force)
    with Run("Content_SeqEncoder", settings, settings.input_files(), force) as run:
        if run.finished:
            return run.folder
        from common.training import fit, test
        from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
        from stage2_sequence_preference_learning.models import Content_SeqEncoder

        data = load_splits(settings)
        model = Content_SeqEncoder(settings, data).to(run.compute.device)
        batch_size, seed = settings.train_batch_size, settings.seed
        train_rows = TrainLoader(data.train, batch_size, seed, run.processes, str(settings.batch_by))
        fit(model, train_rows, EvalLoader(data.valid, data.n_items, run.processes), settings, run)
        test(model, EvalLoader(data.test, data.n_items, run.processes), run)
    return run.folder


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    command = parse(Settings, __doc__, CONFIGS, argv, [model_option("Content_SeqEncoder")], [N_TRIALS])
    train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
