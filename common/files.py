"""Files and folders that are whole or absent: atomic writes, one writer per folder, and what made each output."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional

from common.errors import UserError
from common.settings import REPOSITORY

PACKAGES = ("torch", "transformers", "recbole", "optuna", "numpy", "pandas")


@contextmanager
def atomic(path: Path, several_writers: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the name ``path`` when the block ends well.

    A reader sees the old file or the whole new one, also after SIGKILL or a full disk.

    Args:
        several_writers: processes may write the same file at once, all the same content, each by a temporary path of
            its own. Elsewhere one name serves, so that what a kill leaves behind is written over.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{os.getpid() if several_writers else ''}.part")
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
    """Yield an empty folder beside ``path``; it takes the place of ``path`` when the block ends well.

    Whenever it is killed, ``path`` is the old folder, the new one, or absent: never a part of either.
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


def check_folder(path: Path, given: str) -> Path:
    """A file to be written where the user says, if its folder is there; ``given`` names what said so.

    Raises:
        UserError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise UserError(f"{given}: no folder {path.parent}; make it, or correct the path")
    return path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with Unix line ends."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as out:
        out.write(text)


def write_json(path: Path, content: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a broken file is a `UserError` that names file and line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text (a byte-order mark is dropped); a `UserError` for a missing file or wrong encoding."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
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


def recipe(step: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Dict[str, Any]:
    """What an output is made from: the step, the settings that shape it, the inputs' checksums."""
    return {
        "step": step,
        "settings": json.loads(json.dumps(settings)),
        "inputs": {name: {"path": str(path), "sha256": checksum(path)} for name, path in inputs.items()},
    }


def _essence(made_from: Mapping[str, Any]) -> Dict[str, Any]:
    """A recipe without the paths of its inputs: where they lie shapes nothing."""
    inputs = {name: entry["sha256"] for name, entry in made_from.get("inputs", {}).items()}
    return {"step": made_from.get("step"), "settings": made_from.get("settings"), "inputs": inputs}


def digest(made_from: Mapping[str, Any], **more: Any) -> str:
    """Eight hexadecimal digits that tell a recipe, and ``more`` beside it, from any other."""
    text = json.dumps({**_essence(made_from), **more}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings and inputs in which two recipes differ, in words."""
    a, b = _essence(old), _essence(new)
    found = [] if a["step"] == b["step"] else [f"step {a['step']} → {b['step']}"]
    for part in ("settings", "inputs"):
        left, right = a[part] or {}, b[part] or {}
        for key in sorted({*left, *right}):
            if left.get(key) != right.get(key):
                change = f" {left.get(key)!r} → {right.get(key)!r}" if part == "settings" else " changed"
                found.append(f"{key}{change}")
    return ", ".join(found)


def record(
    path: Path, made_from: Mapping[str, Any], outputs: Mapping[str, Path], extra: Optional[Mapping[str, Any]] = None
) -> None:
    """Write the JSON that says what made ``outputs``. It is written last: it makes the step done.

    Outputs are kept by path relative to the record, so that a folder may be moved.
    """
    content = {
        **made_from,
        "outputs": {
            name: {"path": os.path.relpath(out, path.parent), "sha256": checksum(out)} for name, out in outputs.items()
        },
        "commit": commit(),
        "versions": versions(),
        **(extra or {}),
    }
    write_json(path, content)


def stands(path: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether the record at ``path`` tells of the same recipe and its outputs are there, unchanged.

    Prints why a step that was done before has to be done again.
    """
    if not path.is_file():
        return False
    try:
        old = read_json(path)
        changed = differences(old, made_from)
        outputs = {name: (path.parent / entry["path"], entry["sha256"]) for name, entry in old["outputs"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        print(f"{path} is not a record of this version: the step is done again")
        return False
    if changed:
        print(f"made again, for these differ: {changed}")
        return False
    for name, (out, digest) in outputs.items():
        if not out.exists() or checksum(out) != digest:
            print(f"made again, for {out} is missing or was changed ({name})")
            return False
    return True


def told_to_stand(path: Path, made_from: Mapping[str, Any], what: Path) -> bool:
    """`stands`, and if so, says it of ``what``."""
    found = stands(path, made_from)
    if found:
        print(f"{what}: stands, made from the same")
    return found


@contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for one process; a second one is refused, or waits. The hold ends with the process."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "?"
            raise UserError(
                f"{folder}: process {holder} is writing here; wait for it, stop it, or choose another folder"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield
