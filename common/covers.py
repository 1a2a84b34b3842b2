"""Checks of covers: which of them cannot be used, and why."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Collection, Mapping, Optional, Sequence, Tuple, Union

from PIL import Image
from tqdm import tqdm

from common.dataset import LISTED, Dataset, cover_path, covers_path
from common.errors import UserError


def covers_checksum(covers: Path, suffixes: Tuple[str, ...] = (".jpg",)) -> str:
    """SHA-256 of the names and sizes in a folder of covers, not of contents: thousands of files in milliseconds."""
    with os.scandir(covers) as entries:
        listing = sorted(f"{entry.name} {entry.stat().st_size}\n" for entry in entries if entry.name.endswith(suffixes))
    return hashlib.sha256("".join(listing).encode("utf-8", "surrogateescape")).hexdigest()


def cover_fault(cover: Union[Path, BinaryIO]) -> Optional[str]:
    """Why a cover cannot be used, or None; the whole picture is decoded."""
    if isinstance(cover, Path) and not cover.is_file():
        return "missing"
    try:
        with Image.open(cover) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"does not decode: {error}"
    return None


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
    paths = [cover_path(dataset.covers, item) for item in range(dataset.n_items) if item not in without]
    checked = tqdm(paths, desc="covers checked", disable=None, unit="cover", leave=False)
    found = {place: cover_fault(path) for place, path in enumerate(checked)}
    faults = {place: fault for place, fault in found.items() if fault}
    if faults:
        raise UserError(describe_cover_faults(paths, faults))
