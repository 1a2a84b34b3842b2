"""Reader of Amazon's reviews, as UCSD published them in 2018 and in 2023: reviews, and the products' metadata."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import polars as pl

from common.errors import UserError
from stage1_content_modality_semantic_alignment.sources.raw import BadRows, RawLog
from stage1_content_modality_semantic_alignment.sources.rows import json_rows, read_interactions

REVIEWS = {
    "amazon2018": {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"},
    "amazon2023": {"user": "user_id", "item": "parent_asin", "time": "timestamp"},
}
META: Dict[str, Dict[str, List[str]]] = {  # our field → their keys, of which the first that is filled counts
    "amazon2018": {
        "item": ["asin"],
        "title": ["title"],
        "brand": ["brand"],
        "category": ["category", "categories"],
        "description": ["description"],
        "image_url": ["imageURLHighRes", "imageURL", "imUrl", "image"],
    },
    "amazon2023": {
        "item": ["parent_asin"],
        "title": ["title"],
        "brand": ["store"],
        "category": ["categories", "main_category"],
        "description": ["description"],
        "image_url": ["images"],
    },
}
URLS = ("hi_res", "large", "thumb")  # 2023's pictures, the best first


def amazon_files(kind: str, folder: Path, dataset: str) -> Iterator[Dict[str, Path]]:
    """The sets of files in which a category may lie: 5-core before all reviews, benchmark tables last."""
    suffixes = ("json.gz", "json") if kind == "amazon2018" else ("jsonl.gz", "jsonl")
    for suffix in suffixes:
        meta = folder / f"meta_{dataset}.{suffix}"
        for stem in (f"{dataset}_5", dataset) if kind == "amazon2018" else (dataset,):
            yield {"inter": folder / f"{stem}.{suffix}", "item": meta}
        for csv in ("csv.gz", "csv") if kind == "amazon2023" else ():
            yield {"inter": folder / f"{dataset}.{csv}", "item": meta}
            parts = {part: folder / f"{dataset}.{part}.{csv}" for part in ("train", "valid", "test")}
            yield {"inter": parts["train"], "valid": parts["valid"], "test": parts["test"], "item": meta}


def read_amazon(kind: str, files: Mapping[str, Path], bad: BadRows) -> RawLog:
    """Reviews as interactions, whatever their stars. Titles are English.

    The benchmark's train, valid and test tables are put together again.
    """
    logs = [read_interactions(path, REVIEWS[kind], bad) for name, path in files.items() if name != "item"]
    log = logs[0] if len(logs) == 1 else pl.concat(logs).with_columns(line=pl.lit(None, pl.UInt32))
    return RawLog(log, lambda ids: _describe(kind, files["item"], ids, bad), files["inter"], files["item"], bad)


def _describe(kind: str, meta: Path, ids: pl.Series, bad: BadRows) -> pl.DataFrame:
    keys = META[kind]
    columns = [key for names in keys.values() for key in names]
    item = keys["item"][0]
    frames = (frame.with_columns(pl.col(item).str.strip_chars()) for frame in json_rows(meta, columns, bad))
    found = [frame.join(ids.to_frame(item), on=item, how="semi") for frame in frames]
    if not found:
        raise UserError(f"{meta}:1: holds no products; fetch it again")
    rows = pl.concat(found).unique(subset=item, keep="first", maintain_order=True)
    texts = {field: _texts(rows, names, field) for field, names in keys.items()}
    titles = ["" if "getTime" in title else title for title in texts.pop("title")]  # a page's script, say UCSD's notes
    table = {"item": texts.pop("item"), "title_cn": [""] * len(titles), "title_en": titles, **texts}
    return pl.DataFrame({name: pl.Series(column, dtype=pl.String) for name, column in table.items()})


def _texts(rows: pl.DataFrame, names: List[str], field: str) -> List[str]:
    """Of each row the first key that is filled, as text."""
    stripped = [pl.col(name).str.strip_chars() for name in names]
    filled = [pl.when(~text.is_in(["", "[]", "{}"])).then(text) for text in stripped]
    found: List[str] = rows.select(pl.coalesce(filled).fill_null("")).to_series().to_list()
    return [_flat(text, field) if text[:1] == "[" else text for text in found]


@lru_cache(maxsize=1 << 16)  # categories repeat
def _flat(text: str, field: str) -> str:
    """The texts of a JSON list joined, or of pictures the first URL; other texts as they are."""
    try:
        parts = json.loads(text)
    except ValueError:
        return text
    if field == "image_url":
        return next((url for part in parts for url in _urls(part)), "")
    joined = " " if field == "description" else ", "
    return joined.join(str(part).strip() for part in _leaves(parts) if part)


def _leaves(parts: Any) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, list):
            yield from _leaves(part)
        else:
            yield part


def _urls(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (part[size] for size in URLS if part.get(size))
    elif part:
        yield str(part)
