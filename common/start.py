"""How each script starts and ends. Scripts import it first: it reports Ctrl-C during the imports that follow."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Callable, List, Optional, Type

from common.errors import UserError

# what could move a terminal's cursor or turn text around: all control characters but tab and line feed, separators of
# lines, bidi overrides
UNPRINTED = {*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)} - {ord("\t"), ord("\n")}
ESCAPED = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in UNPRINTED}


def report_uncaught(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """`sys.excepthook` of the scripts: one line and an exit code for what the user did or can fix, else a traceback."""
    package = str(getattr(error, "name", "")).partition(".")[0]
    if isinstance(error, UserError):
        code, message = 1, f"error: {error}"
    elif isinstance(error, ModuleNotFoundError) and not (Path(__file__).parents[1] / package).exists():
        code, message = 1, f"error: {sys.executable} lacks the package {package}; run 'make environment'"
    elif isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        code, message = 1, "error: the locale has no Unicode, which a name or path needs; set PYTHONUTF8=1"
    elif isinstance(error, KeyboardInterrupt):
        code, message = 130, "stopped; run the same command again to continue"
    elif isinstance(error, BrokenPipeError):  # such as | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, message = 141, ""
    else:
        code, message = 0, ""  # a fault of the program
    if code == 0 or hasattr(sys, "ps1"):  # an interactive Python goes on
        sys.__excepthook__(kind, error, trace)
        return
    if message:
        print(message.translate(ESCAPED), file=sys.stderr)
    sys.exit(code)


class Output(io.TextIOWrapper):
    """Standard output for a terminal: control characters of data, and what the encoding lacks, are escaped."""

    def write(self, text: str) -> int:
        """Write the text, escaped."""
        return super().write(text.translate(ESCAPED))


def run_script(main: Callable[[Optional[List[str]]], None]) -> None:
    """Run a script's ``main``. Its exceptions go to `report_uncaught`."""
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
        main(None)
    finally:  # also after --help
        print(end="", flush=True)


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch reads it: threads that wait do not take cores from others
sys.excepthook = report_uncaught
