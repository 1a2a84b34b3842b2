"""The kinds of data that can be prepared: their files, their readers and the settings that these use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from common.dataset import items_path, sequences_path, times_path
from common.errors import UserError, nearest
from common.item_fields import item_fields_path
from importers import adrec_arrays, amazon, histories, ml100k, ninerec, own_tables, unisrec
from importers.filters import Filters, apply_filters, filters_of
from importers.raw import BadRows, Files, RawData, RawLog
from importers.settings import Settings


def prepared_files(folder: Path, dataset: str) -> Iterator[Files]:
    """The files of a prepared data set."""
    found = {"sequences": sequences_path(folder), "items": items_path(folder, dataset)}
    optional = {"fields": item_fields_path(folder, dataset), "times": times_path(folder)}
    yield {**found, **{meaning: path for meaning, path in optional.items() if path.exists()}}


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Attributes:
        files: folder and data set → the files in each form that they may have; the first file of a form identifies it.
        read: reads the interactions; None for tables, whose settings name the columns, and for prepared files.
        settings: the settings that not every kind reads, and this one does.
    """

    files: Optional[Callable[[Path, str], Iterator[Files]]]
    read: Optional[Callable[[Files, BadRows], RawLog]]
    settings: Tuple[str, ...]


FILTERS = tuple(f.name for f in fields(Filters))
FILTERED = ("bad_rows", "preset", "sample_seed", *FILTERS)
NAMED = ("inter_file", "item_file", *FILTERED)
COLUMNS = ("user_column", "item_column", "time_column", "item_id_column", "title_column", "title_cn_column")
AMAZON = ("amazon2018", "amazon2023")
KINDS: Dict[str, Kind] = {  # auto takes the first whose files are all there: raw files before prepared ones
    "ml-100k": Kind(ml100k.files, ml100k.read, ("last_items", "draw_covers", "bad_rows", "ties", "sample_seed")),
    "ninerec": Kind(ninerec.files, ninerec.read, FILTERED),
    "letter": Kind(histories.files_letter, histories.read_letter, FILTERED),
    "amazon2018": Kind(amazon.files_2018, amazon.read_2018, NAMED),
    "amazon2023": Kind(amazon.files_2023, amazon.read_2023, NAMED),
    "recformer": Kind(histories.files_recformer, histories.read_recformer, FILTERED),
    "unisrec": Kind(unisrec.files, unisrec.read, FILTERED),
    "s3rec": Kind(histories.files_s3rec, histories.read_s3rec, FILTERED),
    "adrec": Kind(adrec_arrays.files, adrec_arrays.read, FILTERED),
    "table": Kind(None, None, (*NAMED, *COLUMNS, "field_columns")),
    "prepared": Kind(prepared_files, None, ()),
}


def find_source(settings: Settings) -> Tuple[str, Files]:
    """Find the kind and the files in ``data_dir``, or in its folder named like the data set.

    Raises:
        UserError: no files, only some of the files that belong together, or a setting that the kind does not read.
    """
    if settings.inter_file or settings.source == "table":
        kind, files = settings.source, own_tables.named_files(settings)
    else:
        readers = {name: kind.files for name, kind in KINDS.items() if kind.files and settings.source in ("auto", name)}
        folders = _folders(settings)
        forms = [
            (name, files)
            for folder in folders
            for name, files_of in readers.items()
            for files in files_of(folder, settings.dataset)
        ]

        def found(form: Tuple[str, Files]) -> Tuple[bool, bool, bool]:
            """Whether all files of a form are there, the one that identifies it, any."""
            files = [path.is_file() for path in form[1].values()]
            return all(files), files[0], any(files)

        # SICSRec's authors keep .inter files, some of UniSRec's, beside their prepared ones: whole forms come first
        best = max(forms, key=found)
        if not any(found(best)):
            known = [next(files_of(folders[0], settings.dataset)) for files_of in readers.values()]
            raise UserError(_describe_nothing(settings, folders, known))
        kind, files = best
    _refuse_unread(settings, kind)
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        there = ", ".join(path.name for path in files.values() if path.is_file())
        raise UserError(f"{missing[0]}: no such file; {kind} needs it beside {there} (docs/data_formats.md)")
    return kind, files


def read_source(settings: Settings, kind: str, files: Files) -> Optional[RawData]:
    """Read and filter a source of a kind; None for prepared files."""
    bad = BadRows(settings.bad_rows)
    read = KINDS[kind].read
    if kind == "table":
        log = own_tables.read(files, settings, bad)
    elif read:
        log = read(files, bad)
    else:
        return None
    if kind == "ml-100k":
        filters = Filters(max_length=settings.last_items, ties=settings.ties or "item")
    else:
        preset = settings.preset or ("adrec" if kind in AMAZON else "none")
        filters = filters_of(preset, {name: getattr(settings, name) for name in FILTERS})
    return apply_filters(log, filters, settings.sample_seed, bad.dropped)


def _folders(settings: Settings) -> List[Path]:
    if settings.data_dir is not None:
        return [Path(settings.data_dir), Path(settings.data_dir) / settings.dataset]
    if "ml-100k" in (settings.source, settings.dataset) and settings.source in ("auto", "ml-100k"):
        return [ml100k.folder_in_recbole()]
    return [settings.dataset_dir]


def _describe_nothing(settings: Settings, folders: Sequence[Path], known: Sequence[Files]) -> str:
    if settings.data_dir and not folders[0].is_dir():
        near = nearest(folders[0].name, [path.name for path in folders[0].parent.glob("*/")])
        return f"data_dir={folders[0]}: no such folder{near}"
    names = "; ".join(" and ".join(path.name for path in files.values()) for files in known)
    return (
        f"{' and '.join(map(str, folders))}: no files of {settings.dataset}; set data_dir=FOLDER, or for your own "
        f"tables --from table and their columns (docs/data_formats.md). Known names are {names}"
    )


def _refuse_unread(settings: Settings, kind: str) -> None:
    """Stop for a setting that this kind does not read."""
    defaults = Settings()
    for key in dict.fromkeys(key for one in KINDS.values() for key in one.settings):
        if key not in KINDS[kind].settings and getattr(settings, key) != getattr(defaults, key):
            readers = ", ".join(name for name, one in KINDS.items() if key in one.settings)
            raise UserError(f"setting '{key}' is for {readers} only, and these files are of the kind {kind}; remove it")
