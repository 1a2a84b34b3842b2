"""The Python environment: whether one serves, and making ``.venv`` where none does.

    python3 -m common.environment check  [--dev]    says what is missing; exit 1 if anything is
    python3 -m common.environment ensure [--dev]    prints the interpreter to use; makes .venv first where needed
    python3 -m common.environment make              makes .venv in any case, and prints its interpreter

Read from the environment variables: PYTHON (the interpreter to use, or to make .venv with), VENV (in place of
``.venv``), CONSTRAINTS (in place of the file chosen by the Python version). Standard library only, and nothing newer
than Python 3.8: this runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

REPOSITORY = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 9), (3, 12)
RUN = (REPOSITORY / "requirements.txt",)
DEVELOP = (*RUN, REPOSITORY / "requirements-dev.txt")
CONSTRAINTS = {(3, 9): "paper.txt", (3, 10): "v100.txt", (3, 11): "cpu.txt", (3, 12): "cpu.txt"}
PREFERRED = ("python3.11", "python3", "python3.12", "python3.10", "python3.9", "python")
STATE, UNFINISHED = ".made-by-make", "unfinished"

Version = Tuple[int, int]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. It is a fault where ``cure`` says how to mend it."""

    subject: str
    detail: str
    cure: str = ""
    absent: bool = False  # not there yet, and no fault: a later step makes it


class EnvironmentFault(Exception):
    """No environment can be had; the message holds the cure."""


def check_python() -> Finding:
    """Whether this interpreter's version is one that the packages support."""
    found = ".".join(map(str, sys.version_info[:3]))
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return Finding("Python", found)
    return Finding("Python", f"{found} is not from 3.9 to 3.12", "make an environment with Python 3.11")


def read_requirements(file: Path) -> List[str]:
    """The requirement lines of a file, without comments and options."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def installed_version(package: str) -> Optional[str]:
    """The installed version, or None; a half-removed package counts as not installed."""
    try:
        return metadata.version(package) or None
    except (metadata.PackageNotFoundError, KeyError):
        return None


def check_package(requirement: str) -> Finding:
    """Whether one requirement is installed in a version that it admits."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    wanted = requirement[len(name) :].strip()
    version = installed_version(name)
    cure = f"pip install '{requirement}'"
    if version is None:
        return Finding(name, "not installed", cure)
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return Finding(name, f"{version}, not compared with {wanted}: packaging is missing", "pip install packaging")
    if not Requirement(requirement).specifier.contains(version, prereleases=True):
        return Finding(name, f"{version} is not {wanted}", cure)
    return Finding(name, f"{version:<12} ({wanted})")


