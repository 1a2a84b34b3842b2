"""From a log of interactions to a data set: order, filters, counts of what is dropped, our ids.

Order of the steps: sort by time (``ties``), duplicates, k-core, items without a title, k-core again, the last
``max_length`` interactions, sample of users. ``min_length`` is part of the k-core: the least that a user needs.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import polars as pl

from common.arrays import Slices, starts_of
from common.dataset import LISTED, MIN_ITEMS
from common.errors import UserError
from importers.raw import RawData, RawLog, is_missing, losses

_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->")


@dataclass(frozen=True)
class Filters:
    """What is dropped. The defaults drop nothing, and stop where something has to be dropped."""

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
    "sicsrec": Filters(min_length=5),  # NineRec's users have at least five items
    "adrec": Filters(k_core=5, duplicates="first", missing_titles="drop", html="clean"),  # five-core, items with titles
}


def filters_of(preset: str, changes: Mapping[str, Any]) -> Filters:
    """The preset with the values of ``changes`` that are not None."""
    return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


class _Log:
    """The interactions that are kept, as codes of user and item; sorted by user, then by time."""

    def __init__(self, raw: RawLog, ties: str, seed: int, bad_rows: Mapping[str, int]) -> None:
        self.raw, self.bad_rows, self.dropped = raw, bad_rows, Counter[str]()
        users, self.user_ids = _encode(raw.log["user"], raw.numbered)
        items, self.item_ids = _encode(raw.log["item"], raw.numbered)
        table = raw.log.select("time", "line").with_columns(user=users, item=items)
        keys = ["time"]
        if ties != "row":
            order = items if raw.numbered else self.item_ids.arg_sort().arg_sort().gather(items)
            if ties == "random":
                order = pl.Series(np.random.default_rng(seed).permutation(len(items)))
            table, keys = table.with_columns(tie=order), ["time", "tie"]
        by_time = table.sort(keys, maintain_order=True).select("user", "item", "time", "line")
        self.table = by_time.sort("user", maintain_order=True)  # twice as fast as one sort by all keys

    @property
    def items(self) -> pl.Series:
        """The codes of the items that are left, ascending."""
        return self.table["item"].unique().sort()

    @property
    def lengths(self) -> pl.DataFrame:
        """The users that are left, in order: user, number of interactions (len), first line."""
        return self.table.group_by("user", maintain_order=True).agg(pl.len(), pl.col("line").min())

    def keep(self, condition: pl.Expr, reason: str) -> bool:
        """Keep the interactions that fulfil the condition and count the others; return whether there were others."""
        kept = self.table.filter(condition)
        lost = self.table.height - kept.height
        if lost:
            self.dropped[reason] += lost
            self.table = kept
            if not kept.height:
                counts = losses({**self.bad_rows, **self.dropped})
                raise UserError(f"{self.raw.file}: the filters leave no interaction{counts}; loosen them")
        return lost > 0

    def drop_duplicates(self, rule: str) -> None:
        """Drop an item that a user had before: at the same time (``row``), or at any time (``first``)."""
        if rule != "keep":
            pair = pl.col("user").cast(pl.UInt64) * len(self.item_ids) + pl.col("item")  # faster than a struct of both
            self.keep((pl.struct(pair, "time") if rule == "row" else pair).is_first_distinct(), "duplicates")

    def core(self, k: int, min_length: int) -> None:
        """Drop users with fewer than ``max(k, min_length)`` items and items with fewer than k users, until none is."""
        least = max(k, min_length)
        changed = True
        while changed:
            changed = self.keep(pl.len().over("user") >= least, f"users with fewer than {least} interactions")
            changed |= self.keep(pl.len().over("item") >= k, f"items with fewer than {k} interactions")

    def read_texts(self, missing_titles: str, clean: bool) -> pl.DataFrame:
        """The texts of the items.

        Args:
            missing_titles: stop: an item without a row stops the run, a blank title is an empty text, as in the
                authors' Bili_Cartoon; drop: items without a row or with a blank title are dropped.
        """
        ids = self.item_ids.gather(self.items)
        texts = self.raw.describe(ids).fill_null("")
        text = pl.exclude("item")
        texts = texts.with_columns(pl.when(~is_missing(text.str.strip_chars())).then(text).otherwise(pl.lit("")))
        if clean:
            columns = [name for name in texts.columns if name not in ("item", "image_url")]
            texts = texts.with_columns(pl.Series(name, list(map(plain, texts[name])), pl.String) for name in columns)
        stop = missing_titles == "stop"
        has_title = pl.any_horizontal(pl.col("title_cn", "title_en") != "")
        described = texts if stop else texts.filter(has_title)
        missing = self.items.filter(~ids.is_in(described["item"].implode()))
        if len(missing) and stop:
            names = self.item_ids.gather(missing)
            line: Any = self.table.filter(pl.col("item") == missing[0])["line"].min()
            listed = ", ".join(names.head(LISTED)) + " …" * (len(names) > LISTED)
            raise UserError(
                f"{self.raw.place(line)}: item {names[0]} has no row in {self.raw.items_file}{losses(self.bad_rows)}; "
                f"add it there, or drop such items with missing_titles=drop ({len(names)} of them: {listed})"
            )
        self.keep(~pl.col("item").is_in(missing.implode()), "items without a title")
        return texts

    def keep_last(self, most: int) -> None:
        """Keep the last ``most`` interactions of each user; 0: all."""
        if most:
            from_the_end = pl.col("item").cum_count(reverse=True).over("user")
            self.keep(from_the_end <= most, f"before a user's last {most}")

    def sample_users(self, size: int, seed: int) -> None:
        """Keep ``size`` users, drawn with the seed; 0: all."""
        users = self.lengths["user"]
        if size and size < len(users):
            drawn = np.random.default_rng(seed).choice(users.to_numpy(), size, replace=False)
            self.keep(pl.col("user").is_in(drawn), "users not in the sample")

    def check_lengths(self) -> None:
        """Stop for a user with fewer than `MIN_ITEMS` interactions."""
        short = self.lengths.filter(pl.col("len") < MIN_ITEMS)
        if short.height:
            user, length, line = short.row(0)
            raise UserError(
                f"{self.raw.place(line)}: user {self.user_ids[user]} has {length} interactions, fewer than "
                f"{MIN_ITEMS}: the last is for test, the one before for validation; drop such users with "
                f"min_length={MIN_ITEMS} ({short.height} of {self.lengths.height})"
            )


def apply_filters(raw: RawLog, filters: Filters, seed: int, bad_rows: Mapping[str, int]) -> RawData:
    """Filter a log, and number users and items.

    Args:
        seed: seed of the sample of users and of the random order of ties.
        bad_rows: reason → number of rows that the reader dropped.

    Raises:
        UserError: a user with fewer than 3 interactions or an item without a row that no filter drops, or nothing is
            left.
    """
    log = _Log(raw, filters.ties, seed, bad_rows)
    log.drop_duplicates(filters.duplicates)
    log.core(filters.k_core, filters.min_length)
    texts = log.read_texts(filters.missing_titles, filters.html == "clean")
    log.core(filters.k_core, filters.min_length)
    log.keep_last(filters.max_length)
    log.sample_users(filters.user_sample, seed)
    log.check_lengths()
    item_ids = log.item_ids.gather(log.items)
    items = (log.table["item"].rank("dense") - 1).to_numpy()
    texts = item_ids.to_frame("item").join(texts, on="item", how="left", maintain_order="left").fill_null("")
    names = [name for name in texts.columns if name not in ("item", "title_cn", "title_en")]
    return RawData(
        sequences=Slices(items, starts_of(log.lengths["len"].to_numpy())),
        titles=texts.select("title_cn", "title_en").rows(),
        user_ids=[raw.user_names.get(user, user) for user in log.user_ids.gather(log.lengths["user"])],
        item_ids=[raw.item_names.get(item, item) for item in item_ids],
        fields={name: texts[name].to_list() for name in names if (texts[name] != "").any()},
        dropped=dict(log.dropped),
        bad_rows=dict(bad_rows),
        times=log.table["time"].to_numpy() if raw.has_times else None,
    )


def plain(text: str) -> str:
    """The text without HTML: tags become blanks, entities characters; if there was any, runs of blanks become one."""
    if "<" not in text and "&" not in text:
        return text
    found = html.unescape(_TAG.sub(" ", text))
    return text if found == text else " ".join(found.split())


def _encode(ids: pl.Series, numbered: bool) -> Tuple[pl.Series, pl.Series]:
    """The code of each id, and the distinct ids by code: by first appearance, or by the numbers in the ids."""
    ids = ids.cast(pl.Categorical)
    distinct = ids.unique(maintain_order=True)
    if numbered:
        distinct = distinct.gather(sorted(range(len(distinct)), key=lambda place: _natural(distinct[place])))
    categories = distinct.to_physical().to_numpy()
    codes = np.zeros(np.max(categories, initial=0) + 1, dtype=np.uint32)
    codes[categories] = np.arange(len(distinct), dtype=np.uint32)
    return pl.Series(codes[ids.to_physical().to_numpy()]), distinct.cast(pl.String)


def _natural(text: str) -> List[Tuple[int, int, str]]:
    """A key that sorts 2 before 10, and numbers before words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split("([0-9]+)", text) if part]
