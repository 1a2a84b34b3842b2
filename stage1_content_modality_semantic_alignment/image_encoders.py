"""Swin from a local folder, the Hugging Face hub, or ``small``: made here with random weights, without a network."""

from __future__ import annotations

from pathlib import Path

import transformers

from common.checkpoints import full_disk_is_an_error
from common.dataset import Dataset
from common.files import atomic_folder, recipe
from common.text_encoders import SMALL, SMALL_WIDTH, load_encoder, small_encoder
from stage1_content_modality_semantic_alignment.covers import write_processor_config


def load_swin(name: str) -> transformers.SwinForImageClassification:
    """A Swin with its classifier, in fp32.

    Raises:
        UserError: it cannot be loaded, is of another architecture, or lacks weights.
    """
    model: transformers.SwinForImageClassification = load_encoder(
        transformers.SwinForImageClassification, name, "swin", ("classifier.",)
    )
    return model


def save_swin(model: transformers.SwinForImageClassification, folder: Path) -> None:
    """Write model and image processor in Hugging Face format."""
    with atomic_folder(folder) as temporary, full_disk_is_an_error(folder):
        model.save_pretrained(temporary)
        write_processor_config(temporary, model.config)


def _make_small_swin(folder: Path) -> None:
    config = transformers.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 8],
        window_size=4,
        initializer_range=64**-0.5,
    )
    config.num_labels = SMALL_WIDTH
    transformers.SwinForImageClassification(config).save_pretrained(folder)
    write_processor_config(folder, config)


def image_model_path(name: str, dataset: Dataset, seed: int) -> str:
    """Where to load the image encoder from; ``small`` is made first unless it is up to date."""
    if name != SMALL:
        return name
    folder = dataset.folder / "encoders" / f"swin-small-seed{seed}"
    with small_encoder(folder, recipe("small_swin", {"seed": seed}, {}), seed) as part:
        if part is not None:
            _make_small_swin(part)
    return str(folder)
