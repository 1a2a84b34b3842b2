"""The kinds of data that can be prepared: the names of their files, what settings they read, and their readers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from common.dataset import covers_path, items_path, sequences_path
from common.errors import UserError, nearest
from common.item_fields import item_fields_path
from stage1_content_modality_semantic_alignment.cover_sources import Covers, open_covers
from stage1_content_modality_semantic_alignment.covers_folder import made_here
from stage1_content_modality_semantic_alignment.sources.adrec_arrays import adrec_files, read_adrec
from stage1_content_modality_semantic_alignment.sources.amazon import amazon_files, read_amazon
from stage1_content_modality_semantic_alignment.sources.filters import Filters, apply_filters, filters_of
from stage1_content_modality_semantic_alignment.sources.ml100k import ml100k_in_recbole, read_ml100k
from stage1_content_modality_semantic_alignment.sources.processed import read_letter, read_recformer, read_unisrec
from stage1_content_modality_semantic_alignment.sources.raw import BadRows, RawData, RawLog
from stage1_content_modality_semantic_alignment.sources.tables import read_ninerec, read_table

FOUND = ("ml-100k", "ninerec", "letter", "amazon2018", "amazon2023", "recformer", "unisrec", "adrec", "prepared")
SOURCES = (*FOUND[:-1], "table", "prepared")  # auto looks for FOUND, in this order: raw files win
AMAZON = ("amazon2018", "amazon2023")
FILTERS = tuple(f.name for f in fields(Filters))
COLUMNS = ("user_column", "item_column", "time_column", "item_id_column", "title_column", "title_cn_column")
OWN = {  # settings that not every kind reads
    "ml-100k": ("last_items", "draw_covers"),
    "prepared": (),
    "table": ("inter_file", "item_file", *COLUMNS, "field_columns", "bad_rows", "preset", "sample_seed", *FILTERS),
    **dict.fromkeys(AMAZON, ("inter_file", "item_file", "bad_rows", "preset", "sample_seed", *FILTERS)),
    **dict.fromkeys(
        ("ninerec", "letter", "recformer", "unisrec", "adrec"), ("bad_rows", "preset", "sample_seed", *FILTERS)
    ),
}
RECFORMER = ("umap", "train", "val", "test", "smap", "meta_data")


@dataclass(frozen=True)
class Source:
    """What is prepared from: its kind (one of SOURCES), its files by meaning, its covers."""

    kind: str
    files: Dict[str, Path]
    covers: Optional[Covers]

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return next(iter(self.files.values())).parent


def files_of(kind: str, folder: Path, dataset: str) -> Iterator[Dict[str, Path]]:
    """The files of a kind by meaning, in each form that they may have; by the first of them it is recognised."""
    if kind == "ml-100k":
        yield {"inter": folder / "ml-100k.inter", "item": folder / "ml-100k.item"}
    elif kind == "ninerec":
        yield {"pair": folder / f"{dataset}_pair.csv", "item": folder / f"{dataset}_item.csv"}
    elif kind == "letter":
        yield {"inter": folder / f"{dataset}.inter.json", "item": folder / f"{dataset}.item.json"}
    elif kind in AMAZON:
        yield from amazon_files(kind, folder, dataset)
    elif kind == "adrec":
        yield from adrec_files(folder, dataset)
    elif kind == "recformer":
        yield {name: folder / f"{name}.json" for name in RECFORMER}
    elif kind == "unisrec":
        parts = {part: folder / f"{dataset}.{part}.inter" for part in ("train", "valid", "test")}
        yield {**parts, **{name: folder / f"{dataset}.{name}" for name in ("text", "user2index", "item2index")}}
    elif kind == "prepared":
        found = {"sequences": sequences_path(folder), "items": items_path(folder, dataset)}
        more = item_fields_path(folder, dataset)
        yield {**found, "fields": more} if more.exists() else found


def find_source(settings: Any) -> Source:
    """Tell what is to be prepared by the files that lie in ``data_dir``, or in its folder named after the data set."""
    if settings.inter_file or settings.source == "table":
        files = _named_files(settings)
        _refuse_unread(settings, settings.source)
        return Source(settings.source, files, _find_covers(settings, files["inter"].parent, settings.source))
    kinds = FOUND if settings.source == "auto" else (settings.source,)
    folders, half = _folders(settings), []
    for folder in folders:
        for kind in kinds:
            for files in files_of(kind, folder, settings.dataset):
                if next(iter(files.values())).is_file():
                    _refuse_unread(settings, kind)
                    _refuse_missing(kind, files)
                    return Source(kind, files, _find_covers(settings, folder, kind))
                half += [(kind, files)] if any(path.is_file() for path in files.values()) else []
    if half:
        _refuse_missing(*half[0])
    if settings.data_dir and not Path(settings.data_dir).is_dir():
        above = Path(settings.data_dir).parent
        near = nearest(Path(settings.data_dir).name, [path.name for path in above.glob("*/")])
        raise UserError(f"data_dir={settings.data_dir}: no such folder{near}")
    first = [next(files_of(kind, folders[0], settings.dataset)) for kind in kinds]
    wanted = [" and ".join(path.name for path in files.values()) for files in first]
    raise UserError(
        f"{' and '.join(map(str, folders))}: no files of {settings.dataset}; say data_dir=FOLDER, or for tables of "
        f"your own --from table and their columns (docs/data_formats.md). Known by name are {'; '.join(wanted)}"
    )


def _refuse_missing(kind: str, files: Mapping[str, Path]) -> None:
    """Stop where of the files that belong together some lie there and some do not."""
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        there = ", ".join(path.name for path in files.values() if path.is_file())
        raise UserError(f"{missing[0]}: no such file; {kind} needs it beside {there} (docs/data_formats.md)")


def read_source(settings: Any, source: Source) -> Optional[RawData]:
    """The data set in our ids, filtered; None for prepared files."""
    if source.kind == "prepared":
        return None
    if source.kind == "ml-100k":
        return read_ml100k(source.files["inter"], source.files["item"], settings.last_items)
    default = "adrec" if source.kind in AMAZON else "none"
    filters = filters_of(settings.preset or default, {name: getattr(settings, name) for name in FILTERS})
    return apply_filters(_read_log(settings, source), filters, settings.sample_seed)


def _read_log(settings: Any, source: Source) -> RawLog:
    bad = BadRows(settings.bad_rows)
    if source.kind in AMAZON:
        return read_amazon(source.kind, source.files, bad)
    if source.kind == "table":
        columns = {"user": settings.user_column, "item": settings.item_column, "time": settings.time_column}
        texts = {"item": settings.item_id_column, "title_en": settings.title_column}
        texts.update({"title_cn": settings.title_cn_column} if settings.title_cn_column else {})
        return read_table(source.files, columns, texts, settings.field_columns, bad)
    readers = {
        "ninerec": read_ninerec,
        "letter": read_letter,
        "recformer": read_recformer,
        "unisrec": read_unisrec,
        "adrec": read_adrec,
    }
    return readers[source.kind](source.files, bad)


def _named_files(settings: Any) -> Dict[str, Path]:
    if settings.source == "auto":
        raise UserError("setting 'inter_file' names a file, but not what it is; say --from table, or another KIND")
    if not settings.inter_file or not settings.item_file:
        raise UserError("name the tables of interactions and of items: inter_file=FILE item_file=FILE")
    folder = Path(settings.data_dir or ".")
    files = {"inter": folder / settings.inter_file, "item": folder / settings.item_file}
    for meaning, path in files.items():
        if not path.is_file():
            near = nearest(path.name, [file.name for file in path.parent.glob("*")])
            raise UserError(f"{meaning}_file: {path}: no such file{near}")
    return files


def _folders(settings: Any) -> List[Path]:
    if settings.data_dir is not None:
        return [Path(settings.data_dir), Path(settings.data_dir) / settings.dataset]
    if "ml-100k" in (settings.source, settings.dataset) and settings.source in ("auto", "ml-100k"):
        return [ml100k_in_recbole()]
    return [settings.dataset_dir]


def _refuse_unread(settings: Any, kind: str) -> None:
    """Stop for a setting that this kind of source would not read."""
    defaults = type(settings)()
    for name in dict.fromkeys(name for names in OWN.values() for name in names):
        if name not in OWN[kind] and getattr(settings, name) != getattr(defaults, name):
            readers = [known for known, names in OWN.items() if name in names]
            raise UserError(
                f"setting '{name}' is for {', '.join(readers)} only, and these files are of the kind {kind}; "
                "leave it out"
            )


def _find_covers(settings: Any, folder: Path, kind: str) -> Optional[Covers]:
    """``covers_dir``, else covers beside the files, else, for prepared files alone, those that a user put in place.

    Raw covers bear the original ids, so covers/, where ours stand, is no source for them.
    """
    standing = covers_path(settings.dataset_dir)
    beside = [folder / f"{settings.dataset}_cover", folder / f"{settings.dataset}_cover1"]
    users_own = [] if made_here(standing) else [standing]
    places = {"ml-100k": [], "prepared": [covers_path(folder), *beside, *users_own]}.get(kind, beside)
    if settings.covers_dir is not None:
        places = [Path(settings.covers_dir)]
    found = next((covers for covers in map(open_covers, places) if covers), None)
    if settings.covers_dir is not None and found is None:
        there = Path(settings.covers_dir).exists() and settings.covers_dir
        told = "holds no .jpg file, nor .png or .webp" if there else "no such folder or LMDB"
        raise UserError(f"covers_dir={settings.covers_dir}: {told}; correct it")
    if kind != "prepared" and found is not None and found.path.resolve() == standing.resolve():
        raise UserError(
            f"{found.path}: is where this step writes its covers; move the folder, and say covers_dir=FOLDER"
        )
    return found
