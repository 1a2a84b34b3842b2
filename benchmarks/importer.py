"""Speed and peak memory of the importer over 0.2, 2 and 20 million reviews, compared with a pandas loop, with a plot.

    python -m benchmarks.importer 'rows=[200000,2000000]' folder=/tmp/importer
    python -m benchmarks.importer 'rows=[20000000]' folder=/tmp/importer           # adds to the results there

Makes reviews in Amazon's format of 2018 (gzipped JSON lines of about 200 bytes) with metadata, prepares them with the
preset for Amazon (duplicates, five-core, titles), and deletes them. The pandas loop follows the reading loop of the
data set's page (json.loads per line), filters in the same way, and must write the same sequences. Each run is a process
of its own; seconds do not include imports, CPU seconds are those of all threads. Writes ``folder``/importer.{csv,png}.
"""

from __future__ import annotations

from common.start import run_script

import gzip
import json
import multiprocessing
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional

import numpy as np
import pandas as pd

from common.dataset import sequences_path
from common.errors import UserError
from common.files import atomic
from common.settings import CommonSettings, parse, setting

NAME = "Made"


@dataclass
class Settings(CommonSettings):
    """What to measure."""

    rows: List[int] = setting([200_000, 2_000_000], "numbers of reviews", minimum=1000)
    plain_rows: int = setting(2_000_000, "largest number of reviews for the pandas loop; 0: none", minimum=0)
    folder: str = setting("/tmp/importer", "folder of the reviews and of the results")
    seed: int = setting(2024, "seed of the reviews", minimum=0)


def make_reviews(folder: Path, rows: int, seed: int) -> int:
    """Write reviews and metadata, one user per 10 rows, one item per 20; return the uncompressed bytes of reviews."""
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
    """The importer with its preset for Amazon."""
    from stage1_content_modality_semantic_alignment import prepare_dataset

    prepare_dataset.run(prepare_dataset.Settings(dataset=NAME, datasets_dir=home, data_dir=raw, source="amazon2018"))


def import_plainly(raw: str, home: str) -> None:
    """A loop over json.loads, then pandas."""

    def read(path: Path) -> pd.DataFrame:
        with gzip.open(path, "rb") as lines:
            return pd.DataFrame.from_dict({n: json.loads(line) for n, line in enumerate(lines)}, orient="index")

    log, meta = read(Path(raw) / f"{NAME}.json.gz"), read(Path(raw) / f"meta_{NAME}.json.gz")
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
    with open(sequences_path(Path(home, NAME)), "w", encoding="utf-8") as out:
        for number, user in enumerate(user for user in user_order if user in users):
            out.write(" ".join(map(str, [number, *(ours[item] for item in users[user])])) + "\n")


def timed(way: Callable[[str, str], None], raw: str, home: str) -> Dict[str, float]:
    """Seconds and peak memory of one way."""
    import stage1_content_modality_semantic_alignment.prepare_dataset  # noqa: F401, not part of the time

    wall, cpu = time.perf_counter(), time.process_time()
    way(raw, home)
    seconds = {"seconds": time.perf_counter() - wall, "CPU seconds": time.process_time() - cpu}
    return {**seconds, "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def measure(settings: Settings, rows: int) -> pd.DataFrame:
    """Both ways over the same reviews, each in a new process."""
    folder = Path(settings.folder) / f"rows-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    ways = {"ours": import_ours, **({"pandas loop": import_plainly} if rows <= settings.plain_rows else {})}
    results = []
    try:
        size = make_reviews(folder / "raw", rows, settings.seed)
        for name, way in ways.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(timed, way, str(folder / "raw"), str(folder / name)).result()
            results.append({"way": name, "rows": rows, "GB": size / 1e9, "rate": rows / found["seconds"], **found})
        if len({sequences_path(folder / name / NAME).read_bytes() for name in ways}) != 1:
            raise UserError("the two ways wrote different sequences; one of them is wrong")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return pd.DataFrame(results)


def plot(results: pd.DataFrame, path: Path) -> None:
    """Speed and memory over the number of reviews."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), ("rate", "GiB"), ("reviews per second", "peak memory, GiB")):
        for way, found in results.groupby("way"):
            axes.loglog(found["rows"], found[column], "o-", label=way)
        axes.set(xlabel="reviews", ylabel=label)
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, and add to the results in the folder."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    path = Path(settings.folder) / "importer.csv"
    results = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    for rows in settings.rows:
        results = pd.concat([results, measure(settings, rows)])
        results = results.drop_duplicates(["way", "rows"], keep="last").sort_values(["rows", "way"])
        with atomic(path) as temporary:
            results.to_csv(temporary, index=False)
    plot(results, path.with_suffix(".png"))
    print(results.round(2).to_string(index=False))


if __name__ == "__main__":
    run_script(main)
