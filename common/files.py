"""Files and folders that are complete or absent: atomic writes, one writer per folder, records of what made what."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional

from common.errors import UserError
from common.settings import LONGEST_NAME, REPOSITORY

VERSION = "0.2.0"  # of the code; with another version nothing is up to date
PACKAGES = ("torch", "transformers", "recbole", "optuna", "numpy", "pandas")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is renamed to ``path`` when the block ends without an error.

    A reader sees the old file or the whole new one, also after SIGKILL or a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder may not exist
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it replaces ``path`` when the block ends without an error.

    After a kill ``path`` is the old folder, the new one, or absent, never a part of either.
    """
    path = Path(path)
    temporary, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    try:
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def file_name(text: str) -> str:
    """``text`` as a part of a file's name: unusual signs become ``-``, a long text is cut and ends in its digest."""
    name = re.sub(r"[^\w.+=@-]+", "-", text).encode()
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 9] + f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}".encode()
    return name.decode(errors="ignore")  # a letter may be cut in two


def check_folder(path: Path, given: str) -> Path:
    """The path of a file to write, if its folder exists; ``given`` is the option or setting that names it.

    Raises:
        UserError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise UserError(f"{given}: no folder {path.parent}; create it, or correct the path")
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. One that has this content already is left: it may be read-only."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a broken file is a `UserError` that names file and line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error


def read_bytes(path: Path) -> bytes:
    """Read a file; a `UserError` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text (a byte-order mark is dropped); a `UserError` for a missing file or wrong encoding."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; convert it, for example with iconv -t UTF-8") from error


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents in sorted order."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            digest.update(f"{file.relative_to(path)} {checksum(file)}\n".encode())
        return digest.hexdigest()
    try:
        stat = path.stat()
        return _sha256(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the code that runs, with ``+`` where the work tree differs; ``unknown`` outside git."""
    try:
        where = ["git", "--no-optional-locks", "-C", str(REPOSITORY)]  # a killed run leaves no index.lock
        head = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def versions() -> Dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


Recipe = Dict[str, Any]  # step, version, settings, inputs: what an output is made from


def recipe(step: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Recipe:
    """What an output is made from: the step, the code's version, the settings that shape it, the inputs' checksums."""
    return {
        "step": step,
        "version": VERSION,
        "settings": json.loads(json.dumps(settings)),
        "inputs": {name: {"path": str(path), "sha256": checksum(path)} for name, path in inputs.items()},
    }


def _shaping(made_from: Recipe) -> Dict[str, Any]:
    """A recipe without the paths of its inputs, which shape nothing."""
    inputs = {name: entry["sha256"] for name, entry in made_from["inputs"].items()}
    return {**{key: made_from.get(key) for key in ("step", "version", "settings")}, "inputs": inputs}


def digest(made_from: Recipe) -> str:
    """Eight hexadecimal digits that identify a recipe."""
    return hashlib.sha256(json.dumps(_shaping(made_from), sort_keys=True).encode()).hexdigest()[:8]


def differences(old: Recipe, new: Recipe) -> str:
    """Where two recipes differ, such as ``seed 1 → 2, pairs changed``; empty if they are the same."""
    a, b = _shaping(old), _shaping(new)
    found = [f"{key} {a[key]} → {b[key]}" for key in ("step", "version") if a[key] != b[key]]
    for part in ("settings", "inputs"):
        for key in sorted({*a[part], *b[part]}):
            if a[part].get(key) != b[part].get(key):
                change = f" {a[part].get(key)!r} → {b[part].get(key)!r}" if part == "settings" else " changed"
                found.append(f"{key}{change}")
    return ", ".join(found)


def record(
    path: Path, made_from: Recipe, outputs: Mapping[str, Path], extra: Optional[Mapping[str, Any]] = None
) -> None:
    """Write the JSON that says what made ``outputs``. It is written last: from then on the step is up to date.

    The paths of outputs are relative to the record, so that a folder may be moved.
    """
    content = {
        **made_from,
        "digest": digest(made_from),
        "outputs": {
            name: {"path": os.path.relpath(out, path.parent), "sha256": checksum(out)} for name, out in outputs.items()
        },
        "commit": commit(),
        "versions": versions(),
        **(extra or {}),
    }
    write_json(path, content)


def up_to_date(path: Path, made_from: Recipe, tell: bool = True) -> bool:
    """Whether the record at ``path`` has the same recipe and its outputs are unchanged.

    Args:
        tell: if it is not, print why. The look before a lock does not, because the one under the lock does.
    """
    if not path.is_file():
        return False
    why = _why_not(path, made_from)
    if why and tell:
        print(why)
    return not why


def _why_not(path: Path, made_from: Recipe) -> str:
    try:
        old = read_json(path)
        changed = differences(old, made_from)
        outputs = {name: (path.parent / entry["path"], entry["sha256"]) for name, entry in old["outputs"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return f"{path}: not a record of this version, so the step is done again"
    if changed:
        return f"{path.parent}: done again, because of {changed}"
    for name, (out, sha256) in outputs.items():
        if not out.exists() or checksum(out) != sha256:
            return f"{path.parent}: done again, because {out} ({name}) is missing or was changed"
    return ""


@contextmanager
def making(path: Path, made_from: Recipe, force: bool = False) -> Iterator[bool]:
    """Lock the folder of the record at ``path`` and yield whether its outputs must be made.

    Without ``force``, outputs that are up to date need no lock: their folder may be read-only.
    """
    if not force and up_to_date(path, made_from, tell=False):
        print(f"{path} is up to date")
        yield False
        return
    with exclusive(path.parent):
        yield force or not up_to_date(path, made_from)  # another process may have made them meanwhile


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for one process; a second one waits. The lock ends with the process.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"{folder}: process {lock.read().strip() or '?'} is writing here; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield
