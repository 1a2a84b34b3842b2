"""The spine of the three trainings: config → seed → data → model → train → evaluate → save."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict

from common.checkpoints import check_weights, load_published
from common.dataset import items_path, load_dataset
from common.device import pick_compute
from common.errors import UserError
from common.features import features_path
from common.files import exclusive, recipe, write_json
from common.processes import Processes, start_processes
from common.runs import METRICS, PROTOCOL, count_parameters, log_to, open_run, run_folder
from common.seeding import seed_everything
from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, inter_files, load_splits
from stage2_sequence_preference_learning.evaluation import test_run
from stage2_sequence_preference_learning.models import SICSRec, model_class
from stage2_sequence_preference_learning.settings import features_folder, recbole_config, resolve_switches, shaping
from stage2_sequence_preference_learning.trainer import SequenceTrainer, ValidationTrainer

CHECKPOINTS = ("id_checkpoint", "text_checkpoint")  # settings that name another run's best.pth


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
    run_dir = run_folder(model_name, settings, made_from)
    with ExitStack() as held:
        if processes.first:
            held.enter_context(exclusive(run_dir))
            open_run(run_dir, made_from, settings, force)
        processes.agree(None)  # the others wait until the folder stands
        if not processes.agree((run_dir / METRICS).is_file()):
            held.enter_context(log_to(run_dir / "train.log", processes.first))
            _train(model_name, settings, compute, run_dir, made_from, processes)
        elif processes.first:
            print(f"{model_name}: {run_dir} stands, nothing to train")
        if settings.test:
            test_run(run_dir, settings.datasets_dir, compute, processes)
    return run_dir


def what_makes(model_name: str, settings: Any, precision: str, n_processes: int) -> Dict[str, Any]:
    """The recipe of a run: settings that shape it, checksums of all its inputs."""
    folder, name = settings.dataset_dir, settings.dataset
    inputs = inter_files(folder / "recbole" / name, name)
    for modality in getattr(settings, "modalities", []):
        path = features_path(features_folder(settings), name, modality)
        if not path.is_file():
            raise UserError(
                f"{path}: no such features; run stage 1, point features_dir=DIR to where they lie, "
                "or choose what there is with modalities=[text] or modalities=[image]"
            )
        inputs[modality] = path
    pretrained = getattr(settings, "pretrain_id", None)
    if pretrained not in (None, "none"):
        inputs["id_encoder"] = Path(pretrained)
    inputs.update({key: Path(getattr(settings, key)) for key in CHECKPOINTS if getattr(settings, key, None)})
    if hasattr(settings, "title_language"):
        inputs["items"] = items_path(folder, name)
    shape = {**shaping(settings), "precision": precision, "processes": n_processes}
    del shape["device"]
    return recipe(model_name, shape, inputs)


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
    parameters = count_parameters(model)
    logger = logging.getLogger()
    logger.info(f"{model_name} on {compute.device} in {compute.precision}: {run_dir}")
    logger.info(f"parameters: {parameters['trained']:,} trained, {parameters['frozen']:,} frozen")

    about = {
        "model": model_name,
        "dataset": settings.dataset,
        "settings": made_from["settings"],
        "inputs": {k: v["sha256"] for k, v in made_from["inputs"].items()},
    }
    trainer_class = SequenceTrainer if any(p.requires_grad for p in model.parameters()) else ValidationTrainer
    trainer = trainer_class(config, model, compute, run_dir, about, processes)
    seed_everything(settings.seed + processes.rank)  # processes draw their own dropout
    if trainer.resume(loader):
        logger.info(f"goes on after epoch {trainer.start_epoch - 1}")
    trainer.fit(loader, valid, verbose=False, show_progress=sys.stderr.isatty() and processes.first)
    trainer.tensorboard.close()
    if processes.first:
        write_json(
            run_dir / METRICS,
            {
                "model": model_name,
                "dataset": settings.dataset,
                "seed": settings.seed,
                "variant": getattr(settings, "variant", None),
                "valid": trainer.best_valid_result,
                "best_epoch": trainer.best_epoch,
                "epochs": len(trainer.train_loss_dict),
                "seconds": round(trainer.seconds, 2),
                "parameters": parameters,
                "protocol": PROTOCOL,
            },
        )


def load_id_encoder(model: SICSRec, path: Path, inputs: Dict[str, Any]) -> None:
    """Start SICSRec's ID branch from an ID encoder's checkpoint, ours or published.

    Raises:
        UserError: it was trained on other data, or lists every weight that is missing, unexpected or of another shape.
    """
    loaded = load_published(path)
    weights = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not weights:
        raise UserError(f"{path}: holds no 'state_dict'; give pretrain_id the checkpoint of an ID_SeqEncoder")
    trained_on = loaded.get("about", {}).get("inputs", {})  # published files do not tell
    for split, sha256 in trained_on.items():
        if inputs[split]["sha256"] != sha256:
            raise UserError(f"pretrain_id={path}: was trained on another {split} split; train the ID encoder again")
    check_weights(model.id_encoder_state(), weights, f"pretrain_id={path}")
    model.load_id_encoder(weights)
