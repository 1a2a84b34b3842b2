"""Train ADRec: items are known by their text, four contrastive terms, two momentum queues.

Paper: Tong et al., Knowledge-Based Systems 2025, doi 10.1016/j.knosys.2025.113290.

    python adrec/main.py -d Scientific
    python adrec/main.py -d Scientific plm_layer=12 seed=23
    torchrun --nproc_per_node=2 adrec/main.py -d Scientific      # (accelerate launch --multi_gpu works as well)

Reads:  <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv, and <D>_item_fields.csv if there is one
Writes: <results_dir>/ADRec/<D>/<run>/ (common/run.py lists the files), with text_encoder/ (BERT's tokenizer and config)
        and item_embeddings.{pth,safetensors,json} (embedding_out.py)
"""

from __future__ import annotations

from common.start import run_script

from pathlib import Path
from typing import List, Optional

from adrec.settings import ADRecSettings
from common.run import BEST, Run
from common.settings import parse

Settings = ADRecSettings
CONFIGS = Path(__file__).parent / "props"


def train(settings: ADRecSettings, force: bool = False) -> Path:
    """Train and test, unless the run is up to date. Returns the run's folder."""
    with Run("ADRec", settings, settings.input_files(), force) as run:
        if run.finished:
            return run.folder
        from adrec.checkpoint import load_text_encoder
        from adrec.data import Split, TrainLoader, item_tokens, rows_of
        from adrec.encoders import TextEncoder
        from adrec.model import ADRec
        from adrec.test_main import test_checkpoint
        from common.dataset import load_dataset
        from common.splits import split_dataset
        from common.training import fit

        dataset = load_dataset(settings.dataset_dir, settings.dataset)
        bert, tokenizer = load_text_encoder(settings, dataset, run)
        text = TextEncoder(bert, settings.plm_layer, settings.frozen_text_layers)
        vocabulary, tokens = text.keep_tokens(item_tokens(dataset, settings, tokenizer))
        splits = split_dataset(dataset, settings)
        rows, valid_rows = (rows_of(dataset, one, settings.max_seq_length) for one in (splits.train, splits.valid))
        train = TrainLoader(rows, tokens, settings, run.processes)
        valid = Split(valid_rows, tokens)
        counts = rows.target_counts(dataset.n_items)
        model = ADRec(text, vocabulary, settings, counts, run.processes).to(run.compute.device)
        model.compute_constants(tokens, run.compute)
        fit(model, train, valid, settings, run)
        if settings.test and run.processes.first:
            test_checkpoint(run.folder / BEST, settings.dataset, settings.datasets_dir, run.compute)
        run.processes.agree(None)
    return run.folder


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
