"""A run's training curves, out of its train.log.

The log and not TensorBoard's files: both trainings write the same line at each validation and flush it at once, where
TensorBoard's writer keeps values for up to two minutes, which a killed run loses; stage 2's files hold one validation
metric of five, and ADRec's hold terms of single batches, where the log has means. The log has four decimals.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from common.files import read_text

LINE = re.compile(r"^\S+ epoch (\d+)(?: step (\d+)(?:/(\d+))?)? \[\d+ s\] (.+) \| valid (.+?)( \*)?$")
Values = Dict[str, Optional[float]]


@dataclass
class Curves:
    """Values by name, one at each validation; ``at`` counts epochs done, ``best`` is the place of the chosen one."""

    at: List[float]
    terms: Dict[str, List[Optional[float]]]
    valid: Dict[str, List[Optional[float]]]
    best: int


def _values(text: str) -> Values:
    """``rec 6.91, mrr 0.02`` → a mapping; what is not finite has no place in a picture."""
    pairs = [part.rsplit(" ", 1) for part in text.split(", ")]
    return {name: float(value) if math.isfinite(float(value)) else None for name, value in pairs}


def _by_name(points: List[Values]) -> Dict[str, List[Optional[float]]]:
    names = dict.fromkeys(name for point in points for name in point)
    return {name: [point.get(name) for point in points] for name in names}


def read_curves(log: Path) -> Optional[Curves]:
    """The curves of a log; None where it tells of no epoch, as with models that count.

    An epoch that stands twice (the run was killed between its line and its checkpoint) counts as it was last. Logs of
    ADRec from before they told an epoch's steps: the highest step counts as a whole epoch.
    """
    found: Dict[Tuple[int, int], Tuple[Values, Values, bool]] = {}
    steps = 1
    for line in read_text(log).splitlines() if log.is_file() else []:
        match = LINE.match(line)
        if match:
            epoch, step, of, terms, valid, better = match.groups()
            steps = max(steps, int(of or step or 1))
            found[int(epoch), int(step or 1)] = (_values(terms), _values(valid), better is not None)
    if not found:
        return None
    places = sorted(found)
    points = [found[place] for place in places]
    return Curves(
        [round(epoch + step / steps, 4) for epoch, step in places],
        _by_name([terms for terms, _, _ in points]),
        _by_name([valid for _, valid, _ in points]),
        max((number for number, (_, _, better) in enumerate(points) if better), default=0),
    )
