"""Covers: their files, how they are decoded, and which of them cannot be used.

Every picture of an item is decoded by `read_cover`, whatever it comes from.
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from common.dataset import LISTED, Dataset, cover_path, covers_path
from common.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case; of files with one name, the first of these is taken


class CoverError(Exception):
    """A cover cannot be used. The text says why, in the same words in every run."""


def read_cover(cover: Union[Path, bytes, None]) -> Image.Image:
    """Decode a picture as RGB: turned as its EXIF data say, white behind transparency, 16-bit grey scaled to 8 bits.

    Args:
        cover: its file or content; None: there is none.

    Raises:
        CoverError: it is missing or does not decode.
    """
    if cover is None or (isinstance(cover, Path) and not cover.is_file()):
        raise CoverError("missing")
    try:
        with Image.open(io.BytesIO(cover) if isinstance(cover, bytes) else cover) as image:
            image.load()
            with suppress(Exception):  # damaged EXIF data turn nothing
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):
                grey = np.asarray(image).clip(0, 0xFFFF)
                grey[grey == image.info.get("transparency")] = 0xFFFF
                return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
            if image.has_transparency_data:
                ground = Image.new("RGBA", image.size, "white")
                ground.alpha_composite(image.convert("RGBA"))
                return ground.convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError as error:  # its text has the address of the bytes
        raise CoverError("does not decode: not a picture of a known format") from error
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        raise CoverError(f"does not decode: {error}") from error


def cover_fault(cover: Union[Path, bytes, None]) -> Optional[str]:
    """Why a cover cannot be used, or None; the whole picture is decoded."""
    try:
        read_cover(cover)
    except CoverError as error:
        return str(error)
    return None


def pictures_in(folder: Path) -> Dict[str, Path]:
    """Name without suffix → file of each picture in a folder."""
    try:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return {file.stem: file for suffix in reversed(SUFFIXES) for file in files if file.suffix.lower() == suffix}


def cover_files(covers: Path, items: Iterable[int]) -> List[Path]:
    """The file of each item's cover in a folder; ``<item>.jpg`` where there is none."""
    paths = [cover_path(covers, item) for item in items]
    found = {} if all(path.is_file() for path in paths) else pictures_in(covers)
    return [found.get(path.stem, path) for path in paths]


def covers_checksum(covers: Path) -> str:
    """SHA-256 of the names and sizes in a folder of covers, not of contents: thousands of files in milliseconds."""
    with os.scandir(covers) as entries:
        pictures = (entry for entry in entries if entry.name.lower().endswith(SUFFIXES))
        listing = sorted(f"{entry.name} {entry.stat().st_size}\n" for entry in pictures)
    return hashlib.sha256("".join(listing).encode("utf-8", "surrogateescape")).hexdigest()


def describe_cover_faults(covers: Sequence[Path], faults: Mapping[int, str]) -> str:
    """How many covers cannot be used, what to do, and the first of them, one per line."""
    listed = [f"\n  {covers[place]}: {fault}" for place, fault in list(faults.items())[:LISTED]]
    more = [f"\n  … and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return (
        f"{covers[0].parent}: {len(faults)} of {len(covers)} covers cannot be used; replace them, or continue without "
        f"them with missing_covers=zero:{''.join(listed + more)}"
    )


def check_covers(dataset: Dataset, without: Collection[int] = ()) -> None:
    """Decode every cover of a data set except those of the items ``without``.

    Raises:
        UserError: no covers at all, or covers that are missing or do not decode: the number, and the first 20.
    """
    if dataset.covers is None:
        raise UserError(
            f"{covers_path(dataset.folder)}: no such folder; put <item>.jpg there, or set modalities=[text]"
        )
    paths = cover_files(dataset.covers, (item for item in range(dataset.n_items) if item not in without))
    checked = tqdm(paths, desc="covers checked", disable=None, unit="cover", leave=False)
    found = {place: cover_fault(path) for place, path in enumerate(checked)}
    faults = {place: fault for place, fault in found.items() if fault}
    if faults:
        raise UserError(describe_cover_faults(paths, faults))
