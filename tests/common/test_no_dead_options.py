"""Every setting of every script is read by the script or by a module that it imports."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from functools import cache
from pathlib import Path
from typing import List, Set

import pytest

from common.settings import REPOSITORY, CommonSettings

PACKAGES = ("adrec", "stage1_content_modality_semantic_alignment", "stage2_sequence_preference_learning")
WITH_SETTINGS = ("scores.py", "shuffle.py", "standin.py", "test.py")
REPRODUCE = [REPOSITORY / "reproduce" / name for name in WITH_SETTINGS]


OF_METHODS = [file for package in PACKAGES for file in sorted((REPOSITORY / package).glob("*.py"))]
SCRIPTS = [*(file for file in OF_METHODS if "run_script(main)" in file.read_text(encoding="utf-8")), *REPRODUCE]


@cache
def imported_files(file: Path) -> List[Path]:
    """This project's modules that a file imports, at its top or inside a function."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}{part}" for node in nodes for part in ("", *(f".{alias.name}" for alias in node.names))]
    modules = [REPOSITORY / Path(*name.split(".")).with_suffix(".py") for name in names]
    return [module for module in modules if module.is_file()]


def reachable(script: Path) -> Set[Path]:
    """The script and all modules of this project that it imports, directly or not."""
    found: Set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting.extend(imported_files(file))
    return found


def settings_of(script: Path) -> type:
    """The settings that the script calls ``Settings``; a script without any has the common ones."""
    module = importlib.import_module(".".join(script.relative_to(REPOSITORY).with_suffix("").parts))
    return getattr(module, "Settings", CommonSettings)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_script_declares_typed_settings_with_help(script: Path) -> None:
    schema = settings_of(script)
    assert issubclass(schema, CommonSettings)
    assert not [field.name for field in dataclasses.fields(schema) if not field.metadata.get("help")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_setting_is_read(script: Path) -> None:
    """As an attribute, or by its name in quotes."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in reachable(script))
    read = set(re.findall(r"(?<=\.)\w+|(?<=[\"'])\w+(?=[\"'])", text))
    assert not {field.name for field in dataclasses.fields(settings_of(script))} - read
