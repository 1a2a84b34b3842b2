"""The table that compares a suite's own rows with the strongest of the others, or all rows with its base."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from reproduce.formats import Cell, Table
from reproduce.ranks import gains, read_ranks, same_targets
from reproduce.rows import Row, history_of, incomplete
from reproduce.significance import Comparison, holm, over_users, over_users_and_seeds, variance_over_seeds
from reproduce.suite import Suite
from reproduce.test import METRICS

HEADER = ["model", "metric", "against", "difference", "improvement", "p < 0.05"]
HEADER += ["95 %, users", "p, users", "95 %, users and seeds", "p, users and seeds"]


def sides(rows: List[Row], suite: Suite) -> Tuple[List[Row], List[Row]]:
    """The rows that are compared, and those that they are compared with."""
    ours = [row for row in rows if (row.name in suite.against if suite.base is None else row.name != suite.base)]
    names = {row.name for row in ours}
    return ours, [row for row in rows if row.name not in names]


def uncompared(rows: List[Row], suite: Suite) -> List[str]:
    """The note of a table without a test of significance, or none."""
    ours, others = sides(rows, suite)
    if ours and others:
        return []
    if suite.base is not None:
        missing = "all rows but it are missing" if others else "it is not done or not asked for"
        return [f"Nothing is compared with {suite.base}, the suite's base: {missing}."]
    if not suite.against:
        return ["Nothing is compared: the suite's YAML names no row in against, and no base."]
    missing = "no other row" if ours else "none of them"
    told = f"the suite's own rows are {', '.join(suite.against)}, and {missing} is done or asked for"
    return [f"Nothing is compared: {told}."]


def _told(found: Sequence[Optional[Comparison]]) -> Tuple[List[List[str]], List[bool]]:
    """Interval and corrected p of each test, and whether the latter is below 0.05; – where there was none."""
    corrected = holm([1.0 if one is None else one.p for one in found])
    texts = [
        ["–", "–"] if one is None else [f"{one.low:+.4f} … {one.high:+.4f}", f"{p:.2g}"]
        for one, p in zip(found, corrected)
    ]
    return texts, [p < 0.05 for p in corrected]


def compared(rows: List[Row], suite: Suite, split: str) -> Optional[Table]:
    """The suite's own rows against the strongest of the others, or all against its base; Holm over the table."""
    ours, others = sides(rows, suite)
    if not others or not ours:
        return None
    strongest = {  # for each metric its own: the highest on test, which is the hardest to beat
        metric: max(others, key=lambda row: float(np.mean(row.values(split, metric)))) for metric in METRICS
    }
    involved = {row.name: row for row in (*ours, *strongest.values())}
    users = {
        name: [read_ranks(folder, split == "test_masked") for folder in row.folders] for name, row in involved.items()
    }
    same_targets([(name, ranks) for name, runs in users.items() for ranks in runs])
    family = [(row, metric, strongest[metric]) for row in ours for metric in METRICS]
    pairs = [(gains(users[row.name], metric), gains(users[other.name], metric)) for row, metric, other in family]
    of_users = [over_users(*pair) for pair in pairs]
    users_told, users_below = _told(of_users)
    of_table = {metric: variance_over_seeds([row.values(split, metric) for row in rows]) for metric in METRICS}
    both_told, both_below = _told([over_users_and_seeds(*pair, of_table[one[1]]) for one, pair in zip(family, pairs)])
    lines = []
    for number, (row, metric, other) in enumerate(family):
        difference = of_users[number].difference
        base = float(np.mean(other.values(split, metric)))
        share = f"{100 * difference / base:+.2f} %" if base else "–"
        verdict = "no" if not users_below[number] else "yes" if both_below[number] else "over users"
        texts = [row.name, metric.upper(), other.name, f"{difference:+.4f}", share, verdict]
        texts += [*users_told[number], *both_told[number]]
        lines.append([Cell(text, anchor=row.anchor) for text in texts])
    against = suite.base or "the strongest of the others"
    names = ", ".join(row.name for row in others)
    chosen = f" ({names}), for each metric the one highest on test, which makes losses against it look larger"
    note = (
        f"Against {against}{'' if suite.base else chosen}; {history_of(split)}. Users: other users drawn, these "
        "seeds; bootstrap and paired t-test of each user's mean over seeds. Users and seeds: other seeds drawn too; a "
        "row's variance over seeds is its own or, if that is larger or it has one run, the mean of this table's rows; "
        "– where no row has two runs. Each p by Holm's correction over this table; intervals as they are. p < 0.05: "
        "yes, by both; over users, by the first alone, so that other seeds may tell otherwise."
    )
    title = f"{rows[0].dataset}: against {against}"
    return Table(title, HEADER, lines, [*incomplete(rows, suite, [rows[0].dataset]), note])
