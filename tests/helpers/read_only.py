"""Folders in which nothing can be written, for root too, whom file modes do not stop."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Tuple

CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "sqlite3.connect")
_folders: List[str] = []


def _refuse(event: str, arguments: Tuple[Any, ...]) -> None:
    if _folders and (event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))):
        paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))]
        if any(os.path.abspath(path).startswith(folder) for path in paths for folder in _folders):
            raise OSError(30, "Read-only file system")


sys.addaudithook(_refuse)  # it cannot be removed


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Refuse every change below a folder within the block."""
    _folders.append(str(folder))
    try:
        yield
    finally:
        _folders.pop()
