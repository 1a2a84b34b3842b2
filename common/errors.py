"""Errors that the user can fix: one clear line, a non-zero exit, no traceback."""

from __future__ import annotations

import difflib
from typing import Iterable


class UserError(Exception):
    """Bad input. The message says what is wrong, in which file, line or key, and how to fix it."""


class Diverged(UserError):
    """A loss or a weight is not finite. A search goes on with other settings."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; lower learning_rate, set clip_grad_norm=1, or use precision=fp32")


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion such as ``; did you mean 'alpha'?`` for a mistyped name, or an empty string."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
