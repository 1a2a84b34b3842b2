"""Every setting of every script is read by the script or by a module that it imports."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from functools import cache
from pathlib import Path
from typing import Iterator, Set

import pytest

from common.settings import REPOSITORY, CommonSettings

PACKAGES = ("adrec", "stage1_content_modality_semantic_alignment", "stage2_sequence_preference_learning")
REPRODUCE = [REPOSITORY / "reproduce" / name for name in ("scores.py", "standin.py", "test.py")]  # have Settings


@cache
def tree_of(file: Path) -> ast.AST:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_script(file: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.iter_child_nodes(tree_of(file))
    )


OF_METHODS = [file for package in PACKAGES for file in sorted((REPOSITORY / package).glob("*.py")) if is_script(file)]
SCRIPTS = [*OF_METHODS, *REPRODUCE]


def imported_files(file: Path) -> Iterator[Path]:
    """This project's modules that a file imports, at its top or inside a function."""
    for node in ast.walk(tree_of(file)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            module = REPOSITORY / Path(*name.split(".")).with_suffix(".py")
            if module.is_file():
                yield module


def reachable(script: Path) -> Set[Path]:
    """The script and all modules of this project that it imports, directly or not."""
    found, waiting = set(), [script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting.extend(imported_files(file))
    return found


@cache
def names_read(file: Path) -> Set[str]:
    """Names read as ``settings.name``, ``config["name"]`` or ``getattr(settings, "name")``; no declarations."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.add(str(node.slice.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            found.update(str(a.value) for a in node.args if isinstance(a, ast.Constant))
    return found


def settings_of(script: Path) -> type:
    """The settings that the script calls ``Settings``."""
    module = importlib.import_module(".".join(script.relative_to(REPOSITORY).with_suffix("").parts))
    return module.Settings


def test_scripts_are_found() -> None:
    assert {"prepare_dataset", "sft_content_encoder", "SICSRec_main1"} <= {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_script_declares_typed_settings_with_help(script: Path) -> None:
    schema = settings_of(script)
    assert issubclass(schema, CommonSettings)
    assert not [field.name for field in dataclasses.fields(schema) if not field.metadata.get("help")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_setting_is_read(script: Path) -> None:
    read = set().union(*map(names_read, reachable(script)))
    unread = {field.name for field in dataclasses.fields(settings_of(script))} - read
    assert not unread