def check_project() -> Finding:
    """Whether scripts that are run by path import this checkout's packages, not another's or none."""
    listed = re.search(r"^packages = (\[[^\]]*\])", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    packages = [name for name in json.loads(listed.group(1)) if (REPOSITORY / name).is_dir()] if listed else []
    program = "import sys, importlib.util as u; print([bool(s) and s.origin for s in map(u.find_spec, sys.argv[1:])])"
    run = subprocess.run([sys.executable, "-c", program, *packages], cwd="/", stdout=subprocess.PIPE, text=True)
    if run.stdout.strip() == str([str(REPOSITORY / name / "__init__.py") for name in packages]):
        return Finding("this project", "installed from this folder")
    return Finding("this project", "is not what scripts would import", f"pip install -e {REPOSITORY}")


def check_environment(files: Sequence[Path] = RUN) -> List[Finding]:
    """All findings on this interpreter, its packages and this project."""
    requirements = [line for file in files for line in read_requirements(file)]
    findings = [check_python(), check_project(), *map(check_package, requirements)]
    state = Path(sys.prefix, STATE)
    if state.is_file() and state.read_text() == UNFINISHED:
        findings.append(Finding(sys.prefix, "its installation was interrupted", "run the same make command again"))
    return findings


def serves(python: str, develop: bool) -> bool:
    """Whether that interpreter has all that is needed."""
    command = [python, "-m", "common.environment", "check", *(["--dev"] if develop else [])]
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    except OSError:
        return False


def python_version(python: str) -> Optional[Version]:
    """Major and minor version of an interpreter, or None if it does not run."""
    program = "import sys; print(*sys.version_info[:2])"
    try:
        run = subprocess.run([python, "-c", program], capture_output=True, text=True)
    except OSError:
        return None
    words = run.stdout.split()
    return (int(words[0]), int(words[1])) if run.returncode == 0 and len(words) == 2 else None


def find_python(chosen: Optional[str]) -> Tuple[str, Version]:
    """An interpreter that .venv can be made with, and its version.

    Raises:
        EnvironmentFault: there is none, or it lacks the venv module.
    """
    seen = []
    for python in [chosen] if chosen else PREFERRED:
        version = python_version(python)
        if version is None:
            continue
        if not OLDEST <= version <= NEWEST:
            seen.append(f"{python} is {version[0]}.{version[1]}")
        elif subprocess.run([python, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL).returncode:
            seen.append(f"{python} has no venv module (Debian and Ubuntu: apt-get install python3-venv)")
        else:
            return python, version
    found = "; ".join(seen) or f"{chosen or 'python3'} does not run"
    raise EnvironmentFault(
        f"Python 3.9 to 3.12 is needed, best 3.11, but {found}. Install one, or name it: PYTHON=FILE"
    )


def constraints_for(version: Version) -> Path:
    """The set of exact versions for a Python version, or the one that CONSTRAINTS names."""
    named = os.environ.get("CONSTRAINTS")
    file = Path(named) if named else REPOSITORY / "constraints" / CONSTRAINTS[version]
    if not file.is_file():
        raise EnvironmentFault(f"CONSTRAINTS={named}: no such file; the sets are in constraints/")
    return file.resolve()


def fingerprint(version: Version, constraints: Path) -> str:
    """What an environment is made from: another fingerprint means that it has to be made again."""
    digest = hashlib.sha256(repr(version).encode())
    for file in (*DEVELOP, REPOSITORY / "pyproject.toml", constraints):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_state(folder: Path, state: str) -> None:
    """Note atomically how far the making of the environment has come."""
    temporary = folder / f"{STATE}.part"
    temporary.write_text(state)
    os.replace(temporary, folder / STATE)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let a second make wait until the first has made the environment."""
    handle = os.open(REPOSITORY, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def run_step(command: Sequence[str]) -> None:
    """Run a step of the installation; what it prints goes to stderr, for stdout holds the interpreter's path."""
    if subprocess.run(command, cwd=REPOSITORY, stdout=sys.stderr).returncode:
        raise EnvironmentFault(f"failed: {' '.join(command)}\nMend what it says above, then run the same command again")


def make_environment(folder: Path, chosen: Optional[str]) -> str:
    """Make the environment in ``folder``, or what is left of the making, and return its interpreter.

    A folder that this function did not make is never touched.
    """
    python, state = str(folder / "bin" / "python"), folder / STATE
    made = state.read_text() if state.is_file() else ""
    if not made and folder.is_dir() and any(folder.iterdir()):
        if serves(python, develop=True):
            return python
        raise EnvironmentFault(
            f"{folder} was not made by make, and lacks something: '{python} -m common.doctor' tells what. "
            "Mend it, or move it away, or choose another folder: VENV=DIR"
        )
    standing = python_version(python) if made not in ("", UNFINISHED) else None
    if standing and (chosen is None or python_version(chosen) == standing):
        base, version = python, standing
    else:
        base, version = find_python(chosen)
    constraints = constraints_for(version)
    wanted = fingerprint(version, constraints)
    if made == wanted and serves(python, develop=True):
        return python
    what = f"Python {version[0]}.{version[1]} and {constraints.name}"
    print(f"installing into {folder}: {what}", file=sys.stderr, flush=True)
    if base == python:
        write_state(folder, UNFINISHED)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_state(folder, UNFINISHED)
        run_step([base, "-m", "venv", str(folder)])
    files = [word for file in DEVELOP for word in ("-r", str(file))]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    run_step([python, "-m", "pip", "install", "--disable-pip-version-check", *quiet, *files, "-c", str(constraints)])
    write_state(folder, wanted)
    return python


def ensure_environment(develop: bool, own: bool) -> str:
    """The interpreter to use: the one on the PATH (or PYTHON) where it serves, else that of .venv, made if need be.

    Args:
        develop: whether the tools for tests, lint and types are needed too.
        own: never use another environment than .venv.
    """
    chosen = os.environ.get("PYTHON") or None
    found = shutil.which(chosen or "python")
    if found and not own and serves(found, develop):
        return os.path.abspath(found)
    with one_at_a_time():
        return make_environment(Path(os.path.abspath(os.environ.get("VENV") or REPOSITORY / ".venv")), chosen)


def main(argv: Sequence[str]) -> int:
    """Run one of the three commands above."""
    develop = "--dev" in argv
    command = " ".join(word for word in argv if word != "--dev")
    if command == "check":
        faults = [finding for finding in check_environment(DEVELOP if develop else RUN) if finding.cure]
        for fault in faults:
            print(f"{fault.subject}: {fault.detail}; cure: {fault.cure}", file=sys.stderr)
        return 1 if faults else 0
    if command not in ("ensure", "make"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(ensure_environment(develop, own=command == "make"))
    except EnvironmentFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
