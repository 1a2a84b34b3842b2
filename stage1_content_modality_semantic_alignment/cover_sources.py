"""Where covers come from: a folder of pictures, or an LMDB of them, both by the item's original id."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Dict, Optional, Union

from PIL import Image

from common.dataset import covers_checksum, picture_fault
from common.errors import UserError
from common.files import checksum
from stage1_content_modality_semantic_alignment.covers_folder import link

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # the first that is there counts


class Covers:
    """Pictures by name. ``path`` is where they lie."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def picture(self, name: str) -> Optional[Union[Path, bytes]]:
        """The picture's file or content; None where there is none."""
        raise NotImplementedError

    def checksum(self) -> str:
        """What tells whether the pictures changed."""
        raise NotImplementedError

    def fault(self, name: str) -> Optional[str]:
        """Why a picture cannot be used, or None: it is decoded whole."""
        found = self.picture(name)
        return "missing" if found is None else picture_fault(io.BytesIO(found) if isinstance(found, bytes) else found)

    def save(self, name: str, target: Path, side: int) -> None:
        """Put a picture to ``target`` as JPEG: a JPEG as it is, unless it is to fit into ``side`` pixels (0: any)."""
        found = self.picture(name)
        if isinstance(found, Path) and found.suffix.lower() in SUFFIXES[:2] and not side:
            link(found, target)
        elif found is not None:
            with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as image:
                if not side and image.format == "JPEG" and isinstance(found, bytes):
                    target.write_bytes(found)
                    return
                picture = image.convert("RGB")
                picture.thumbnail((side or picture.width, side or picture.height))
                picture.save(target, format="JPEG", quality=90)


class _Folder(Covers):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._found: Dict[str, Path] = {}
        for suffix in SUFFIXES:
            for file in sorted(path.glob(f"*{suffix}")):
                self._found.setdefault(file.name[: -len(suffix)], file)

    def picture(self, name: str) -> Optional[Path]:
        return self._found.get(name)

    def checksum(self) -> str:
        return covers_checksum(self.path, SUFFIXES)


class _Lmdb(Covers):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import lmdb
        except ImportError as error:
            raise UserError(f"{path}: an LMDB needs a package that is not installed: pip install lmdb") from error
        try:
            self._environment: Any = lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir())
        except lmdb.Error as error:
            raise UserError(f"{path}: not an LMDB, or damaged: {error}; fetch it again") from error

    def picture(self, name: str) -> Optional[bytes]:
        with self._environment.begin() as transaction:
            found: Optional[bytes] = transaction.get(name.encode("utf-8")) if name else None
            return found

    def checksum(self) -> str:
        return checksum(self.path / "data.mdb" if self.path.is_dir() else self.path)


def open_covers(path: Path) -> Optional[Covers]:
    """The covers in a folder or an LMDB (a folder with data.mdb, or a file .lmdb or .mdb); None where none are."""
    if (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".lmdb", ".mdb")):
        return _Lmdb(path)
    try:
        found = any(file.suffix in SUFFIXES for file in path.iterdir()) if path.is_dir() else False
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _Folder(path) if found else None
