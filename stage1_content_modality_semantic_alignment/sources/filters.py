"""From a log of interactions to a data set: order, filters, counts of what is left out, and our ids.

The order of steps: sort by time (``ties``), duplicates, k-core, items without a title, k-core again, the last
``max_length``, a sample of users. ``min_length`` counts with the k-core, as the least that a user needs.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Tuple

import numpy as np
import polars as pl

from common.dataset import LISTED, MIN_ITEMS
from common.errors import UserError
from stage1_content_modality_semantic_alignment.sources.raw import RawData, RawLog, Sequences, natural

_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->")


@dataclass(frozen=True)
class Filters:
    """What is left out; the defaults leave nothing out, and stop where something would have to be."""

    k_core: int = 0
    min_length: int = 0
    max_length: int = 0
    duplicates: str = "keep"
    missing_titles: str = "stop"
    user_sample: int = 0
    ties: str = "row"
    html: str = "keep"


PRESETS: Dict[str, Filters] = {
    "none": Filters(),
    "sicsrec": Filters(min_length=5),  # NineRec's users have five items and more
    "adrec": Filters(k_core=5, duplicates="first", missing_titles="drop", html="clean"),  # five-core, items with titles
}


def filters_of(preset: str, changes: Dict[str, Any]) -> Filters:
    """A preset with those of its values replaced that are given, not None."""
    base = {f.name: getattr(PRESETS[preset], f.name) for f in fields(Filters)}
    return Filters(**{**base, **{name: value for name, value in changes.items() if value is not None}})


class _Log:
    """The interactions that stay, by code of user and item, users together and in time order."""

    def __init__(self, raw: RawLog, ties: str) -> None:
        self.raw, self.dropped = raw, Counter(raw.bad.dropped)
        users, self.user_ids = _encode(raw.log["user"], raw.numbered)
        items, self.item_ids = _encode(raw.log["item"], raw.numbered)
        table = pl.DataFrame({"user": users, "item": items, "time": raw.log["time"], "line": raw.log["line"]})
        keys = ["time"]
        if ties == "item":
            rank = self.item_ids.to_frame("id").with_row_index("code").sort("id").with_row_index("rank").sort("code")
            table = table.with_columns(rank=rank["rank"].gather(items))
            keys.append("rank")
        table = table.sort(keys, maintain_order=True)
        self.table = table.select("user", "item", "time", "line")[_order(table["user"])]

    @property
    def users(self) -> np.ndarray:
        """(interactions,)."""
        return self.table["user"].to_numpy()

    @property
    def items(self) -> np.ndarray:
        """(interactions,)."""
        return self.table["item"].to_numpy()

    def keep(self, mask: np.ndarray, reason: str) -> bool:
        """Keep the interactions of the mask, count the others; whether there were others."""
        lost = len(mask) - int(np.count_nonzero(mask))
        if lost:
            self.dropped[reason] += lost
            self.table = self.table.filter(pl.Series(mask))
            if not self.table.height:
                counts = ", ".join(f"{why}: {count:,}" for why, count in self.dropped.items())
                raise UserError(f"{self.raw.file}: the filters leave no interaction ({counts}); loosen them")
        return bool(lost)

    def core(self, k: int, least: int) -> None:
        """Leave out users with fewer than ``max(k, least)`` items and items seen fewer than k times, until none is."""
        of_user, changed = max(k, least), True
        while changed:
            counts = np.bincount(self.users)
            changed = of_user > 1 and self.keep(
                counts[self.users] >= of_user, f"users with fewer than {of_user} interactions"
            )
            counts = np.bincount(self.items)
            changed = (
                k > 1 and self.keep(counts[self.items] >= k, f"items with fewer than {k} interactions")
            ) or changed

    def duplicates(self, rule: str) -> None:
        """Leave out what a user did again: the same item at the same time (``row``), or at any later (``first``)."""
        if rule != "keep":
            pair = self.table.select(pl.col("user").cast(pl.UInt64) * len(self.item_ids) + pl.col("item"), "time")
            if rule == "row":
                first = pair.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
            else:
                order = pair.select("user").with_row_index("place").sort("user", maintain_order=True)
                first = np.zeros(pair.height, dtype=bool)
                first[order.filter(pl.col("user").diff().fill_null(1) != 0)["place"].to_numpy()] = True
            self.keep(first, "duplicates")

    def last(self, most: int) -> None:
        """Keep each user's last ``most``."""
        if most:
            ends = np.searchsorted(self.users, self.users, side="right")
            self.keep(np.arange(len(ends)) >= ends - most, f"before a user's last {most}")

    def sample(self, size: int, seed: int) -> None:
        """Keep that many users, drawn with the seed."""
        users = _present(self.users)
        if size and size < len(users):
            drawn = np.random.default_rng(seed).choice(users, size, replace=False)
            self.keep(np.isin(self.users, drawn), "users not in the sample")

    def titled(self, policy: str, clean: bool) -> pl.DataFrame:
        """The texts of the items; those without a title stop the run, or are left out with their interactions."""
        present = self.item_ids.gather(_present(self.items))
        texts = _clean(self.raw.describe(present)) if clean else self.raw.describe(present)
        has_title = (pl.col("title_cn").str.strip_chars() != "") | (pl.col("title_en").str.strip_chars() != "")
        with_title = texts.filter(has_title)["item"]
        missing = present.filter(~present.is_in(with_title.implode()))
        if len(missing) and policy == "stop":
            raise UserError(_untitled(self, missing, set(texts["item"].to_list())))
        if len(missing):
            good = ~self.item_ids.is_in(missing.implode()).to_numpy()
            self.keep(good[self.items], "items without a title")
        return texts


