"""The parser of every script's command line: help as it is written, a fault in one line."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn, Optional

from common.errors import nearest


class Parser(argparse.ArgumentParser):
    """argparse's, which takes no abbreviation and tells the nearest option in place of its usage."""

    def __init__(self, doc: Optional[str], epilog: Optional[str] = None) -> None:
        super().__init__(
            description=doc,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        known = [option for action in self._actions for option in action.option_strings]
        mistyped = [word.split("=")[0] for word in message.split() if word.startswith("--") and word not in known]
        hint = nearest(mistyped[0], known) if mistyped else ""
        print(f"error: {message}{hint} (--help tells what there is)", file=sys.stderr)
        sys.exit(2)
