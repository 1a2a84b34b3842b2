"""Bring raw or prepared data into the one layout that every later step reads.

Paper: SICSRec (arXiv 2510.10556), the data sets of its experiments. Rules and formats: docs/data_formats.md.

    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d ml-100k
    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d Bili_Food data_dir=/data/NineRec

Reads   ml-100k   MovieLens 100K inside the installed recbole (or in data_dir); covers are drawn, they are not posters
        letter    <D>.inter.json, <D>.item.json
        ninerec   <D>_pair.csv, <D>_item.csv, <D>_cover/ or <D>_cover1/
        prepared  sequential_data.txt, <D>_item_sort.csv, <D>_item_fields.csv, covers/ or <D>_cover/ or <D>_cover1/
Writes  <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv, covers/<id>.jpg where there are covers,
        <D>_item_fields.csv where the source has further texts of items (common/item_fields.py),
        user_ids.csv and item_ids.csv (our ids and the original ones) for raw data, prepare.json (the record)
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from tqdm import tqdm

from common.dataset import (
    cover_faults,
    cover_path,
    covers_checksum,
    covers_path,
    describe_cover_faults,
    items_path,
    load_dataset,
    sequences_path,
    write_dataset,
)
from common.errors import UserError, run_script
from common.files import atomic, exclusive, read_json, recipe, record, stands
from common.item_fields import item_fields_path, read_item_fields, write_item_fields
from common.settings import CommonSettings, parse, setting
from stage1_content_modality_semantic_alignment.covers_folder import link, made_here, new_covers, refuse_foreign
from stage1_content_modality_semantic_alignment.dataset_statistics import describe, statistics
from stage1_content_modality_semantic_alignment.drawn_covers import draw_cover
from stage1_content_modality_semantic_alignment.processed_sources import read_letter
from stage1_content_modality_semantic_alignment.raw_sources import (
    RawData,
    ml100k_in_recbole,
    read_ml100k,
    read_ninerec,
)

CONFIGS = Path(__file__).parent / "configs" / "prepare_dataset"
SOURCES = ("ml-100k", "ninerec", "letter", "prepared")  # in the order in which auto looks for them: raw files win
LAYOUT = 2  # counts up when the files of the layout change: what stands is then made again; 2: _item_fields.csv
DRAWN = " (drawn from title and genres: no posters)"


@dataclass
class Settings(CommonSettings):
    """Settings of the preparation."""

    data_dir: Optional[str] = setting(
        None,
        "folder of the raw or prepared files, or the folder above it; null: ml-100k's own, else the data set's folder",
    )
    source: str = setting("auto", "what the files are; auto tells by their names", choices=("auto", *SOURCES))
    covers_dir: Optional[str] = setting(
        None, "folder of covers named as the source names its items; null: looked for beside the files"
    )
    missing_covers: str = setting(
        "stop", "covers that are missing or broken: stop, or leave them out and list them", choices=("stop", "zero")
    )
    last_items: int = setting(20, "ml-100k only: how many of each user's last ratings are kept", minimum=3)
    draw_covers: bool = setting(True, "ml-100k only: draw covers from titles and genres; false: text only")


@dataclass(frozen=True)
class Source:
    """What is prepared from: its kind (one of SOURCES), its files by meaning, its folder of covers."""

    kind: str
    files: Dict[str, Path]
    covers: Optional[Path]

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return next(iter(self.files.values())).parent


def files_of(kind: str, folder: Path, dataset: str) -> Dict[str, Path]:
    """The files of a source by meaning; by the first of them it is recognised."""
    if kind == "ml-100k":
        return {"inter": folder / "ml-100k.inter", "item": folder / "ml-100k.item"}
    if kind == "ninerec":
        return {"pair": folder / f"{dataset}_pair.csv", "item": folder / f"{dataset}_item.csv"}
    if kind == "letter":
        return {"inter": folder / f"{dataset}.inter.json", "item": folder / f"{dataset}.item.json"}
    files = {"sequences": sequences_path(folder), "items": items_path(folder, dataset)}
    fields = item_fields_path(folder, dataset)
    return {**files, "fields": fields} if fields.exists() else files


def find_source(settings: Settings) -> Source:
    """Tell what is to be prepared by the files that lie in ``data_dir``, or in its folder named after the data set."""
    kinds = SOURCES if settings.source == "auto" else (settings.source,)
    folders = _folders(settings)
    for folder in folders:
        for kind in kinds:
            files = files_of(kind, folder, settings.dataset)
            if next(iter(files.values())).is_file():
                _refuse_unread(settings, kind)
                return Source(kind, files, _find_covers(settings, folder, kind))
    wanted = [" and ".join(path.name for path in files_of(k, folders[0], settings.dataset).values()) for k in kinds]
    raise UserError(
        f"{' and '.join(map(str, folders))}: no files of {settings.dataset}: none of {'; '.join(wanted)}. "
        "Put them there, or say data_dir=FOLDER (docs/data_formats.md)"
    )


def _folders(settings: Settings) -> List[Path]:
    if settings.data_dir is not None:
        return [Path(settings.data_dir), Path(settings.data_dir) / settings.dataset]
    if "ml-100k" in (settings.source, settings.dataset) and settings.source in ("auto", "ml-100k"):
        return [ml100k_in_recbole()]
    return [settings.dataset_dir]


def _refuse_unread(settings: Settings, kind: str) -> None:
    """Stop for a setting that this kind of source would not read."""
    for name in ("last_items", "draw_covers"):
        if kind != "ml-100k" and getattr(settings, name) != getattr(Settings(), name):
            raise UserError(
                f"setting '{name}' is for ml-100k only, and these files are of the kind {kind}; leave it out"
            )


def _find_covers(settings: Settings, folder: Path, kind: str) -> Optional[Path]:
    """``covers_dir``, else covers beside the files, else, for prepared files alone, those that a user put in place.

    Raw covers bear the original ids, so covers/, where ours stand, is no source for them.
    """
    standing = covers_path(settings.dataset_dir)
    beside = [folder / f"{settings.dataset}_cover", folder / f"{settings.dataset}_cover1"]
    users_own = [] if made_here(standing) else [standing]
    places = {
        "ml-100k": [],
        "ninerec": beside,
        "letter": beside,
        "prepared": [covers_path(folder), *beside, *users_own],
    }[kind]
    if settings.covers_dir is not None:
        places = [Path(settings.covers_dir)]
    found = next((place for place in places if next(place.glob("*.jpg"), None)), None)
    if settings.covers_dir is not None and found is None:
        raise UserError(f"{settings.covers_dir}: holds no .jpg file; correct covers_dir")
    if kind != "prepared" and found is not None and found.resolve() == standing.resolve():
        raise UserError(f"{found}: is where this step writes its covers; move the folder, and say covers_dir=FOLDER")
    return found


def run(settings: Settings, force: bool = False) -> None:
    """Prepare the data set, unless it stands, made from the same. Without ``data_dir``, what stands is taken."""
    home = settings.dataset_dir
    if not force and _stands_without_source(settings):
        print(f"prepare_dataset: {home} stands, nothing to do")
        return
    source = find_source(settings)
    made_from = _made_from(settings, source)
    with exclusive(home):
        if not force and _stands(home, made_from):
            print(f"prepare_dataset: {home} stands, nothing to do")
            return
        print(f"prepare_dataset: {home} from {source.folder} ({source.kind})")
        _prepare(settings, source, made_from)


def _made_from(settings: Settings, source: Source) -> Dict[str, Any]:
    names = ["missing_covers", *(["last_items", "draw_covers"] if source.kind == "ml-100k" else [])]
    shaping = {"source": source.kind, "layout": LAYOUT, **{name: getattr(settings, name) for name in names}}
    made_from = recipe("prepare_dataset", shaping, source.files)
    if source.covers:
        made_from["inputs"]["covers"] = {"path": str(source.covers), "sha256": covers_checksum(source.covers)}
    return made_from


def _record_path(home: Path) -> Path:
    return home / "prepare.json"


def _stands(home: Path, made_from: Dict[str, Any]) -> bool:
    if not stands(_record_path(home), made_from):
        return False
    if read_json(_record_path(home))["covers"] != _covers_standing(home):
        print(f"made again, for the covers in {covers_path(home)} were changed")
        return False
    return True


def _stands_without_source(settings: Settings) -> bool:
    """Whether no source is named, and the data set stands as its record tells, whatever it was made from."""
    record_path = _record_path(settings.dataset_dir)
    named = settings.data_dir or settings.covers_dir or settings.source != "auto" or settings.dataset == "ml-100k"
    return not named and record_path.is_file() and _stands(settings.dataset_dir, read_json(record_path))


def _covers_standing(home: Path) -> Optional[str]:
    return covers_checksum(covers_path(home)) if covers_path(home).is_dir() else None


def _prepare(settings: Settings, source: Source, made_from: Dict[str, Any]) -> None:
    """Check the whole source, then write: covers, titles, sequences, and last the record."""
    home, name = settings.dataset_dir, settings.dataset
    raw = _read_raw(settings, source)
    cover_names = raw.item_ids if raw else _prepared_items(source.folder, name)
    faults = _check_source_covers(settings, source, cover_names)
    in_place = raw is None and source.folder.resolve() == home.resolve()
    covers_in_place = source.covers is not None and source.covers.resolve() == covers_path(home).resolve()
    if not covers_in_place:
        refuse_foreign(covers_path(home))
    _retract(home, name, keep_data=in_place)
    if not covers_in_place:
        _make_covers(settings, source, raw, {i: n for i, n in enumerate(cover_names) if i not in faults})
    if raw:
        outputs = _write_raw(home, name, raw)
    else:
        outputs = {meaning: home / path.name for meaning, path in source.files.items()}
        for meaning in () if in_place else ("items", *outputs.keys() - {"items", "sequences"}, "sequences"):
            _copy(source.files[meaning], outputs[meaning])
    dataset = load_dataset(home, name)
    with_cover = dataset.n_items - len(faults) if dataset.covers else 0
    print(describe(dataset, with_cover, DRAWN if source.covers is None else ""))
    extra = {
        "statistics": {**asdict(statistics(dataset)), "with_cover": with_cover},
        "missing_covers": [{"item": item, "original_id": cover_names[item], "fault": faults[item]} for item in faults],
        "covers": _covers_standing(home),
    }
    record(_record_path(home), made_from, outputs, extra)


def _retract(home: Path, name: str, keep_data: bool) -> None:
    """From here until the new files are whole, nothing passes for a prepared data set."""
    _record_path(home).unlink(missing_ok=True)
    if not keep_data:
        sequences_path(home).unlink(missing_ok=True)
        item_fields_path(home, name).unlink(missing_ok=True)


def _read_raw(settings: Settings, source: Source) -> Optional[RawData]:
    if source.kind == "ml-100k":
        return read_ml100k(source.files["inter"], source.files["item"], settings.last_items)
    if source.kind == "ninerec":
        return read_ninerec(source.files["pair"], source.files["item"])
    if source.kind == "letter":
        return read_letter(source.files["inter"], source.files["item"])
    return None


def _prepared_items(folder: Path, name: str) -> List[str]:
    """Check prepared files; the names that their items' covers bear."""
    n_items = load_dataset(folder, name).n_items
    read_item_fields(folder, name, n_items)
    return list(map(str, range(n_items)))


