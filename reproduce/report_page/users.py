"""What each row of a suite shows to some users, beside what they had seen and what came next."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_text
from common.runs import RANKS
from reproduce.rows import Row


@dataclass(frozen=True)
class Shown:
    """A user's test item, its rank with the history unmasked and masked, and the items of top.npy, the best first."""

    target: int
    rank: float
    rank_masked: float
    top: List[int]


def read_shown(folder: Path) -> Dict[int, Shown]:
    """ranks.csv and top.npy of a run, by user: their rows are in one order.

    Raises:
        UserError: they are not of the same users.
    """
    lines = list(csv.DictReader(io.StringIO(read_text(folder / RANKS))))
    top = np.load(folder / "top.npy", allow_pickle=False)
    if len(lines) != len(top):
        raise UserError(f"{folder}: {RANKS} has {len(lines)} users, top.npy {len(top)}; redo the run with --force")
    return {
        int(line["user"]): Shown(int(line["item"]), float(line["rank"]), float(line["rank_masked"]), items.tolist())
        for line, items in zip(lines, top)
    }


def drawn_users(rows: List[Row], dataset: Dataset, count: int, history: int, seed: int, masked: bool) -> Dict[str, Any]:
    """Users drawn by seed, with their history and, of the first run of each row that has top.npy, rank and top ten.

    Args:
        history: so many of the latest items.
        masked: tell the ranks with the history masked beside those of the lists, which show the history.

    Raises:
        UserError: a run was tested on other data than lie there.
    """
    kept = [row for row in rows if (row.folders[0] / "top.npy").is_file()]
    found = {row.name: read_shown(row.folders[0]) for row in kept}
    sequences = dict(zip(dataset.users, dataset.sequences))
    common = sorted(set(sequences).intersection(*found.values())) if found else []
    for row in kept:
        other = [user for user in common if found[row.name][user].target != sequences[user][-1]]
        if other:
            raise UserError(
                f"{row.folders[0]}: tested on other data than lie in {dataset.folder} (user {other[0]}'s last item); "
                "run the suite again, or correct datasets_dir"
            )
    places = np.sort(np.random.default_rng(seed).permutation(len(common))[:count])
    users = []
    for user in (common[place] for place in places):
        seen = sequences[user][:-1].tolist()
        one = [found[row.name][user] for row in kept]
        users.append(
            {
                "id": user,
                "seen": len(seen),
                "history": seen[-history:] if history else [],
                "repeats": sorted(set(seen) & {item for shown in one for item in shown.top}),
                "next": int(sequences[user][-1]),
                "ranks": [shown.rank for shown in one],
                "ranks_masked": [shown.rank_masked for shown in one] if masked else None,
                "top": [shown.top for shown in one],
            }
        )
    return {
        "rows": [{"name": row.name, "seed": row.runs[0].seed, "runs": len(row.runs)} for row in kept],
        "users": users,
        "without": [row.name for row in rows if row not in kept],
    }
