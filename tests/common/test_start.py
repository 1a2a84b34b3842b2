"""How scripts start and end: what reaches the terminal, Ctrl-C, closed pipes, missing packages, OpenMP's policy."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from common import start
from common.settings import REPOSITORY

SCRIPTS = [path for path in sorted(REPOSITORY.glob("*/*.py")) if "run_script(main)" in path.read_text("utf-8")]


def printed(monkeypatch: pytest.MonkeyPatch, text: str, encoding: str) -> str:
    """What reaches the file behind standard output, of a text that a script prints."""
    out = io.BytesIO()
    stdout = io.TextIOWrapper(out, encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    start.run_script(lambda argv: print(text))
    return out.getvalue().decode(encoding)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env: Dict[str, Any] = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    env = {key: value for key, value in env.items() if value}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("\x1b]0;owned\x07title", r"\x1b]0;owned\x07title"),
        ("12\b\b3\r4", r"12\x08\x083\x0d4"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202ecba\u2066", r"abc\u202ecba\u2066"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("饭\tbœuf 👨\u200d🍳\n", "饭\tbœuf 👨\u200d🍳\n"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_control_characters_of_data_are_escaped(monkeypatch: pytest.MonkeyPatch, title: str, shown: str) -> None:
    assert printed(monkeypatch, title, "utf-8") == shown + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminals_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    assert printed(monkeypatch, "饭 é", encoding) == r"\u996d " + ("é" if encoding == "latin-1" else r"\xe9") + "\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_imports_start_before_anything_else(script: Path) -> None:
    """What it does for a process holds from then on: for Ctrl-C during slow imports, and for torch."""
    imports = [
        node for node in ast.parse(script.read_text("utf-8")).body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    first = imports[1]  # after __future__
    assert isinstance(first, ast.ImportFrom) and first.module == "common.start"


def test_what_takes_seconds_to_import_is_imported_after_the_settings_are_checked() -> None:
    """So --help, a typo and a finished run are answered in a second. Scripts of tables need pandas, which is faster."""
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in SCRIPTS]
    tables = {"reproduce", "benchmarks"}
    modules.sort(key=lambda name: name.split(".")[0] in tables)  # last, so that their pandas is not that of others
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    slow = {{"torch", "recbole", "transformers"}} | (set() if name.split(".")[0] in {tables} else {{"pandas"}})
    assert not slow & set(sys.modules), (name, slow & set(sys.modules))
"""
    run = python(code)
    assert run.returncode == 0, run.stderr


BEGIN = "from common.start import *\nimport os, signal, time\n"
INTERRUPTED = "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (INTERRUPTED, 130, "stopped; run the same command again"),
        (f"run_script(lambda argv: exec({INTERRUPTED!r}))", 130, "stopped; run the same command again"),
        ("import no_such_package.part", 1, "lacks the package no_such_package; run 'make env"),
        ("import common.no_such_module", 1, "Traceback"),
        ("run_script(lambda argv: 1 / 0)", 1, "Traceback"),
        ("raise UserError('a.csv:3: \x1b[2J is no number')", 1, "error: a.csv:3: \\x1b[2J is no number\n"),
    ],
)
def test_how_a_script_ends(code: str, status: int, message: str) -> None:
    run = python(BEGIN + code)
    assert run.returncode == status and message in run.stderr
    assert message == "Traceback" or run.stderr.count("\n") == 1


@pytest.mark.parametrize("end", ["", "; raise SystemExit(0)"], ids=["normal", "after --help"])
def test_a_closed_pipe_ends_a_script_without_a_traceback(end: str) -> None:
    code = f"{BEGIN}run_script(lambda argv: exec({'print(1)' + end!r}))"
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", code], env=env, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize(("given", "used"), [("", "passive"), ("active", "active")])
def test_openmp_waits_passively_unless_the_user_says_otherwise(given: str, used: str) -> None:
    run = python(f"{BEGIN}print(os.environ['OMP_WAIT_POLICY'])", OMP_WAIT_POLICY=given)
    assert run.stdout == used + "\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [(["--help"], ""), (["-d", "x"], "error: datasets"), (["-d", "饭", "--print-config"], "set PYTHONUTF8=1")],
)
def test_a_script_works_in_a_locale_without_unicode(tmp_path: Path, words: List[str], error: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(REPOSITORY)}
    script = str(REPOSITORY / "stage2_sequence_preference_learning/id_encoder_main1.py")
    run = subprocess.run([sys.executable, script, *words], env=environment, cwd=tmp_path, capture_output=True)
    assert run.returncode == bool(error) and error in run.stderr.decode() and run.stderr.count(b"\n") <= 1


@pytest.mark.parametrize("script", ["run_train.sh", "run_test.sh"])
def test_without_an_environment_one_line_names_what_to_install(script: str) -> None:
    environment = {**os.environ, "PYTHON": "/bin/false"}
    run = subprocess.run(["bash", str(REPOSITORY / script)], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1) and "run 'make environment'" in run.stderr
