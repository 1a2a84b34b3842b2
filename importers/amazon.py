"""Reader of Amazon's reviews and product metadata, as UCSD published them in 2018 and in 2023."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List

import polars as pl

from common.errors import UserError
from importers.raw import BadRows, Files, RawLog, is_missing, joined, parsed_list
from importers.tables import read_frames, read_interactions

REVIEWS_2018 = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
REVIEWS_2023 = {"user": "user_id", "item": "parent_asin", "time": "timestamp"}
Meta = Dict[str, List[str]]  # our field → their keys; the first that is not empty is taken
META_2018: Meta = {
    "item": ["asin"],
    "title_en": ["title"],
    "brand": ["brand"],
    "category": ["category", "categories"],
    "description": ["description"],
    "image_url": ["imageURLHighRes", "imageURL", "imUrl", "image"],
}
META_2023: Meta = {
    "item": ["parent_asin"],
    "title_en": ["title"],
    "brand": ["store"],
    "category": ["categories", "main_category"],
    "description": ["description"],
    "image_url": ["images"],
}
URLS = ("hi_res", "large", "thumb")  # pictures of 2023, the best first


def files_2018(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a category: the 5-core before all reviews."""
    for suffix in ("json.gz", "json"):
        for stem in (f"{dataset}_5", dataset):
            yield {"inter": folder / f"{stem}.{suffix}", "item": folder / f"meta_{dataset}.{suffix}"}


def files_2023(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a category: all reviews, else the benchmark's table, else its three parts."""
    for suffix in ("jsonl.gz", "jsonl"):
        meta = folder / f"meta_{dataset}.{suffix}"
        yield {"inter": folder / f"{dataset}.{suffix}", "item": meta}
        for csv in ("csv.gz", "csv"):
            yield {"inter": folder / f"{dataset}.{csv}", "item": meta}
            train, valid, test = (folder / f"{dataset}.{part}.{csv}" for part in ("train", "valid", "test"))
            yield {"inter": train, "valid": valid, "test": test, "item": meta}


def read_2018(files: Files, bad: BadRows) -> RawLog:
    """Read the reviews of 2018 as interactions, whatever their stars."""
    log = read_interactions(files["inter"], REVIEWS_2018, bad)
    return RawLog(log, lambda ids: _describe(files["item"], META_2018, ids, bad), files["inter"], files["item"])


def read_2023(files: Files, bad: BadRows) -> RawLog:
    """Read the reviews of 2023, whatever their stars; the benchmark's train, valid and test tables are joined."""
    logs = [read_interactions(path, REVIEWS_2023, bad) for meaning, path in files.items() if meaning != "item"]
    log = logs[0] if len(logs) == 1 else pl.concat(logs).with_columns(line=pl.lit(None, pl.UInt32))
    return RawLog(log, lambda ids: _describe(files["item"], META_2023, ids, bad), files["inter"], files["item"])


def _describe(path: Path, meta: Meta, ids: pl.Series, bad: BadRows) -> pl.DataFrame:
    """The texts of the items; a product that is described twice keeps the first."""
    (item,) = meta["item"]
    found = []
    for frame in read_frames(path, [key for keys in meta.values() for key in keys], bad):
        frame = frame.with_columns(pl.col(item).str.strip_chars())
        found.append(frame.filter(pl.col(item).is_in(ids.implode())))
    if not found:
        raise UserError(f"{path}:1: holds no products; download it again")
    rows = pl.concat(found).unique(subset=item, keep="first", maintain_order=True)
    texts = {field: _texts(rows, keys, field) for field, keys in meta.items()}
    texts["title_en"] = ["" if "getTime" in title else title for title in texts["title_en"]]  # a script of the page
    table = pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))
    return table.with_columns(title_cn=pl.lit(""))


def _texts(rows: pl.DataFrame, keys: List[str], field: str) -> List[str]:
    """The first key that is not empty in each row, as text."""
    stripped = [pl.col(key).str.strip_chars() for key in keys]
    filled = [pl.when(~is_missing(text)).then(text) for text in stripped]
    texts = rows.select(pl.coalesce(filled).fill_null("")).to_series()
    return [_flat(text, field) if text.startswith("[") else text for text in texts]


@lru_cache(maxsize=1 << 16)  # categories repeat
def _flat(text: str, field: str) -> str:
    """The texts of a JSON list joined, or the first URL of pictures; any other text unchanged."""
    parts = parsed_list(text)
    if field == "image_url" and isinstance(parts, list):
        urls = (part.get(size) if isinstance(part, dict) else part for part in parts for size in URLS)
        return str(next(filter(None, urls), ""))
    return joined(parts, " " if field == "description" else ", ")