def apply_filters(raw: RawLog, filters: Filters, seed: int) -> RawData:
    """The data set that the filters leave of a log.

    Raises:
        UserError: users shorter than 3 or items without a title that no filter leaves out; or nothing is left.
    """
    log = _Log(raw, filters.ties)
    log.duplicates(filters.duplicates)
    log.core(filters.k_core, filters.min_length)
    texts = log.titled(filters.missing_titles, filters.html == "clean")
    log.core(filters.k_core, filters.min_length)
    log.last(filters.max_length)
    log.sample(filters.user_sample, seed)
    _check_lengths(log)
    kept_users, kept_items = _present(log.users), _present(log.items)
    lengths = np.bincount(log.users)[kept_users]
    ours_of = np.zeros(len(log.item_ids), dtype=np.int32)
    ours_of[kept_items] = np.arange(len(kept_items), dtype=np.int32)
    item_ids = log.item_ids.gather(kept_items)
    ours = item_ids.to_frame("item").join(texts, on="item", how="left", maintain_order="left").fill_null("")
    names = [name for name in ours.columns if name not in ("item", "title_cn", "title_en")]
    return RawData(
        sequences=Sequences(ours_of[log.items], lengths),
        titles=[_both(cn, en) for cn, en in ours.select("title_cn", "title_en").iter_rows()],
        user_ids=[raw.user_names.get(user, user) for user in log.user_ids.gather(kept_users).to_list()],
        item_ids=[raw.item_names.get(item, item) for item in item_ids.to_list()],
        fields={name: ours[name].to_list() for name in names if (ours[name] != "").any()},
        dropped=dict(log.dropped),
    )


def plain(text: str) -> str:
    """Text without HTML: tags become blanks, entities characters; one blank between words where there was any."""
    if "<" not in text and "&" not in text:
        return text
    found = html.unescape(_TAG.sub(" ", text))
    return text if found == text else " ".join(found.split())


def _clean(texts: pl.DataFrame) -> pl.DataFrame:
    columns = [name for name in texts.columns if name not in ("item", "image_url")]
    return texts.with_columns(
        pl.Series(name, [plain(one) for one in texts[name].to_list()], pl.String) for name in columns
    )


def _encode(ids: pl.Series, numbered: bool) -> Tuple[pl.Series, pl.Series]:
    """(code of each, distinct ones by code): in the order of first appearance, or of the numbers in them."""
    ids = ids.cast(pl.Categorical)
    distinct = ids.unique(maintain_order=True)
    if numbered:
        order = sorted(range(len(distinct)), key=lambda place: natural(distinct[place]))
        distinct = distinct.gather(order)
    places = distinct.to_physical().to_numpy()
    codes = np.zeros(np.max(places, initial=0) + 1, dtype=np.uint32)
    codes[places] = np.arange(len(distinct), dtype=np.uint32)
    return pl.Series(codes[ids.to_physical().to_numpy()]), distinct.cast(pl.String)


def _order(codes: pl.Series) -> pl.Series:
    """The places that bring equal codes together, ascending, each group in the order it has: sorts one integer each."""
    places = pl.int_range(len(codes), dtype=pl.UInt64, eager=True)
    return (codes.cast(pl.UInt64) * 2**32 + places).sort() % 2**32


def _present(codes: np.ndarray) -> np.ndarray:
    """The codes that occur, ascending."""
    return np.flatnonzero(np.bincount(codes))


def _both(cn: str, en: str) -> Tuple[str, str]:
    """Titles as they are, but for a blank one, which is left empty."""
    return (cn if cn.strip() else ""), (en if en.strip() else "")


def _check_lengths(log: _Log) -> None:
    counts = np.bincount(log.users)
    short = np.flatnonzero((counts > 0) & (counts < MIN_ITEMS))
    if len(short):
        user = int(short[0])
        line: Any = log.table.filter(pl.col("user") == user)["line"].min()
        raise UserError(
            f"{log.raw.place(line)}: user {log.user_ids[user]} has {counts[user]} interactions, fewer than "
            f"{MIN_ITEMS}: the last is for test, the one before for validation; leave such users out with "
            f"min_length={MIN_ITEMS} ({len(short)} of {np.count_nonzero(counts)})"
        )


def _untitled(log: _Log, missing: pl.Series, described: Any) -> str:
    first = missing[0]
    code = int(log.item_ids.index_of(first) or 0)
    line: Any = log.table.filter(pl.col("item") == code)["line"].min()
    what = "has no title" if first in described else "has no row"
    others: List[str] = missing.head(LISTED).to_list()
    return (
        f"{log.raw.place(line)}: item {first} {what} in {log.raw.items_file}; add it there, or leave such items out "
        f"with missing_titles=drop ({len(missing)} of them: {', '.join(others)}{' …' * (len(missing) > LISTED)})"
    )
