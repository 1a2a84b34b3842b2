"""What the page shows of items: pairs of stage 1, recommendations, titles and covers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Tuple

import numpy as np
import pandas as pd

from common.dataset import Dataset
from reproduce.rows import Row
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.pair_report import cover_data

HISTORY = 20  # items of a user's history, the latest
PAIRS = 12  # drawn pairs of each strategy
COVERS = 600  # covers of a data set, which bounds the page's size
COVER_SIDE = 72  # pixels


@dataclass
class Strategy:
    """Pairs of one strategy: how many, and some of them as (target, similar, times chosen)."""

    name: str
    total: int
    distinct: int
    drawn: List[Tuple[int, int, int]]


@dataclass
class Recommended:
    """What a row's first run recommends to a user."""

    row: str
    rank: float  # of the next item, history unmasked
    rank_masked: float
    items: List[int]


@dataclass
class User:
    """A test user: the history, the next item, and each row's recommendations."""

    number: int
    history: List[int]
    following: int
    rows: List[Recommended] = field(default_factory=list)

    @property
    def latest(self) -> List[int]:
        """The part of the history that is shown, latest first."""
        return self.history[::-1][:HISTORY]


def drawn_pairs(dataset: Dataset, seed: int) -> List[Strategy]:
    """Some pairs of each strategy in the data set's folder."""
    found = []
    for path in sorted((dataset.folder / "pairs").glob("*")):
        if pairs_path(path, "id").is_file():
            counts = Counter(read_pairs(pairs_path(path, "id"), dataset.n_items, may_be_empty=True))
            places = np.sort(np.random.default_rng(seed).permutation(len(counts))[:PAIRS])
            distinct = list(counts.items())
            drawn = [(*distinct[place][0], distinct[place][1]) for place in places]
            found.append(Strategy(path.name, sum(counts.values()), len(counts), drawn))
    return found


def drawn_users(rows: List[Row], dataset: Dataset, count: int, seed: int) -> List[User]:
    """Some test users, with ranks.csv and top.npy of each row's first run that has them.

    The rows have the same users and test items, as `reproduce.table.by_groups` checks.
    """
    shown = [row for row in rows if (row.folders[0] / "top.npy").is_file()]
    tables = [pd.read_csv(row.folders[0] / "ranks.csv") for row in shown]
    orders = [np.argsort(table["user"].to_numpy(), kind="stable") for table in tables]
    tops = [np.load(row.folders[0] / "top.npy", allow_pickle=False) for row in shown]
    test, by_user = rows[0].splits(dataset).test, np.argsort(dataset.users)
    tested = tables[0]["user"].to_numpy()[orders[0]] if shown else np.empty(0, np.int64)
    users = []
    for place in np.sort(np.random.default_rng(seed).permutation(len(tested))[:count]):
        number = int(tested[place])
        own = by_user[np.searchsorted(dataset.users, number, sorter=by_user)]
        target = test.places[np.searchsorted(test.users, own) + place - np.searchsorted(tested, number)]
        *history, following = dataset.sequences[own][: target + 1].tolist()
        user = User(number, history, following)
        for row, table, order, top in zip(shown, tables, orders, tops):
            rank, masked = table[["rank", "rank_masked"]].iloc[order[place]]
            user.rows.append(Recommended(row.name, float(rank), float(masked), top[order[place]].tolist()))
        users.append(user)
    return users


def items_shown(strategies: Iterable[Strategy], users: Iterable[User]) -> List[int]:
    """All items that pairs and users show, each once, in the order of the page."""
    shown = [item for one in strategies for pair in one.drawn for item in pair[:2]]
    for user in users:
        shown += [*user.latest, user.following, *(item for row in user.rows for item in row.items)]
    return list(dict.fromkeys(shown))


def covers_of(dataset: Dataset, items: List[int]) -> Dict[int, str]:
    """Small covers of the first `COVERS` items as data URIs."""
    covers = {item: cover_data(dataset, item, COVER_SIDE, "WEBP") for item in items[:COVERS]}
    return {item: uri for item, uri in covers.items() if uri}
