"""The folder covers/ of a prepared data set: it appears whole, and what a user put there is never removed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from common.errors import UserError
from common.files import atomic_folder

MARK = ".made_by_prepare_dataset"


def made_here(covers: Path) -> bool:
    """Whether this step made the folder, and so may replace it."""
    return (covers / MARK).is_file()


def refuse_foreign(covers: Path) -> None:
    """Stop where covers lie that this step did not make and would have to replace."""
    if covers.is_dir() and not made_here(covers):
        raise UserError(f"{covers}: holds covers that this step did not make; move them away, or say covers_dir=FOLDER")


@contextmanager
def new_covers(covers: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``covers`` when the block ends well."""
    with atomic_folder(covers) as part:
        yield part
        (part / MARK).touch()


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the two lie on different disks."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
