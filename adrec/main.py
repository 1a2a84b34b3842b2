"""Train ADRec: items known by their text alone, four contrastive terms, two momentum queues.

Paper: Tong et al., Knowledge-Based Systems 2025, doi 10.1016/j.knosys.2025.113290.

    python adrec/main.py -d Scientific
    python adrec/main.py -d Scientific plm_layer=12 seed=23
    torchrun --nproc_per_node=2 adrec/main.py -d Scientific      (accelerate launch --multi_gpu does as well)

Reads:  <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv, and <D>_item_fields.csv where there is one
Writes: <results_dir>/ADRec/<D>/<run>/ with best.pth, text_encoder/, last.pth, metrics.json, settings.yaml,
        train.log, tensorboard/; then, through embedding_out.py and test_main.py, item vectors and test metrics
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Dict, List, Optional

from adrec import test_main
from adrec.checkpoint import padding_of, save_text_encoder
from adrec.data import cached_tokens, held_out_rows, item_texts, train_rows
from adrec.evaluation import encode_items, remember_frozen
from adrec.model import ADRec
from adrec.settings import PROPS, SWITCHES, ADRecSettings
from adrec.text_encoder import TextEncoder
from adrec.training import Trainer
from common.dataset import Dataset, load_dataset, sequences_path
from common.device import Compute, pick_compute
from common.errors import run_script
from common.item_fields import text_files
from common.processes import Processes, start_processes
from common.runs import about_run, carry_out, count_parameters, run_recipe, shaping, write_result
from common.seeding import seed_everything
from common.settings import parse, resolve_switches
from common.text_encoders import load_bert, model_inputs, text_model_path

Settings = ADRecSettings
CONFIGS = PROPS


def what_makes(settings: Settings, text_model: str, precision: str, n_processes: int) -> Dict[str, Any]:
    """The recipe of a run: settings that shape it, checksums of all its inputs."""
    home, name = settings.dataset_dir, settings.dataset
    inputs = {"sequences": sequences_path(home), **text_files(home, name), **model_inputs("text_model", text_model)}
    shape = shaping(settings, if_changed=("queues", "frozen_text_layers"))
    return run_recipe("ADRec", shape, inputs, precision, n_processes)


def run(settings: Settings, force: bool = False) -> Path:
    """Train, or go on with a run that was begun, or skip one that is done; then test it. Returns its folder.

    Raises:
        UserError: input is missing or does not fit; another process holds the folder.
    """
    processes = start_processes(settings.device)
    compute = pick_compute(processes.device(settings.device), settings.precision)
    resolve_switches(settings, SWITCHES)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    made = (
        text_model_path(settings.text_model, dataset, settings.title_language, settings.seed) if processes.first else ""
    )
    text_model = processes.agree(made)
    made_from = what_makes(settings, text_model, compute.precision, processes.size)

    def test(run_dir: Path) -> None:
        if processes.first:
            test_main.test_run(run_dir, settings.datasets_dir, compute)
        processes.agree(None)

    return carry_out(
        "ADRec",
        settings,
        made_from,
        force,
        processes,
        lambda run_dir: _train(settings, dataset, text_model, compute, run_dir, made_from, processes),
        test,
    )


def _train(
    settings: Settings,
    dataset: Dataset,
    text_model: str,
    compute: Compute,
    run_dir: Path,
    made_from: Dict[str, Any],
    processes: Processes,
) -> None:
    seed_everything(settings.seed)
    bert, tokenizer = load_bert(text_model, settings.max_text_tokens)
    texts = item_texts(dataset, settings, tokenizer)
    tokens = cached_tokens(texts, tokenizer, settings.max_text_tokens, dataset.folder)
    if processes.first:
        save_text_encoder(bert, tokenizer, run_dir)

    text = TextEncoder(bert, settings.plm_layer, settings.frozen_text_layers)
    used = tokens.vocabulary(tokenizer.pad_token_id)
    vocabulary = text.keep_tokens(used)
    tokens = tokens.renumbered(used)
    model = ADRec(text, settings, dataset.n_items, processes.gather_rows).to(compute.device)
    padding = padding_of(settings, tokenizer, used)
    if settings.frozen_text_layers and settings.train_text and not padding:
        remember_frozen(model, tokens, compute)
    if settings.adapter or not settings.train_text:
        vectors = encode_items(model.query, tokens, compute, **padding)
        model.take_vectors(vectors, fixed=not settings.train_text)
    parameters = count_parameters(model)
    logging.info(f"ADRec on {compute.device} in {compute.precision}: {run_dir}")
    logging.info(
        f"parameters: {parameters['trained']:,} trained, {parameters['frozen']:,} frozen or in the key encoders"
    )

    train = train_rows(dataset, settings.max_seq_length)
    valid = held_out_rows(dataset, "valid", settings.max_seq_length)
    about = about_run(made_from, settings.dataset)
    trainer = Trainer(model, train, valid, tokens, vocabulary, padding, compute, run_dir, about, processes)
    seed_everything(settings.seed + processes.rank)  # processes draw their own dropout
    if trainer.resume():
        logging.info(f"goes on in epoch {trainer.epoch} after step {trainer.step}")
    best = trainer.fit()
    if processes.first:
        found = {**best, "epochs": trainer.epoch + bool(trainer.step)}
        operations = trainer.operations_per_epoch()
        write_result(run_dir, "ADRec", settings, found, trainer.seconds, parameters, operations)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
