"""Covers of a raw data set, a folder or an LMDB of pictures by original item id, and the folder covers/ made of them.

The folder appears as a whole. A folder that this step did not make is never replaced.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Sequence, Union

from tqdm import tqdm

from common.covers import SUFFIXES, cover_fault, covers_checksum, describe_cover_faults, pictures_in, read_cover
from common.dataset import cover_path, covers_path
from common.errors import UserError
from common.files import atomic_folder, checksum
from importers.drawn_covers import draw_cover
from importers.raw import RawData
from importers.settings import Settings

JPEG = b"\xff\xd8\xff"  # its first bytes
MARK = ".made_by_prepare_dataset"


@dataclass(frozen=True)
class Covers:
    """Pictures by name.

    Attributes:
        path: folder or LMDB.
        checksum: changes when the pictures do.
        find: name → the picture's file or content; None if there is none.
    """

    path: Path
    checksum: str
    find: Callable[[str], Union[Path, bytes, None]]

    def save(self, name: str, target: Path, side: int) -> None:
        """Write a picture as JPEG. A JPEG is linked or copied, unless it has to fit into ``side`` pixels (0: any)."""
        found = self.find(name)
        if isinstance(found, Path) and found.suffix.lower() in SUFFIXES[:2] and not side:
            link(found, target)
        elif isinstance(found, bytes) and found.startswith(JPEG) and not side:
            target.write_bytes(found)
        elif found is not None:
            picture = read_cover(found)
            picture.thumbnail((side or picture.width, side or picture.height))
            picture.save(target, format="JPEG", quality=90)


def open_covers(path: Path) -> Optional[Covers]:
    """Open a folder of pictures or an LMDB (a folder with data.mdb, a file .lmdb or .mdb); None if there is none."""
    data = path / "data.mdb" if path.is_dir() else path
    if data.is_file() and data.suffix in (".lmdb", ".mdb"):
        return Covers(path, find=_open_lmdb(path, data), checksum=checksum(data))
    pictures = pictures_in(path)
    return Covers(path, covers_checksum(path), pictures.get) if pictures else None


def _open_lmdb(path: Path, data: Path) -> Callable[[str], Optional[bytes]]:
    try:
        import lmdb
    except ImportError as error:
        raise UserError(f"{path}: reading an LMDB needs the package lmdb: pip install lmdb") from error
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir())
        transaction = environment.begin()
    except lmdb.Error as error:
        raise UserError(f"{path}: not an LMDB, or damaged: {error}; download it again") from error
    size, whole = data.stat().st_size, (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:  # reading a mapped file beyond its end kills the process (SIGBUS)
        advice = "download it again, or rewrite it with mdb_copy -c"
        raise UserError(f"{data}: is cut short: {size:,} of {whole:,} bytes; {advice}")

    def find(name: str) -> Optional[bytes]:
        try:
            found: Optional[bytes] = transaction.get(name.encode("utf-8")) if name else None
        except lmdb.BadValsizeError:  # longer than any key
            return None
        except lmdb.Error as error:
            raise UserError(f"{path}: damaged: {error}; download it again") from error
        return found

    return find


def find_covers(settings: Settings, folder: Path, kind: str) -> Optional[Covers]:
    """Find the covers of a source: ``covers_dir``, else beside the files, else (prepared files) those a user added.

    Raw covers are named by original ids, so covers/, which holds ours, cannot be their source.
    """
    ours = covers_path(settings.dataset_dir)
    if settings.covers_dir is not None:
        given = Path(settings.covers_dir)
        found = open_covers(given)
        if found is None:
            fault = "has no .jpg, .png or .webp file" if given.exists() else "no such folder or LMDB"
            raise UserError(f"covers_dir={given}: {fault}; correct it")
    else:
        places = [] if kind == "ml-100k" else [folder / f"{settings.dataset}_{end}" for end in ("cover", "cover1")]
        if kind == "prepared":
            places = [covers_path(folder), *places, *([] if _made_here(ours) else [ours])]
        found = next((covers for covers in map(open_covers, places) if covers), None)
    if kind != "prepared" and found is not None and found.path.resolve() == ours.resolve():
        raise UserError(f"{found.path}: is where this step writes its covers; move it, and set covers_dir=FOLDER")
    return found


def check_source_covers(settings: Settings, covers: Optional[Covers], names: Sequence[str]) -> Dict[int, str]:
    """Position → fault of the covers that cannot be used; empty if there are no covers.

    Raises:
        UserError: there are faults, and ``missing_covers`` is ``stop``.
    """
    if covers is None:
        return {}
    checked = tqdm(names, desc="covers checked", disable=None, unit="cover", leave=False)
    found = {place: cover_fault(covers.find(name)) for place, name in enumerate(checked)}
    faults = {place: fault for place, fault in found.items() if fault}
    if faults:
        message = describe_cover_faults([covers.path / f"{name}.jpg" for name in names], faults)
        if settings.missing_covers == "stop":
            raise UserError(message)
        print(f"warning: left out, and listed in prepare.json: {message}")
    return faults


def make_covers(settings: Settings, covers: Optional[Covers], raw: Optional[RawData], names: Mapping[int, str]) -> None:
    """Write covers/<id>.jpg for the covers ``names`` (by our id), or draw them; without covers, remove the folder."""
    folder = covers_path(settings.dataset_dir)
    if covers is None and raw is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    with atomic_folder(folder) as part:
        for item, name in tqdm(names.items(), desc="covers", disable=None, unit="cover", leave=False):
            if covers is not None:
                covers.save(name, cover_path(part, item), settings.cover_side)
            elif raw is not None:
                genres = [genre for genre in raw.fields["category"][item].split(", ") if genre]
                draw_cover(raw.fields["title"][item], genres).save(cover_path(part, item), quality=90)
        (part / MARK).touch()


def _made_here(covers: Path) -> bool:
    return (covers / MARK).is_file()


def refuse_foreign(covers: Path) -> None:
    """Stop where a folder of covers that this step did not make would be replaced."""
    if covers.is_dir() and not _made_here(covers):
        raise UserError(f"{covers}: holds covers that this step did not make; move them away, or set covers_dir=FOLDER")


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the two are on different disks."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
