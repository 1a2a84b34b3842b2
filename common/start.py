"""How each script starts and ends. Scripts import it first: it reports Ctrl-C during the imports that follow."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Callable, List, Optional, Type

from common.errors import UserError

# what could move a terminal's cursor or turn text around: all control characters but tab and line feed, bidi overrides
UNPRINTED = {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {ord("\t"), ord("\n")}
ESCAPED = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in UNPRINTED}


def exit_code(error: BaseException) -> Optional[int]:
    """Print one line for an error that the user can fix or made; returns the exit code, None for any other error."""
    package = str(getattr(error, "name", "")).partition(".")[0]
    if isinstance(error, UserError):
        print(f"error: {error}".translate(ESCAPED), file=sys.stderr)
        return 1
    if isinstance(error, ModuleNotFoundError) and not (Path(__file__).parents[1] / package).exists():
        print(f"error: {sys.executable} lacks the package {package}; run 'make environment'", file=sys.stderr)
        return 1
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        print("error: the locale has no Unicode, which a name or path needs; set PYTHONUTF8=1", file=sys.stderr)
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):  # such as | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return None


def report_uncaught(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """`sys.excepthook` of the scripts: Ctrl-C and missing packages while modules are still imported."""
    code = None if hasattr(sys, "ps1") else exit_code(error)  # an interactive Python goes on
    if code is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.exit(code)


class Output(io.TextIOWrapper):
    """Standard output for a terminal: control characters of data, and what the encoding lacks, are escaped."""

    def write(self, text: str) -> int:
        """Write the text, escaped."""
        return super().write(text.translate(ESCAPED))


def run_script(main: Callable[[Optional[List[str]]], None]) -> None:
    """Run a script's ``main``: exit 1 with one line for a `UserError`, 130 for Ctrl-C, 141 for a closed pipe."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = Output(
            out.buffer,
            out.encoding,
            "backslashreplace",
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )
    try:
        try:
            main(None)
        finally:  # also after --help
            print(end="", flush=True)
    except BaseException as error:
        code = exit_code(error)
        if code is None:
            raise
        sys.exit(code)


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch reads it: threads that wait do not take cores from others
sys.excepthook = report_uncaught
