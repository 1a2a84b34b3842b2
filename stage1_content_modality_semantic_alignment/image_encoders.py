"""Swin, and covers as its checkpoints read them.

A Swin is in a local folder, on the Hugging Face hub, or ``small``: made here with random weights, without a network.
Covers are resized to the model's square with Pillow's bicubic filter, scaled to 0 … 1 and normalised with ImageNet's
mean and standard deviation, without torchvision: the same bytes with every version of transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
import transformers
from PIL.Image import Resampling
from tqdm import tqdm

from common.covers import CoverError, cover_files, describe_cover_faults, read_cover
from common.dataset import Dataset
from common.errors import UserError
from common.files import recipe, write_json
from common.text_encoders import SMALL, SMALL_WIDTH, load_encoder, small_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_swin(name: str) -> transformers.SwinForImageClassification:
    """A Swin with its classifier, in fp32. Raises `UserError` if it cannot be loaded as such."""
    model: transformers.SwinForImageClassification = load_encoder(
        transformers.SwinForImageClassification, name, "swin", ("classifier.",)
    )
    return model


def image_model_path(name: str, dataset: Dataset, seed: int) -> str:
    """Where to load the image encoder from; ``small`` is made first unless it is up to date."""
    if name != SMALL:
        return name
    folder = dataset.folder / "encoders" / f"swin-small-seed{seed}"
    with small_encoder(folder, recipe("small_swin", {"seed": seed}, {}), seed) as part:
        if part is not None:
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
            transformers.SwinForImageClassification(config).save_pretrained(part)
            write_processor_config(part, config)
    return str(folder)


def write_processor_config(folder: Path, config: Any) -> None:
    """``preprocessor_config.json``, so that AutoImageProcessor prepares images as `normalise` does."""
    side = image_size(config)
    about = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": int(Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    write_json(folder / "preprocessor_config.json", about)


def image_size(config: Any) -> int:
    """The side of the square that a model reads."""
    size = config.image_size
    return int(size if isinstance(size, int) else size[0])


def read_covers(
    covers: Path, items: Sequence[int], side: int, missing_covers: str
) -> Tuple[List[int], List[int], torch.Tensor]:
    """Decode and resize the covers of a folder.

    Returns:
        The items whose cover can be used, those whose cover cannot (S12), and the pixels of the former:
        uint8 (usable, 3, side, side).

    Raises:
        UserError: no cover can be used; or some cannot and ``missing_covers`` is ``stop``: lists them.
    """
    paths = cover_files(covers, items)
    pixels = np.empty((len(items), 3, side, side), dtype=np.uint8)
    faults: Dict[int, str] = {}
    for place, path in enumerate(tqdm(paths, desc="covers decoded", disable=None, unit="cover", leave=False)):
        try:
            resized = read_cover(path).resize((side, side), Resampling.BICUBIC)
            pixels[place] = np.asarray(resized).transpose(2, 0, 1)
        except CoverError as error:
            faults[place] = str(error)
    if faults and missing_covers == "stop":
        raise UserError(describe_cover_faults(paths, faults))
    usable = [place for place in range(len(items)) if place not in faults]
    if not usable:
        raise UserError(f"{covers}: no cover can be used; set modalities=[text]")
    decoded = pixels[usable] if faults else pixels  # no second copy of a whole catalogue
    return [items[p] for p in usable], [items[p] for p in faults], torch.from_numpy(decoded)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, S, S) → float of the same shape, scaled and normalised."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std
