"""The importer's filters, each against what it says, and the k-core against the plain definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from importers.filters import Filters, apply_filters, filters_of, plain
from importers.raw import LOG, RawData, RawLog

Rows = Sequence[Tuple[str, str, float]]


def raw(rows: Rows, untitled: str = "") -> RawLog:
    log = pl.DataFrame([(*row, n) for n, row in enumerate(rows, start=1)], schema=LOG, orient="row")

    def describe(ids: pl.Series) -> pl.DataFrame:
        titles = ["" if item in untitled else f"<i>{item}</i>" for item in ids]
        return pl.DataFrame({"item": ids, "title_cn": [""] * len(ids), "title_en": titles})

    return RawLog(log, describe, Path("log"), Path("items"))


def histories(data: RawData) -> List[str]:
    return ["".join(data.item_ids[item] for item in items) for items in data.sequences]


def filtered(rows: Rows, seed: int = 0, **chosen: Any) -> List[str]:
    return histories(apply_filters(raw(rows), Filters(**chosen), seed, {}))


def words(*users: str) -> List[Tuple[str, str, float]]:
    """A user a word, an item a letter, in time order."""
    return [(word, letter, float(n)) for word in users for n, letter in enumerate(word)]


def test_lengths() -> None:
    assert filtered(words("abcde", "ab", "xyz"), min_length=3) == ["abcde", "xyz"]
    assert filtered(words("abcde", "xyz"), max_length=4) == ["bcde", "xyz"]
    with pytest.raises(UserError, match="log:6: user ab has 2 interactions, fewer than 3.*min_length=3"):
        filtered(words("abcde", "ab"))


def test_duplicates() -> None:
    rows = [("u", "a", 1.0), ("u", "a", 1.0), ("u", "b", 2.0), ("u", "a", 3.0), ("u", "c", 4.0)]
    assert filtered(rows) == ["aabac"]
    assert filtered(rows, duplicates="row") == ["abac"]
    assert filtered(rows, duplicates="first") == ["abc"]


def test_ties() -> None:
    rows = [("u", "c", 1.0), ("u", "a", 1.0), ("u", "b", 0.0)]
    assert filtered(rows, ties="row") == ["bca"]
    assert filtered(rows, ties="item") == filtered(rows[::-1], ties="item") == ["bac"]
    drawn = [filtered(rows, seed, ties="random")[0] for seed in range(9)]
    assert set(drawn) == {"bac", "bca"} and filtered(rows, 3, ties="random") == [drawn[3]]


def test_the_sample_is_seeded() -> None:
    rows = words(*(first + "xyz" for first in "abcdefgh"))
    drawn = [filtered(rows, seed, user_sample=4) for seed in range(5)]
    assert {len(users) for users in drawn} == {4}
    assert filtered(rows, 3, user_sample=4) == drawn[3]
    assert len(set(map(tuple, drawn))) > 1


def test_each_interaction_left_out_is_counted_once() -> None:
    rows = [*words("abcdd", "abc", "bcda", "z"), ("w", "q", 1.0), ("w", "a", 2.0), ("w", "b", 3.0), ("w", "c", 4.0)]
    data = apply_filters(
        raw(rows, "q"), Filters(duplicates="first", min_length=3, missing_titles="drop", max_length=3), 0, {}
    )
    assert data.dropped == {
        "duplicates": 1,
        "users with fewer than 3 interactions": 1,
        "items without a title": 1,
        "before a user's last 3": 2,
    }
    assert sum(map(len, histories(data))) == len(rows) - sum(data.dropped.values())


def test_html_is_cleaned_on_request() -> None:
    assert apply_filters(raw(words("abc")), Filters(), 0, {}).titles[0] == ("", "<i>a</i>")
    assert apply_filters(raw(words("abc")), Filters(html="clean"), 0, {}).titles[0] == ("", "a")
    assert plain("a  b") == "a  b"
    assert plain("Saws &amp; <br/>more, 3 < 4 > 2") == "Saws & more, 3 < 4 > 2"


def test_presets_give_what_is_not_said() -> None:
    assert filters_of("adrec", {"k_core": None, "min_length": 4}) == Filters(
        5, 4, 0, "first", "drop", 0, "row", "clean"
    )
    assert filters_of("sicsrec", {}).min_length == 5


PAIRS = st.lists(st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcde")), min_size=1, max_size=60)


@settings(deadline=None, max_examples=40)
@given(PAIRS, st.integers(3, 5))
def test_the_core_is_the_largest_set_in_which_all_have_k(pairs: List[Tuple[str, str]], k: int) -> None:
    rows = [(user, item, float(n)) for n, (user, item) in enumerate(pairs)]
    left = list(rows)
    while True:
        users, items = [row[0] for row in left], [row[1] for row in left]
        kept = [row for row in left if users.count(row[0]) >= k and items.count(row[1]) >= k]
        if kept == left:
            break
        left = kept
    if not left:
        with pytest.raises(UserError, match="leave no interaction"):
            filtered(rows, k_core=k)
        return
    wanted = ["".join(i for u, i, _ in left if u == user) for user in dict.fromkeys(u for u, _, _ in rows)]
    assert filtered(rows, k_core=k) == [history for history in wanted if history]
