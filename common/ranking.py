"""Full ranking: the rank of each target among all items, and the metrics of those ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
import torch

from common.compute import Processes
from common.dataset import Dataset
from common.errors import UserError
from common.files import atomic, checksum, read_json, write_json, write_text
from common.run import BEST, METRICS
from common.splits import Splits

TOPK = (5, 10)
TOP = 10  # items of top.npy
COLUMNS_AT_ONCE = 2**16  # a block of scores that is compared at once; more leave the CPU's cache
SCORES_AT_ONCE = 2**24  # scores of one batch, 64 MB
USERS_AT_ONCE = 1024  # of similar length, so that rows are narrow
ITEMS_AT_ONCE = 2**16  # items whose vectors are computed at once


class NotFinite(UserError):
    """A score is NaN, so nothing can be ranked."""


def target_ranks(
    scores: torch.Tensor, targets: torch.Tensor, excluded: Optional[Sequence[torch.Tensor]] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Rank of each row's target among all columns, 1 is best; a tie takes the mean of the tied ranks.

    Args:
        scores: (B, n) float; a column of ``-inf`` (the padding item) never outranks a target.
        targets: (B,) column of the target.
        excluded: two index tensors (rows, columns) of items left out of the second ranking, such as the
            history; a target named there stays in.

    Returns:
        (B,) float64 ranks among all columns, and without those that are excluded.

    Raises:
        NotFinite: a score is NaN, which would compare as worse than everything.
    """
    if torch.isnan(scores.amax()):  # which is NaN if any score is
        raise NotFinite("a score is NaN: the weights are not finite or too large")
    own = scores.gather(1, targets[:, None])
    better, tied = torch.zeros_like(targets), torch.full_like(targets, -1)  # the target ties with itself
    for block in scores.split(COLUMNS_AT_ONCE, dim=1):
        better += (block > own).sum(dim=1)
        tied += (block == own).sum(dim=1)
    ranks = 1.0 + better.double() + tied.double() / 2
    if excluded is None:
        return ranks, ranks
    places = (excluded[0] * scores.shape[1] + excluded[1]).unique()  # an item may be in a history twice
    rows, columns = places // scores.shape[1], places % scores.shape[1]
    others = columns != targets[rows]
    rows, columns = rows[others], columns[others]
    theirs = scores[rows, columns]
    above = (theirs > own[rows, 0]).double() + (theirs == own[rows, 0]).double() / 2
    return ranks, ranks.index_add(0, rows, -above)


def users_at_once(n_users: int, n_items: int, processes: Processes) -> int:
    """Users of a batch, so that memory does not grow with the catalogue and each process has its share."""
    return max(1, min(SCORES_AT_ONCE // n_items, USERS_AT_ONCE, -(-n_users // processes.size)))


@torch.no_grad()
def rank_batches(
    batches: Iterable[Tuple[np.ndarray, torch.Tensor, torch.Tensor]],
    n_rows: int,
    processes: Processes,
    history: Optional[Callable[[np.ndarray], Sequence[torch.Tensor]]] = None,
    top: int = 0,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`target_ranks` of a split in batches, with the history unmasked and masked, and the best items.

    Args:
        batches: this process's: rows of the split, their scores (B, n), their targets (B,).
        history: rows → two index tensors of the items in their histories; None masks nothing.
        top: number of best items.

    Returns:
        Ranks (N,), masked ranks (N,), best items (N, top) as columns of the scores; the same in all processes.
    """
    ranks, masked = torch.zeros(n_rows, dtype=torch.float64), torch.zeros(n_rows, dtype=torch.float64)
    best = torch.zeros(n_rows, top, dtype=torch.int64)
    for rows, scores, targets in batches:
        excluded = [index.to(scores.device) for index in history(rows)] if history else None
        found = target_ranks(scores, targets, excluded)
        ranks[rows], masked[rows] = (part.cpu() for part in found)
        if top:
            best[rows] = scores.topk(top, dim=1).indices.cpu()
    for part in (ranks, masked, best):
        processes.sum(part)
    return ranks.numpy(), masked.numpy(), best.numpy()


def metrics(ranks: np.ndarray, topk: Sequence[int] = TOPK) -> Dict[str, float]:
    """HIT and NDCG at each cut-off, and MRR without one, of one relevant item per user.

    HIT@k = share of ranks ≤ k; NDCG@k = mean of 1 / log2(rank + 1) where rank ≤ k, else 0.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    result: Dict[str, float] = {}
    for k in topk:
        result[f"hit@{k}"] = float(np.mean(ranks <= k))
    for k in topk:
        result[f"ndcg@{k}"] = float(np.mean(np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)))
    result["mrr"] = float(np.mean(1.0 / ranks))
    return result


FREQUENCIES = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, None)}


def train_counts(dataset: Dataset, splits: Splits) -> np.ndarray:
    """How often each item occurs in training rows. (n_items,)."""
    return np.bincount(splits.train_parts(dataset).flat, minlength=dataset.n_items)


def metrics_by_frequency(
    ranks: np.ndarray, targets: np.ndarray, counts: np.ndarray, topk: Sequence[int] = TOPK
) -> Dict[str, Dict[str, Any]]:
    """`metrics` of the users whose target was seen 0, 1-4, 5-19, 20+ times in training, and how many they are.

    Args:
        ranks, targets: (N,) each user's rank and zero-based target.
        counts: (n_items,) of `train_counts`.
    """
    seen = counts[targets]
    result: Dict[str, Dict[str, Any]] = {}
    for name, (low, high) in FREQUENCIES.items():
        inside = (seen >= low) & (seen <= (np.inf if high is None else high))
        result[name] = {"users": int(inside.sum()), **(metrics(ranks[inside], topk) if inside.any() else {})}
    return result


@dataclass
class Ranking:
    """A test of N users."""

    users: np.ndarray  # (N,) zero-based
    targets: np.ndarray  # (N,) zero-based
    ranks: np.ndarray  # (N,) of the targets, history unmasked
    masked: np.ndarray  # (N,) history masked
    top: np.ndarray  # (N, TOP) zero-based items, the best first, history unmasked

    def metrics(self, topk: Sequence[int] = TOPK) -> Dict[str, Dict[str, float]]:
        """`metrics` of both: ``test`` and ``test_masked``."""
        return {"test": metrics(self.ranks, topk), "test_masked": metrics(self.masked, topk)}

    def write(self, folder: Path, topk: Sequence[int] = TOPK, extra: Optional[Mapping[str, Any]] = None) -> None:
        """Write ranks.csv and top.npy, and add `metrics` and ``extra`` to the run's metrics.json."""
        columns = {"user": self.users, "item": self.targets, "rank": self.ranks, "rank_masked": self.masked}
        ranks = pd.DataFrame(columns).to_csv(index=False, float_format="%g", lineterminator="\n")
        write_text(folder / "ranks.csv", ranks)
        with atomic(folder / "top.npy") as temporary, open(temporary, "wb") as out:
            np.save(out, self.top.astype(np.int32))
        result = read_json(folder / METRICS)
        result.update(self.metrics(topk), **(extra or {}))
        if (folder / BEST).is_file():  # scores made elsewhere have none
            result["checkpoint"] = checksum(folder / BEST)
        write_json(folder / METRICS, result)
