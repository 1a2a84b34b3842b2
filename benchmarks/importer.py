"""Rate and peak memory of the importer over 0.2, 2 and 20 million reviews, against a pandas loop, with a plot.

    python -m benchmarks.importer 'rows=[200000,2000000]' folder=/tmp/importer
    python -m benchmarks.importer 'rows=[20000000]' folder=/tmp/importer           adds to what was measured there

Makes ``rows`` reviews in Amazon's form of 2018 (gzipped JSON lines, some 200 bytes each) and their metadata, lets
``prepare_dataset.py --from amazon2018`` bring them into the layout (duplicates, five-core, titles), and deletes them.
The plain way is the reading loop of the data set's own page (json.loads by line, a DataFrame of the dicts), the same
filters in pandas, and a loop over the users' groups; it runs on ``plain_rows`` reviews, and must write the same
sequences. Each run has a process of its own; its seconds are without imports. CPU seconds are told too: those of all
threads, which other programs on the machine hardly change. Writes ``folder``/importer.json and importer.png.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import matplotlib
import numpy as np

from common.dataset import sequences_path
from common.errors import UserError, run_script
from common.files import atomic, read_json, write_json
from common.settings import CommonSettings, parse, setting

matplotlib.use("Agg")
from matplotlib import pyplot

NAME = "Made"
LOOKS = {"ours": "o-", "pandas loop": "s--"}


@dataclass
class Settings(CommonSettings):
    """What to measure."""

    rows: List[int] = setting([200_000, 2_000_000], "numbers of reviews", minimum=1000)
    plain_rows: int = setting(2_000_000, "number of reviews that the pandas loop reads as well; 0: none", minimum=0)
    folder: str = setting("/tmp/importer", "where reviews are made, and the results written")
    seed: int = setting(2024, "seed of the reviews", minimum=0)


def make_reviews(folder: Path, rows: int, seed: int) -> int:
    """Write reviews and metadata; the reviews' bytes before zipping. A user for ten rows, an item for twenty."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    n_users, n_items = rows // 10, rows // 20
    words = np.array([f"w{number:x}ord" for number in random.integers(0, 1 << 20, 5000)])
    size = 0
    with gzip.open(folder / f"{NAME}.json.gz", "wb", compresslevel=4) as out:
        for start in range(0, rows, 100_000):
            many = min(100_000, rows - start)
            users = (random.random(many) ** 2 * n_users).astype(int).tolist()
            items = (random.random(many) ** 2 * n_items).astype(int).tolist()
            days = random.integers(11_000, 17_800, many).tolist()
            texts = words[random.integers(0, len(words), (many, 4))].tolist()
            block = "".join(
                f'{{"overall": {1 + user % 5}.0, "verified": true, "reviewTime": "09 1, 2016", "reviewerID": '
                f'"A{user * 2654435761 % (1 << 40):013X}", "asin": "B{item:09d}", "reviewerName": "{text[0]}", '
                f'"reviewText": "{" ".join(text)}", "summary": "{text[1]}", "unixReviewTime": {day * 86400}}}\n'
                for user, item, day, text in zip(users, items, days, texts)
            ).encode()
            size += len(block)
            out.write(block)
    with gzip.open(folder / f"meta_{NAME}.json.gz", "wt", compresslevel=4) as out:
        for item in range(n_items):
            title = "" if item % 50 == 7 else f"Product {item} of {words[item % len(words)]}"
            entry = {"asin": f"B{item:09d}", "title": title, "brand": "Some", "category": ["Tools", "Saws"]}
            out.write(json.dumps(entry) + "\n")
    return size


def import_ours(raw: str, home: str) -> None:
    """The importer, with its preset for Amazon."""
    from stage1_content_modality_semantic_alignment import prepare_dataset

    chosen = prepare_dataset.Settings(dataset=NAME, datasets_dir=home, data_dir=raw, source="amazon2018")
    started = Started()
    prepare_dataset.run(chosen)
    started.record()


