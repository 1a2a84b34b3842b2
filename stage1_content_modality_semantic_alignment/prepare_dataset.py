"""Bring raw or prepared data into the one layout that every later step reads.

Papers: the data sets of SICSRec's (arXiv 2510.10556) and ADRec's experiments. Rules and formats: docs/data_formats.md.

    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d ml-100k
    python stage1_content_modality_semantic_alignment/prepare_dataset.py -d Bili_Food data_dir=/data/NineRec
    python stage1_content_modality_semantic_alignment/prepare_dataset.py --from table -d Mine data_dir=/data/mine \\
        inter_file=clicks.csv item_file=products.csv covers_dir=/data/mine/pictures

Reads   by --from KIND, or detected by the names of the files; filters apply to all kinds but ml-100k and prepared
        ml-100k      MovieLens 100K inside the installed recbole (or in data_dir); covers are drawn, not posters
        ninerec      <D>_pair.csv, <D>_item.csv, <D>_cover/ or <D>_cover1/
        amazon2018   <D>_5.json.gz or <D>.json.gz, meta_<D>.json.gz
        amazon2023   <D>.jsonl.gz, or the benchmark's <D>.csv or <D>.{train,valid,test}.csv; meta_<D>.jsonl.gz
        recformer    {train,val,test,umap,smap,meta_data}.json
        unisrec      <D>.{train,valid,test}.inter, <D>.text, <D>.user2index, <D>.item2index
        letter       <D>.inter.json, <D>.item.json
        s3rec        <D>.txt; no texts: for models on IDs
        adrec        <D>_process/ or <D>s_process/: train/{items_seq,label,masks}.npy, id_to_side_dict.pickle
        table        inter_file and item_file: CSV, TSV, JSON or Parquet
        prepared     sequential_data.txt, <D>_item_sort.csv, <D>_item_fields.csv, interaction_times.npy,
                     covers/ or <D>_cover/ or <D>_cover1/
Writes  <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv, covers/<id>.jpg if there are covers,
        interaction_times.npy if the source has times,
        <D>_item_fields.csv if the source has further texts of items (common/item_fields.py),
        user_ids.csv and item_ids.csv (our ids and the original ones) for raw data, prepare.json (the record)
"""

from __future__ import annotations

from common.start import run_script

import csv
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from common.covers import covers_checksum
from common.dataset import covers_path, items_path, load_dataset, sequences_path, times_path, write_dataset
from common.files import atomic, exclusive, read_json, recipe, record, up_to_date
from common.item_fields import item_fields_path, read_item_fields, write_item_fields
from common.settings import parse
from importers.covers import Covers, check_source_covers, find_covers, make_covers, refuse_foreign
from importers.kinds import KINDS, find_source, read_source
from importers.known_datasets import describe, statistics
from importers.raw import Files, RawData
from importers.settings import Settings

CONFIGS = Path(__file__).parent / "configs" / "prepare_dataset"
LAYOUT = 4  # increase it when the files of the layout change; data sets are then prepared again


def run(settings: Settings, force: bool = False) -> None:
    """Prepare the data set, unless it is up to date. Without a named source, the data set that is there is taken."""
    home = settings.dataset_dir
    record_path = home / "prepare.json"
    named = settings.data_dir or settings.covers_dir or settings.source != "auto" or settings.dataset == "ml-100k"
    if not force and not named and record_path.is_file() and _up_to_date(home, read_json(record_path)):
        return
    kind, files = find_source(settings)
    folder = next(iter(files.values())).parent
    covers = find_covers(settings, folder, kind)
    made_from = _recipe(settings, kind, files, covers)
    if not force and _up_to_date(home, made_from, tell=False):  # it needs no lock: the folder may be read-only
        return
    with exclusive(home):
        if not force and _up_to_date(home, made_from):  # another process may have prepared it meanwhile
            return
        print(f"prepare_dataset: {home} from {folder} ({kind})")
        _prepare(settings, kind, files, covers, made_from)


def _recipe(settings: Settings, kind: str, files: Files, covers: Optional[Covers]) -> Dict[str, Any]:
    shaping = {"source": kind, "layout": LAYOUT, "missing_covers": settings.missing_covers}
    shaping.update({name: getattr(settings, name) for name in (*KINDS[kind].settings, "cover_side")})
    made_from = recipe("prepare_dataset", shaping, files)
    if covers:
        made_from["inputs"]["covers"] = {"path": str(covers.path), "sha256": covers.checksum}
    return made_from


