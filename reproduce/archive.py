"""An archive of a suite's finished runs without their weights, and the suite's tables from it, without training.

    python -m reproduce.archive table quickstart            # from reproduce/archives/quickstart.tar.xz
    python -m reproduce.archive write quickstart            # a new archive of the runs in results/
    python -m reproduce.archive write figures dataset=Bili_Food results_dir=DIR/results datasets_dir=DIR/datasets

An archive holds runs.csv, and of each run metrics, ranks, history, log, settings and what made it; of a data set the
training interactions of each item, and of each test user the third of popularity of the target and the length of the
history. It holds no texts, no items of histories, and not which item a user was tested on or recommended: shown.npz is
how often each item was recommended. Of an absolute path only the last name is kept.

Writes: write: reproduce/archives/<suite>.tar.xz and its line of SHA256SUMS (sha256sum -c SHA256SUMS checks them)
        table: results/archives/<suite>/, which holds the content and what reproduce.table writes
"""

from __future__ import annotations

from common.start import run_script

import io
import re
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import atomic, atomic_folder, checksum, read_text, write_text
from common.settings import Parser, help_of_settings, typed
from reproduce import table
from reproduce.ranks import SHOWN, times_shown
from reproduce.rows import Results, ResultsSettings, read_results
from reproduce.suite import read_words

ARCHIVES = Path(__file__).parent / "archives"
SUMS = "SHA256SUMS"
TEXTS = ("made.json", "metrics.json", "settings.yaml", "history.csv", "train.log")
ABSOLUTE = re.compile(r"(?<![\w.}~:/])/(?:[^\s/\"',:]+/)*(?=[^\s/\"',:])")


def content(results: Results) -> Dict[str, bytes]:
    """The files of an archive by their names relative to results_dir."""
    home = f"suites/{results.suite}"
    runs = results.runs.drop(columns="log")
    runs["folder"] = ["/".join(Path(folder).parts[-3:]) for folder in runs["folder"]]
    texts = {f"{home}/runs.csv": runs.to_csv(index=False, lineterminator="\n")}
    arrays = {}
    for dataset in results.datasets:
        items = table.catalogue(results, dataset)
        arrays[f"{home}/{dataset}.npz"] = asdict(items)
        for folder in (folder for row in results.of(dataset) for folder in row.folders):
            run = "/".join(folder.parts[-3:])
            texts.update((f"{run}/{name}", read_text(folder / name)) for name in TEXTS if (folder / name).is_file())
            ranks = pd.read_csv(folder / "ranks.csv", dtype=str).drop(columns="item", errors="ignore")
            texts[f"{run}/ranks.csv"] = ranks.to_csv(index=False, lineterminator="\n")
            shown = times_shown(folder, len(items.counts))
            if shown is not None:
                arrays[f"{run}/{SHOWN}"] = {"shown": shown.astype(np.int32)}
    found = {name: ABSOLUTE.sub("DIR/", text).encode() for name, text in texts.items()}
    for name, values in arrays.items():
        out = io.BytesIO()
        np.savez(out, **values)
        found[name] = out.getvalue()
    return found


def recorded(folder: Path) -> Dict[str, str]:
    """The checksums of SHA256SUMS by file name."""
    lines = read_text(folder / SUMS).splitlines() if (folder / SUMS).is_file() else []
    return {name: sha256 for sha256, name in (line.split("  ") for line in lines)}


def write(results: Results, folder: Path) -> Path:
    """Write an archive, whose bytes depend on its content alone, and its checksum."""
    path = folder / f"{results.suite}.tar.xz"
    with atomic(path) as temporary, tarfile.open(temporary, "w:xz", preset=9) as tar:
        for name, data in sorted(content(results).items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    sums = {**recorded(folder), path.name: checksum(path)}
    write_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    return path


def unpack(suite: str, results_dir: Path, folder: Path) -> Path:
    """Check an archive and unpack it into a folder that can be results_dir.

    Raises:
        UserError: there is no such archive, or its checksum is not the recorded one.
    """
    path = folder / f"{suite}.tar.xz"
    sums = recorded(folder)
    if path.name not in sums or not path.is_file():
        names = ", ".join(name.partition(".")[0] for name in sums)
        raise UserError(f"{path}: no such archive; available: {names}")
    if checksum(path) != sums[path.name]:
        raise UserError(f"{path}: its SHA-256 is not that of {folder / SUMS}; restore both files, for example from git")
    target = results_dir / "archives" / suite
    with atomic_folder(target) as temporary, tarfile.open(path) as tar:
        safe: Dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.9.17 and later
        tar.extractall(temporary, **safe)
    return target


def main(argv: Optional[List[str]] = None) -> None:
    """Write an archive, or make the tables from one."""
    parser = Parser(__doc__, help_of_settings(ResultsSettings, "settings (key=value):"))
    parser.add_argument("what", choices=["table", "write"])
    parser.add_argument("suite", help="NAME of reproduce/suites/NAME.yaml, or the path of a YAML")
    parser.add_argument("words", nargs="*", metavar="key=value", help="of reproduce.table")
    parser.add_argument("--masked", action="store_true", help="table: with the history masked (NineRec's protocol)")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.what == "table":
        results_dir = unpack(Path(arguments.suite).stem, Path("results"), ARCHIVES)
        masked = ["--masked"] if arguments.masked else []
        table.main([arguments.suite, f"results_dir={results_dir}", *arguments.words, *masked])
        return
    settings = ResultsSettings(**typed(ResultsSettings, read_words(arguments.words), "command line"))
    path = write(read_results(arguments.suite, settings), ARCHIVES)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_script(main)