def _check_source_covers(settings: Settings, source: Source, names: Sequence[str]) -> Dict[int, str]:
    """Faults by item; none where there are no covers at all."""
    if source.covers is None:
        return {}
    paths = [source.covers / f"{name}.jpg" for name in names]
    faults = cover_faults(paths)
    if faults:
        told = describe_cover_faults(paths, faults)
        if settings.missing_covers == "stop":
            raise UserError(told)
        print(f"warning: left out, and listed in prepare.json: {told}")
    return faults


def _make_covers(settings: Settings, source: Source, raw: Optional[RawData], names: Dict[int, str]) -> None:
    """Make covers/<id>.jpg of the cover named ``names[id]``, or draw it; where there are none, leave no folder."""
    covers = covers_path(settings.dataset_dir)
    to_draw = raw.to_draw if raw and settings.draw_covers else None
    if not source.covers and not to_draw:
        shutil.rmtree(covers, ignore_errors=True)
        return
    with new_covers(covers) as folder:
        for item, cover_name in tqdm(names.items(), desc="covers", disable=None, unit="cover", leave=False):
            if source.covers:
                link(source.covers / f"{cover_name}.jpg", cover_path(folder, item))
            elif to_draw:
                draw_cover(*to_draw[item]).save(cover_path(folder, item), quality=90)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_raw(home: Path, name: str, raw: RawData) -> Dict[str, Path]:
    """Write the data set and, as id,original_id, what the raw files call its users and items."""
    written = {"sequences": sequences_path(home), "items": items_path(home, name)}
    if raw.fields:
        written["fields"] = item_fields_path(home, name)
        write_item_fields(home, name, raw.fields)
    for kind, originals in (("user_ids", raw.user_ids), ("item_ids", raw.item_ids)):
        written[kind] = home / f"{kind}.csv"
        with atomic(written[kind]) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows([("id", "original_id"), *enumerate(originals)])
    write_dataset(home, name, raw.sequences, raw.titles)
    return written


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and run."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