def import_plainly(raw: str, home: str) -> None:
    """The same by a loop over json.loads and pandas."""
    import pandas as pd

    def read(path: Path) -> Any:
        with gzip.open(path, "rb") as lines:
            return pd.DataFrame.from_dict({n: json.loads(line) for n, line in enumerate(lines)}, orient="index")

    started = Started()
    log, meta = read(Path(raw) / f"{NAME}.json.gz"), read(Path(raw) / f"meta_{NAME}.json.gz")
    reading = time.perf_counter() - started.wall
    user_order, item_order = log["reviewerID"].unique(), log["asin"].unique()
    log = log.sort_values("unixReviewTime", kind="stable").drop_duplicates(["reviewerID", "asin"])
    log = log[log["asin"].isin(meta.loc[meta["title"].str.strip() != "", "asin"])]
    before = -1
    while before != len(log):
        before = len(log)
        for key in ("reviewerID", "asin"):
            log = log[log.groupby(key)[key].transform("size") >= 5]
    items = set(log["asin"])
    users = {user: group["asin"].tolist() for user, group in log.groupby("reviewerID")}
    ours = {item: number for number, item in enumerate(item for item in item_order if item in items)}
    Path(home, NAME).mkdir(parents=True)
    with open(sequences_path(Path(home, NAME)), "w") as out:
        for number, user in enumerate(user for user in user_order if user in users):
            out.write(" ".join(map(str, [number, *(ours[item] for item in users[user])])) + "\n")
    started.record(reading)


MEASURED = Path("measured.json")  # in the folder in which a measured process runs


class Started:
    """The clocks at the start of what is measured."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def record(self, reading: float = 0.0) -> None:
        """Write seconds and peak memory to where the parent looks."""
        measured = {
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": time.process_time() - self.cpu,
            "reading_seconds": reading,
            "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        write_json(MEASURED, measured)


def measured(way: Callable[[str, str], None], raw: Path, home: Path) -> Dict[str, float]:
    """Run one way in a process of its own, which starts empty."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_at_home, args=(way, str(raw), str(home)))
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{way.__name__} ended with {process.exitcode}; its message stands above")
    found: Dict[str, float] = read_json(home / MEASURED)
    return found


def _at_home(way: Callable[[str, str], None], raw: str, home: str) -> None:
    global MEASURED
    MEASURED = Path(home) / MEASURED
    way(raw, home)


def measure(settings: Settings, rows: int) -> Iterator[Dict[str, Any]]:
    """Both ways over so many reviews."""
    folder = Path(settings.folder) / f"rows-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        size = make_reviews(folder / "raw", rows, settings.seed)
        ways = {"ours": import_ours, **({"pandas loop": import_plainly} if rows <= settings.plain_rows else {})}
        for name, way in ways.items():
            found = measured(way, folder / "raw", folder / way.__name__)
            yield {"way": name, "rows": rows, "gigabytes": size / 1e9, "rate": rows / found["seconds"], **found}
        written = [sequences_path(folder / way.__name__ / NAME).read_bytes() for way in ways.values()]
        if len(set(written)) != 1:
            raise UserError("the two ways wrote different sequences; one of them is wrong")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plot(results: List[Dict[str, Any]], path: Path) -> None:
    """Rate and memory over reviews, all logarithmic."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, key, label in zip(axes, ("rate", "gib"), ("reviews a second", "peak memory, GiB")):
        for way, look in LOOKS.items():
            points = sorted((one["rows"], one[key]) for one in results if one["way"] == way)
            axis.loglog(*zip(*points), look, label=way) if points else None
        axis.set(xlabel="reviews", ylabel=label)
        axis.grid(True, which="both", alpha=0.3)
    axes[1].axhline(6, color="grey", linestyle=":", label="6 GiB")
    axes[1].legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def table(results: List[Dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| | reviews | GB of JSON | seconds | CPU seconds | reviews a second | peak GiB |", "|" + "---|" * 7]
    for one in results:
        lines.append(
            f"| {one['way']} | {one['rows']:,} | {one['gigabytes']:.2f} | {one['seconds']:.1f} "
            f"| {one['cpu_seconds']:.1f} | {one['rate']:,.0f} | {one['gib']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, and add to what was measured before in the same folder."""
    settings = parse(Settings, __doc__, None, argv, redoes=False).settings
    path = Path(settings.folder) / "importer.json"
    results: List[Dict[str, Any]] = read_json(path) if path.is_file() else []
    for rows in settings.rows:
        found = list(measure(settings, rows))
        results = sorted([one for one in results if one["rows"] != rows] + found, key=lambda one: one["rows"])
        write_json(path, results)
    plot(results, path.with_suffix(".png"))
    print(table(results))


if __name__ == "__main__":
    run_script(main)
