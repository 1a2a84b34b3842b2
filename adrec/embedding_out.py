"""Item vectors of a trained ADRec: every item's text, encoded once.

    python adrec/embedding_out.py -d Scientific                                  # the run that is best on validation
    python adrec/embedding_out.py -d Scientific --checkpoint results/ADRec/Scientific/RUN/best.pth

Reads:  a run's best.pth and text_encoder/; the data set's item texts
Writes: beside best.pth: item_embeddings.pth and .safetensors, both with "embeddings", float32 (items, d), and
        "item_ids", int64 zero-based (items,); item_embeddings.json, what made them
"""

from __future__ import annotations

from common.start import run_script

from typing import TYPE_CHECKING, List, Optional

from adrec.settings import CHECKPOINT, chosen_checkpoint
from adrec.settings import EncodeSettings as Settings
from common.dataset import Dataset, load_dataset
from common.files import exclusive, recipe, record, up_to_date
from common.item_fields import text_files
from common.settings import parse

if TYPE_CHECKING:
    import torch

    from adrec.checkpoint import Loaded
    from common.compute import Compute


def item_embeddings(loaded: Loaded, dataset: Dataset, compute: Compute, force: bool = False) -> torch.Tensor:
    """The vectors of a data set's items, not normalised: (items, d) float32. Written once, then read.

    Raises:
        UserError: the run has offsets, which belong to item ids, and was trained on other items.
    """
    import torch

    from adrec.data import item_tokens
    from common.checkpoints import load_checkpoint, save_checkpoint, save_tensors

    if loaded.settings.item_offsets:
        loaded.check_data(dataset, "items")
    path, tensors_path, about = (
        loaded.path.with_name(f"item_embeddings.{suffix}") for suffix in ("pth", "safetensors", "json")
    )
    inputs = {"checkpoint": loaded.path, **text_files(dataset.folder, dataset.name)}
    made_from = recipe("embedding_out", {"dataset": dataset.name, "precision": compute.precision}, inputs)
    if force or not up_to_date(about, made_from, tell=False):  # a folder that cannot be written can be read
        with exclusive(loaded.path.parent / ".item_embeddings"):  # training locks the run's folder
            if force or not up_to_date(about, made_from):
                tokens = item_tokens(dataset, loaded.settings, loaded.tokenizer)
                vectors = loaded.encoders.encode_items(tokens, compute)
                tensors = {"embeddings": vectors.cpu(), "item_ids": torch.arange(dataset.n_items)}
                save_checkpoint(path, tensors)
                save_tensors(tensors_path, tensors)
                outputs = {"pth": path, "safetensors": tensors_path}
                record(about, made_from, outputs, {"shape": list(vectors.shape)})
    found: torch.Tensor = load_checkpoint(path)["embeddings"]
    return found.to(compute.device)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line, encode, write."""
    command = parse(Settings, __doc__, None, argv, (CHECKPOINT,))
    settings = command.settings
    checkpoint = chosen_checkpoint(command.arguments.checkpoint, settings.results_dir, settings.dataset)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)

    from adrec.checkpoint import load_encoders
    from common.compute import pick_compute

    compute = pick_compute(settings.device, settings.precision)
    loaded = load_encoders(checkpoint, settings.dataset, settings.datasets_dir, compute)
    vectors = item_embeddings(loaded, dataset, compute, command.force)
    print(f"{checkpoint.with_name('item_embeddings.pth')}: {vectors.shape[0]} items, {vectors.shape[1]} dimensions")


if __name__ == "__main__":
    run_script(main)
