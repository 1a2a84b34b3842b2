"""Item vectors of a trained ADRec: every item's text, encoded once.

    python adrec/embedding_out.py -d Scientific                                  # the run best on validation
    python adrec/embedding_out.py -d Scientific --checkpoint results/ADRec/Scientific/RUN/best.pth

Reads:  a run's best.pth and text_encoder/; the data set's item texts
Writes: beside best.pth: item_embeddings.pth and .safetensors, both with "embeddings", float32 (items, d), and
        "item_ids", int64 zero-based (items,); item_embeddings.json, what made them
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import torch
from safetensors.torch import save_file

from adrec.checkpoint import CHECKPOINT, Loaded, asked_for, load_encoders
from adrec.evaluation import encode_items
from common.checkpoints import full_disk_is_an_error, load_checkpoint, save_checkpoint
from common.dataset import Dataset, items_path, load_dataset
from common.device import Compute, pick_compute
from common.errors import UserError, run_script
from common.files import atomic, checksum, exclusive, recipe, record, stands
from common.item_fields import text_files
from common.settings import PrecisionSettings, parse, setting


@dataclass
class Settings(PrecisionSettings):
    """Where runs lie."""

    results_dir: str = setting("results", "where runs lie")


def item_embeddings(
    loaded: Loaded, dataset: Dataset, checkpoint: Path, compute: Compute, force: bool = False
) -> torch.Tensor:
    """The vectors of a data set's items, not normalised: (items, d) float32. Written once, then read.

    Raises:
        UserError: the run has offsets, which go by item id, and the items are others than it was trained on.
    """
    items = items_path(dataset.folder, dataset.name)
    if loaded.settings.item_offsets and loaded.trained_on.get("items", checksum(items)) != checksum(items):
        told = f"its item_offsets go by item id, and {items} is another than it was trained on"
        raise UserError(f"{checkpoint}: {told}; train again, or correct datasets_dir")
    path = checkpoint.with_name("item_embeddings.pth")
    inputs = {"checkpoint": checkpoint, **text_files(dataset.folder, dataset.name)}
    made_from = recipe("embedding_out", {"dataset": dataset.name, "precision": compute.precision}, inputs)

    def stored() -> Optional[torch.Tensor]:
        if force or not stands(path.with_suffix(".json"), made_from):
            return None
        found: torch.Tensor = load_checkpoint(path)["embeddings"]
        return found.to(compute.device)

    vectors = stored()
    if vectors is not None:  # a folder that cannot be written may be read
        return vectors
    with exclusive(checkpoint.parent / ".item_embeddings", wait=True):  # the run's folder itself is held by a test
        vectors = stored()
        if vectors is not None:  # made by another process, just now
            return vectors
        vectors = encode_items(loaded.encoders, loaded.tokens_of(dataset), compute, **loaded.padding)
        tensors = {"embeddings": vectors.cpu(), "item_ids": torch.arange(dataset.n_items)}
        save_checkpoint(path, tensors)
        with atomic(path.with_suffix(".safetensors")) as temporary, full_disk_is_an_error(path.with_suffix(".safetensors")):
            save_file(tensors, temporary)
        outputs = {"pth": path, "safetensors": path.with_suffix(".safetensors")}
        record(path.with_suffix(".json"), made_from, outputs, {"shape": list(vectors.shape)})
    return vectors


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line, encode, write."""
    parsed = parse(Settings, __doc__, None, argv, (CHECKPOINT,))
    settings = parsed.settings
    compute = pick_compute(settings.device, settings.precision)
    checkpoint = asked_for(parsed.arguments, settings.results_dir, settings.dataset)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    loaded = load_encoders(checkpoint, settings.dataset, settings.datasets_dir, compute)
    vectors = item_embeddings(loaded, dataset, checkpoint, compute, parsed.force)
    print(f"{checkpoint.with_name('item_embeddings.pth')}: {vectors.shape[0]} items, {vectors.shape[1]} wide")


if __name__ == "__main__":
    run_script(main)