def _up_to_date(home: Path, made_from: Dict[str, Any], tell: bool = True) -> bool:
    if not up_to_date(home / "prepare.json", made_from, tell):
        return False
    if read_json(home / "prepare.json")["covers"] != _checksum_of_covers(home):
        if tell:
            print(f"made again: the covers in {covers_path(home)} have changed")
        return False
    print(f"prepare_dataset: {home} is up to date")
    return True


def _checksum_of_covers(home: Path) -> Optional[str]:
    return covers_checksum(covers_path(home)) if covers_path(home).is_dir() else None


def _prepare(settings: Settings, kind: str, files: Files, covers: Optional[Covers], made_from: Dict[str, Any]) -> None:
    """Check the whole source, then write: covers, titles, sequences, and last the record."""
    home, name = settings.dataset_dir, settings.dataset
    folder = next(iter(files.values())).parent

    # read and check
    raw = read_source(settings, kind, files)
    if raw is None:
        n_items = load_dataset(folder, name).n_items
        read_item_fields(folder, name, n_items)
        cover_names = list(map(str, range(n_items)))
    else:
        cover_names = raw.item_ids
    faults = check_source_covers(settings, covers, cover_names)
    files_in_place = raw is None and folder.resolve() == home.resolve()
    covers_in_place = covers is not None and covers.path.resolve() == covers_path(home).resolve()
    if not covers_in_place:
        refuse_foreign(covers_path(home))

    # write: until all files are there, nothing passes for a prepared data set
    (home / "prepare.json").unlink(missing_ok=True)
    if not files_in_place:
        ids = (home / "user_ids.csv", home / "item_ids.csv")
        for old in (sequences_path(home), times_path(home), item_fields_path(home, name), *ids):
            old.unlink(missing_ok=True)
    if not covers_in_place:
        drawn_from = raw if kind == "ml-100k" and settings.draw_covers else None
        make_covers(settings, covers, drawn_from, {i: one for i, one in enumerate(cover_names) if i not in faults})
    if raw is not None:
        outputs = _write_raw(home, name, raw)
    else:
        outputs = {meaning: home / path.name for meaning, path in files.items()}
        for meaning in () if files_in_place else reversed(files):  # the sequences last
            _copy(files[meaning], outputs[meaning])

    # describe and record
    dataset = load_dataset(home, name)
    with_cover = dataset.n_items - len(faults) if dataset.covers else 0
    dropped, bad_rows = (raw.dropped, raw.bad_rows) if raw else ({}, {})
    print(describe(dataset, kind, with_cover, drawn=covers is None))
    for field, texts in read_item_fields(home, name, dataset.n_items).items():
        print(f"  field {field} {sum(map(bool, texts)) / dataset.n_items:.1%}")
    for reason, count in bad_rows.items():
        print(f"  left out: {count:,} rows, {reason}")
    for reason, count in dropped.items():
        print(f"  left out: {count:,} interactions, {reason}")
    extra = {
        "statistics": {**statistics(dataset), "with_cover": with_cover},
        "dropped": dropped,
        "bad_rows": bad_rows,
        "missing_covers": [{"item": item, "original_id": cover_names[item], "fault": faults[item]} for item in faults],
        "covers": _checksum_of_covers(home),
    }
    record(home / "prepare.json", made_from, outputs, extra)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_raw(home: Path, name: str, raw: RawData) -> Files:
    """Write the data set, and the original ids of users and items as id,original_id; the sequences last."""
    written = {"sequences": sequences_path(home), "items": items_path(home, name)}
    if raw.fields:
        written["fields"] = item_fields_path(home, name)
        write_item_fields(home, name, raw.fields)
    for kind, originals in (("user_ids", raw.user_ids), ("item_ids", raw.item_ids)):
        written[kind] = home / f"{kind}.csv"
        with atomic(written[kind]) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows([("id", "original_id"), *enumerate(originals)])
    if raw.times is not None:
        written["times"] = times_path(home)
    write_dataset(home, name, enumerate(raw.sequences), raw.titles, raw.times)
    return written


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and run."""
    parsed = parse(Settings, __doc__, CONFIGS, argv, aliases=[("--from", "source", "KIND")])
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
