"""Covers as the Swin checkpoints' image processor prepares them, without torchvision.

Resized to the model's square with Pillow's bicubic filter, scaled to 0 … 1, normalised with ImageNet's
mean and standard deviation: the same bytes with every version of transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common.covers import cover_fault, describe_cover_faults
from common.dataset import cover_path
from common.errors import UserError
from common.files import write_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_size(config: Any) -> int:
    """The side of the square that a model reads."""
    size = config.image_size
    return int(size if isinstance(size, int) else size[0])


def write_processor_config(folder: Path, config: Any) -> None:
    """``preprocessor_config.json``, so that AutoImageProcessor prepares images as `normalise` does."""
    side = image_size(config)
    about = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    write_json(folder / "preprocessor_config.json", about)


def _decode(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def read_covers(
    covers: Path, items: Sequence[int], side: int, missing_covers: str
) -> Tuple[List[int], List[int], torch.Tensor]:
    """Decode and resize covers, each once.

    Args:
        covers: their folder.
        missing_covers: ``stop`` or ``zero``.

    Returns:
        The items whose cover can be used, those whose cover cannot (S12), and the pixels of the former:
        uint8 (usable, 3, side, side).

    Raises:
        UserError: no cover can be used; or some cannot and ``missing_covers`` is ``stop``: lists them.
    """
    paths = [cover_path(covers, item) for item in items]
    pixels = np.empty((len(items), 3, side, side), dtype=np.uint8)
    faults: Dict[int, str] = {}
    for place, path in enumerate(tqdm(paths, desc="covers decoded", disable=None, unit="cover", leave=False)):
        try:
            pixels[place] = _decode(path, side)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            faults[place] = cover_fault(path) or f"does not decode: {error}"
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
