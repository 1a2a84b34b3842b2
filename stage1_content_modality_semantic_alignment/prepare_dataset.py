"""Bring raw or prepared data into the one layout that every later step reads.

Papers: the data sets of SICSRec's (arXiv 2510.10556) and ADRec's experiments. Rules and formats: docs/data_formats.md.

    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d ml-100k
    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d Bili_Food data_dir=/data/NineRec
    python stage1_content_modality_semantic_alignment/prepare_dataset.py --from table -d Mine data_dir=/data/mine \\
        inter_file=clicks.csv item_file=products.csv covers_dir=/data/mine/pictures

Reads   by --from KIND, or as the files' names tell; all kinds but ml-100k and prepared pass the filters
        ml-100k      MovieLens 100K inside the installed recbole (or in data_dir); covers are drawn, not posters
        ninerec      <D>_pair.csv, <D>_item.csv, <D>_cover/ or <D>_cover1/
        amazon2018   <D>_5.json.gz or <D>.json.gz, meta_<D>.json.gz
        amazon2023   <D>.jsonl.gz, or the benchmark's <D>.csv or <D>.{train,valid,test}.csv; meta_<D>.jsonl.gz
        recformer    {train,val,test,umap,smap,meta_data}.json
        unisrec      <D>.{train,valid,test}.inter, <D>.text, <D>.user2index, <D>.item2index
        letter       <D>.inter.json, <D>.item.json
        adrec        <D>_process/train/{items_seq,label,masks}.npy, <D>_process/id_to_side_dict.pickle
        table        inter_file and item_file: CSV, TSV, JSON lines or Parquet
        prepared     sequential_data.txt, <D>_item_sort.csv, <D>_item_fields.csv, covers/ or <D>_cover/ or <D>_cover1/
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
from stage1_content_modality_semantic_alignment.covers_folder import new_covers, refuse_foreign
from stage1_content_modality_semantic_alignment.dataset_statistics import describe, statistics
from stage1_content_modality_semantic_alignment.drawn_covers import draw_cover
from stage1_content_modality_semantic_alignment.sources.filters import PRESETS
from stage1_content_modality_semantic_alignment.sources.kinds import OWN, SOURCES, Source, find_source, read_source
from stage1_content_modality_semantic_alignment.sources.raw import RawData

CONFIGS = Path(__file__).parent / "configs" / "prepare_dataset"
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
        None, "covers named as the source names its items, a folder or an LMDB; null: looked for beside the files"
    )
    missing_covers: str = setting(
        "stop", "covers that are missing or broken: stop, or leave them out and list them", choices=("stop", "zero")
    )
    cover_side: int = setting(
        0, "covers are kept in copies that fit into so many pixels a side; 0: as they are", minimum=0
    )
    last_items: int = setting(20, "ml-100k only: how many of each user's last ratings are kept", minimum=3)
    draw_covers: bool = setting(True, "ml-100k only: draw covers from titles and genres; false: text only")
    inter_file: Optional[str] = setting(None, "table, amazon: file of interactions, in data_dir or by its whole path")
    item_file: Optional[str] = setting(None, "table, amazon: file of items, likewise")
    user_column: str = setting("user", "table: column of the user in inter_file")
    item_column: str = setting("item", "table: column of the item in inter_file")
    time_column: str = setting("timestamp", "table: column of the time in inter_file: s, ms, µs, ns or a date")
    item_id_column: str = setting("item", "table: column of the item in item_file")
    title_column: str = setting("title", "table: column of the title in item_file")
    title_cn_column: Optional[str] = setting(None, "table: column of a Chinese title in item_file, if there is one")
    field_columns: List[str] = setting([], "table: further columns of item_file that are kept, as in [brand, category]")
    bad_rows: str = setting(
        "stop", "rows that cannot be used: the first stops the run, or they are counted", choices=("stop", "drop")
    )
    preset: Optional[str] = setting(
        None, "values of the filters that are null below; null: adrec for amazon, else none", choices=tuple(PRESETS)
    )
    k_core: Optional[int] = setting(
        None, "users and items with fewer interactions are left out, until none is", minimum=0
    )
    min_length: Optional[int] = setting(None, "users with fewer interactions are left out", minimum=0)
    max_length: Optional[int] = setting(None, "each user's last so many interactions are kept; 0: all", minimum=0)
    duplicates: Optional[str] = setting(
        None,
        "of an item that a user has several times: keep all, those at distinct times (row), or the first",
        choices=("keep", "row", "first"),
    )
    missing_titles: Optional[str] = setting(None, "items without a title: stop, or drop them", choices=("stop", "drop"))
    user_sample: Optional[int] = setting(None, "so many users are drawn, after all other filters; 0: all", minimum=0)
    ties: Optional[str] = setting(
        None,
        "order of a user's interactions at one time: row of the file, or original item id",
        choices=("row", "item"),
    )
    html: Optional[str] = setting(None, "HTML in texts: keep it, or clean it away", choices=("keep", "clean"))
    sample_seed: int = setting(2024, "seed of the sample of users", minimum=0)

    def check(self) -> None:
        """Own files have a name of their own, and no filter leaves a user nothing to be tested on."""
        super().check()
        if self.dataset == "ml-100k" and self.source not in ("auto", "ml-100k", "prepared"):
            raise UserError(
                f"ml-100k is recbole's MovieLens, and --from {self.source} is not: name your data set: -d NAME"
            )
        if self.max_length in (1, 2):
            raise UserError(
                f"max_length={self.max_length}: a user needs 3 items to train, validate and test; 0 keeps all"
            )


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
    shaping = {"source": source.kind, "layout": LAYOUT, "missing_covers": settings.missing_covers}
    shaping.update({name: getattr(settings, name) for name in (*OWN[source.kind], "cover_side")})
    made_from = recipe("prepare_dataset", shaping, source.files)
    if source.covers:
        made_from["inputs"]["covers"] = {"path": str(source.covers.path), "sha256": source.covers.checksum()}
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
    raw = read_source(settings, source)
    cover_names = raw.item_ids if raw else _prepared_items(source.folder, name)
    faults = _check_source_covers(settings, source, cover_names)
    in_place = raw is None and source.folder.resolve() == home.resolve()
    covers_in_place = source.covers is not None and source.covers.path.resolve() == covers_path(home).resolve()
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
    dropped = dict(raw.dropped) if raw else {}
    print(describe(dataset, source.kind, with_cover, DRAWN if source.covers is None else ""))
    fields = raw.fields if raw else read_item_fields(home, name, dataset.n_items)
    for field, texts in fields.items():
        print(f"  field {field} {sum(map(bool, texts)) / dataset.n_items:.1%}")
    for reason, count in dropped.items():
        print(f"  left out: {count:,} interactions, {reason}")
    extra = {
        "statistics": {**asdict(statistics(dataset)), "with_cover": with_cover},
        "dropped": dropped,
        "missing_covers": [{"item": item, "original_id": cover_names[item], "fault": faults[item]} for item in faults],
        "covers": _covers_standing(home),
    }
    record(_record_path(home), made_from, outputs, extra)


def _retract(home: Path, name: str, keep_data: bool) -> None:
    """From here until the new files are whole, nothing passes for a prepared data set."""
    _record_path(home).unlink(missing_ok=True)
    if not keep_data:
        sequences_path(home).unlink(missing_ok=True)
        for written_for_some in (item_fields_path(home, name), home / "user_ids.csv", home / "item_ids.csv"):
            written_for_some.unlink(missing_ok=True)


def _prepared_items(folder: Path, name: str) -> List[str]:
    """Check prepared files; the names that their items' covers bear."""
    n_items = load_dataset(folder, name).n_items
    read_item_fields(folder, name, n_items)
    return list(map(str, range(n_items)))


def _check_source_covers(settings: Settings, source: Source, names: Sequence[str]) -> Dict[int, str]:
    """Faults by item; none where there are no covers at all."""
    if source.covers is None:
        return {}
    checked = tqdm(names, desc="covers checked", disable=None, unit="cover", leave=False)
    found = {place: source.covers.fault(name) for place, name in enumerate(checked)}
    faults = {place: fault for place, fault in found.items() if fault}
    if faults:
        told = describe_cover_faults([source.covers.path / f"{name}.jpg" for name in names], faults)
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
                source.covers.save(cover_name, cover_path(folder, item), settings.cover_side)
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
    parsed = parse(Settings, __doc__, CONFIGS, argv, aliases=[("--from", "source", "KIND")])
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
