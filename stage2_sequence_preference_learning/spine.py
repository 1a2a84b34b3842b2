"""The spine of the three trainings: config → seed → data → model → train → evaluate → save."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Dict

from common.checkpoints import check_weights, load_published
from common.dataset import items_path, load_dataset
from common.device import pick_compute
from common.errors import UserError
from common.features import check_made_from, check_there, features_path
from common.processes import Processes, start_processes
from common.runs import about_run, carry_out, count_parameters, run_recipe, write_result
from common.seeding import seed_everything
from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, inter_files, load_splits
from stage2_sequence_preference_learning.evaluation import feature_table, test_run
from stage2_sequence_preference_learning.models import SICSRec, model_class
from stage2_sequence_preference_learning.settings import (
    CHECKPOINTS,
    features_folder,
    recbole_config,
    resolve_switches,
    shaping,
)
from stage2_sequence_preference_learning.trainer import SequenceTrainer, ValidationTrainer


def train(model_name: str, settings: Any, force: bool = False) -> Path:
    """Train one model, or go on with a run that was begun, or skip one that is done.

    Args:
        settings: of the model's schema; for SICSRec ``pretrain_id`` is a file or ``none``.

    Returns:
        The run's folder ``<results_dir>/<model>/<dataset>/<run>/``.

    Raises:
        UserError: input is missing or does not fit; another process holds the folder.
    """
    processes = start_processes(settings.device)
    compute = pick_compute(processes.device(settings.device), settings.precision)
    resolve_switches(settings)
    made_from = what_makes(model_name, settings, compute.precision, processes.size)
    return carry_out(
        model_name,
        settings,
        made_from,
        force,
        processes,
        lambda run_dir: _train(model_name, settings, compute, run_dir, made_from, processes),
        lambda run_dir: test_run(run_dir, settings.datasets_dir, compute, processes),
    )


def features_of(settings: Any) -> Dict[str, Path]:
    """The file of each modality in use.

    Raises:
        UserError: it is not there, or was made from other items.
    """
    found = {}
    for modality in getattr(settings, "modalities", []):
        path = features_path(features_folder(settings), settings.dataset, modality)
        check_there(path)
        check_made_from(path, items_path(settings.dataset_dir, settings.dataset))
        found[modality] = path
    return found


def what_makes(model_name: str, settings: Any, precision: str, n_processes: int) -> Dict[str, Any]:
    """The recipe of a run: settings that shape it, checksums of all its inputs."""
    folder, name = settings.dataset_dir, settings.dataset
    inputs = {**inter_files(folder / "recbole" / name, name), **features_of(settings)}
    pretrained = getattr(settings, "pretrain_id", None)
    if pretrained not in (None, "none"):
        inputs["id_encoder"] = Path(pretrained)
    inputs.update({key: Path(getattr(settings, key)) for key in CHECKPOINTS if getattr(settings, key, None)})
    if hasattr(settings, "title_language"):
        inputs["items"] = items_path(folder, name)
    source = model_class(model_name).source
    if source is not None:
        inputs["code"] = source
    return run_recipe(model_name, shaping(settings), inputs, precision, n_processes)


def _train(
    model_name: str, settings: Any, compute: Any, run_dir: Path, made_from: Dict[str, Any], processes: Processes
) -> None:
    config = recbole_config(model_class(model_name), settings, compute.device, run_dir)
    seed_everything(settings.seed)
    config["n_catalogue"] = load_dataset(settings.dataset_dir, settings.dataset).n_items
    train_split, valid_split, _ = load_splits(config)
    loader = TrainLoader(train_split, settings.train_batch_size, settings.seed, processes.rank, processes.size)
    valid = EvalLoader(valid_split, processes.rank, processes.size)

    model = model_class(model_name)(config, train_split).to(compute.device)
    if isinstance(model, SICSRec) and settings.pretrain_id != "none":
        load_id_encoder(model, Path(settings.pretrain_id), made_from["inputs"])
    for modality in train_split.features_read:
        if modality not in made_from["inputs"]:
            raise UserError(
                f"{model_name} reads {modality} features, which modalities={settings.modalities} do not name"
            )
        if feature_table(model.state_dict(), modality) is None:
            kept = f"self.plm_{modality}_embedding = nn.Embedding.from_pretrained(…)"
            raise UserError(
                f"{model_name}: its checkpoint would be without the {modality} features; keep them as {kept}"
            )
    parameters = count_parameters(model)
    logger = logging.getLogger()
    logger.info(f"{model_name} on {compute.device} in {compute.precision}: {run_dir}")
    logger.info(f"parameters: {parameters['trained']:,} trained, {parameters['frozen']:,} frozen")

    about = about_run(made_from, settings.dataset)
    trainer_class = SequenceTrainer if any(p.requires_grad for p in model.parameters()) else ValidationTrainer
    trainer = trainer_class(config, model, compute, run_dir, about, processes)
    seed_everything(settings.seed + processes.rank)  # processes draw their own dropout
    if trainer.resume(loader):
        logger.info(f"goes on after epoch {trainer.start_epoch - 1}")
    try:
        trainer.fit(loader, valid, verbose=False, show_progress=sys.stderr.isatty() and processes.first)
    finally:
        trainer.tensorboard.close()
    if processes.first:
        found = {
            "valid": trainer.best_valid_result,
            "best_epoch": trainer.best_epoch,
            "epochs": len(trainer.train_loss_dict),
        }
        operations = trainer.operations_per_epoch(loader)
        write_result(run_dir, model_name, settings, found, trainer.seconds, parameters, operations)


def load_id_encoder(model: SICSRec, path: Path, inputs: Dict[str, Any]) -> None:
    """Start SICSRec's ID branch from an ID encoder's checkpoint, ours or published.

    Raises:
        UserError: it was trained on other data, or lists every weight that is missing, unexpected or of another shape.
    """
    loaded = load_published(path)
    weights = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not weights:
        raise UserError(f"{path}: holds no 'state_dict'; give pretrain_id the checkpoint of an ID_SeqEncoder")
    about = loaded.get("about", {})  # published files do not tell
    trained = "ADRec" if isinstance(about, str) else about.get("model", "ID_SeqEncoder")
    if trained != "ID_SeqEncoder":
        raise UserError(f"pretrain_id={path}: is a checkpoint of {trained}; give that of an ID_SeqEncoder")
    trained_on = about.get("inputs", {})
    for split, sha256 in trained_on.items():
        if inputs[split]["sha256"] != sha256:
            raise UserError(f"pretrain_id={path}: was trained on another {split} split; train the ID encoder again")
    trained_with = about.get("settings", {})
    sizes = model.sizes
    without_shape = {"n_heads": sizes.heads, "hidden_act": sizes.activation, "layer_norm_eps": sizes.eps}
    for key, here in without_shape.items():
        if trained_with.get(key, here) != here:
            told = f"was trained with {key}={trained_with[key]}, this run has {key}={here}"
            raise UserError(f"pretrain_id={path}: {told}; both steps need the same")
    if "id" not in model.branches:
        weights = {name: w for name, w in weights.items() if not name.startswith(("LayerNorm.", "trm_encoder."))}
    check_weights(model.id_encoder_state(), weights, f"pretrain_id={path}")
    model.load_id_encoder(weights)
