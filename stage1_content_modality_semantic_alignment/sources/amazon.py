"""Reader of Amazon's reviews, as UCSD published them in 2018 and in 2023: reviews, and the products' metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import polars as pl

from stage1_content_modality_semantic_alignment.sources.raw import BadRows, RawLog, table_of_texts
from stage1_content_modality_semantic_alignment.sources.rows import json_rows, read_interactions

FIELDS = ("brand", "category", "description", "image_url")
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
    """Reviews as interactions, whatever their stars. Titles are English; the fields are `FIELDS`.

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
    rows = pl.concat(found).unique(subset=keys["item"], keep="first", maintain_order=True) if found else None
    entries = (
        {field: _first_filled(row, names, field) for field, names in keys.items()}
        for row in (rows.iter_rows(named=True) if rows is not None else ())
    )
    return table_of_texts(({**entry, "title_cn": "", "title_en": _title(entry["title"])} for entry in entries), FIELDS)


def _title(title: str) -> str:
    """A title of 2018 that is a piece of a page's script, as UCSD's own notes say, is none."""
    return "" if "getTime" in title else title


def _first_filled(row: Mapping[str, Any], names: List[str], field: str) -> str:
    texts = (_flat(row[name] or "", field) for name in names)
    return next((text for text in texts if text), "")


def _flat(text: str, field: str) -> str:
    """A text, or the texts of a JSON list: joined, or of pictures the first URL."""
    if not text.startswith("["):
        return text.strip()
    try:
        parts = json.loads(text)
    except ValueError:
        return text.strip()
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
