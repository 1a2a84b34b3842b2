"""Seconds and peak memory over the number of interactions and over the number of items, and with several processes.

    python -m benchmarks.scale                                                # all points: hours, 30 GB of disk
    python -m benchmarks.scale 'interactions=[60000,600000]' 'items=[]' processes=2      # adds to the results there

First axis: made-up interactions, 12 a user, of 2,000 items. ``prepare``: the importer reads them as JSON lines;
``write``: sequential_data.txt; ``load``: from it to the splits, ready to be packed; ``split``: by time; ID_SeqEncoder,
64 wide. Second axis: items, with ``of_items`` interactions. SICSRec trains with a sampled softmax and leaves features
unchanged; ADRec has a small text encoder.

Each part runs in a process of its own, so that its peak memory is its own, imports included. Of an epoch ``steps``
steps are measured, and as many batches of a ranking; seconds are scaled up. Several processes share threads and
batches. An exponent is the slope of log seconds over log size in the last two decades. Writes scale.json and
scale-{interactions,items}.{md,png} into ``folder``.
"""

from __future__ import annotations

from common.start import run_script

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import pandas as pd

from common.dataset import load_dataset, write_dataset
from common.errors import UserError
from common.files import read_json, write_bytes, write_json, write_text
from common.settings import REPOSITORY, ComputeSettings, as_dict, parse, setting

Found = Dict[str, Any]
N_ITEMS, PER_USER, WIDTH, USERS_AT_ONCE = 2_000, 12, 64, 64
AXES = {
    "interactions": ["prepare", "write", "load", "split", "ID_SeqEncoder epoch", "ID_SeqEncoder validation"],
    "items": ["prepare", "SICSRec epoch", "SICSRec test", "ADRec epoch", "ADRec test"],
}
OWN: Dict[str, Found] = {
    "ID_SeqEncoder": {"hidden_size": WIDTH, "inner_size": WIDTH},
    "SICSRec": {"hidden_size": WIDTH, "inner_size": WIDTH, "loss": "sampled_softmax", "train_features": False},
    "ADRec": {"text_model": "small", "fields": ["title"]},
}


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    interactions: List[int] = setting([60_000, 600_000, 6_000_000, 60_000_000], "sizes of the first axis", minimum=600)
    items: List[int] = setting([1_000, 10_000, 100_000, 1_000_000], "sizes of the second axis", minimum=50)
    of_items: int = setting(1_000_000, "interactions on the second axis", minimum=600)
    processes: int = setting(1, "more than 1: epochs of the first axis also with this many processes", minimum=1)
    steps: int = setting(100, "the most steps, and batches of a ranking, that are measured", minimum=2)
    folder: str = setting("/tmp/scale", "folder of the data and of the results")


def make(home: Path, interactions: int, n_items: int, features: bool, seed: int) -> Found:
    """Write interactions, in order of time, and items as JSON lines, and random features of the papers' widths."""
    import polars as pl
    import torch

    from common.features import features_dir, features_path

    random = np.random.default_rng(seed)
    lengths = random.integers(PER_USER // 2, PER_USER * 3 // 2 + 1, interactions // PER_USER)
    user = random.permutation(np.repeat(np.arange(len(lengths)), lengths))
    item = (random.random(len(user)) ** 2 * n_items).astype(np.int64)
    numbers = np.arange(min(n_items, len(item)))
    item[: len(numbers)] = numbers  # each occurs
    random.shuffle(item)
    log = {"user": user, "item": item, "timestamp": 1_600_000_000 + np.arange(len(user))}
    titles = [f"item {number} of kind {number % 97}" for number in numbers]
    folder = features_dir(home, "paper")
    folder.mkdir(parents=True)
    pl.DataFrame(log).write_ndjson(home / "interactions.jsonl")
    pl.DataFrame({"item": numbers, "title": titles}).write_ndjson(home / "items.jsonl")
    for modality, width in {"text": 768, "image": 1000}.items() if features else ():
        torch.save(torch.rand(len(numbers), width).sub_(0.5), features_path(folder, home.name, modality))
    return {}


def data_part(part: str, home: Path) -> Found:
    """A part that trains nothing."""
    from benchmarks.measured import timed
    from common.splits import SplitSettings, split_dataset
    from importers import settings as importer
    from stage1_content_modality_semantic_alignment import prepare_dataset
    from stage2_sequence_preference_learning.data import load_splits
    from stage2_sequence_preference_learning.settings import HistorySettings

    shared: Any = {"dataset": home.name, "datasets_dir": str(home.parent)}
    if part == "prepare":
        shared |= {"data_dir": str(home), "inter_file": "interactions.jsonl", "item_file": "items.jsonl"}
        return {"seconds": timed(lambda: prepare_dataset.run(importer.Settings(**shared, source="table")))}
    if part == "load":
        return {"seconds": timed(lambda: load_splits(HistorySettings(**shared)))}
    data = load_dataset(home, home.name)
    if part == "split":
        return {"seconds": timed(lambda: split_dataset(data, SplitSettings(split="temporal")))}
    rows, titles = zip(data.users.tolist(), data.sequences), zip(data.titles_cn, data.titles_en)
    return {"seconds": timed(lambda: write_dataset(home / "written", home.name, rows, titles))}


def model_part(name: str, part: str, home: Path, settings: Settings) -> Found:
    """An epoch, a validation or a test of a model, in one or several processes."""
    from benchmarks.measured import timed, train_step
    from common.compute import pick_compute, seed_everything, start_processes
    from common.training import distributed, make_optimizer

    processes = start_processes(settings.device)
    compute = pick_compute(processes.device(settings.device), settings.precision)
    seed_everything(settings.seed)
    given = {"dataset": home.name, "datasets_dir": str(home.parent), **OWN[name]}
    build = adrec if name == "ADRec" else stage_2
    model, loader, encode, rank, n_batches = build(name, part, given, compute, processes)
    if part != "epoch":
        measured = min(settings.steps, n_batches) / n_batches
        seconds = timed(encode) + timed(lambda: rank(min(settings.steps, n_batches))) / measured
        return {"seconds": seconds, "measured": measured}

    optimizer, scaler = make_optimizer(model, model.settings), compute.scaler()
    stepped = distributed(model) if processes.size > 1 else model
    model.train()

    def train(steps: List[np.ndarray]) -> None:
        for rows in steps:
            train_step(stepped, loader, rows, optimizer, scaler, compute)

    steps: List[np.ndarray] = []
    order = timed(lambda: steps.extend(loader.epoch(0)))
    train(steps[:1])  # warms up
    some = steps[: settings.steps]
    seconds = timed(lambda: train(some))
    found = {"seconds": order + seconds * len(steps) / len(some), "steps/s": len(some) / seconds}
    return {**found, "measured": len(some) / len(steps), "peaks": processes.gather(peak())}


# model, training rows, what computes the vectors of items, what ranks so many batches, number of batches
Built = Tuple[Any, Any, Callable[[], None], Callable[[int], None], int]


def stage_2(name: str, part: str, given: Found, compute: Any, processes: Any) -> Built:
    """A model of stage 2, which validates or tests."""
    import torch

    from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
    from stage2_sequence_preference_learning.models import MODELS

    own: Any = MODELS[name].schema(**given)
    data = load_splits(own)
    model: Any = MODELS[name](own, data).to(compute.device)
    train = TrainLoader(data.train, own.train_batch_size, own.seed, processes)
    loader = EvalLoader(data.test if part == "test" else data.valid, data.n_items)
    batches, fixed = loader.batches, ExitStack()

    def encode() -> None:
        with torch.no_grad():
            fixed.enter_context(model.eval().fixed_items())
        model.fixed_items = nullcontext  # of each ranking

    def rank(count: int) -> None:
        loader.batches = [batches[place] for place in np.linspace(0, len(batches) - 1, count).astype(int)]
        (model.test if part == "test" else model.rank)(loader, compute, processes)

    return model, train, encode, rank, len(batches)


def adrec(name: str, part: str, given: Found, compute: Any, processes: Any) -> Built:
    """ADRec, which tests."""
    from adrec.data import TrainLoader, item_tokens, rows_of
    from adrec.encoders import TextEncoder
    from adrec.model import ADRec, ranking_of
    from adrec.settings import ADRecSettings
    from common.splits import split_dataset
    from common.text_encoders import load_bert, text_model_path

    own = ADRecSettings(**given)
    data = load_dataset(own.dataset_dir, own.dataset)
    bert, tokenizer = load_bert(text_model_path(own.text_model, data, "en", own.seed), own.max_text_tokens)
    text = TextEncoder(bert, own.plm_layer)
    vocabulary, tokens = text.keep_tokens(item_tokens(data, own, tokenizer))
    splits = split_dataset(data, own)
    train, test = (rows_of(data, one, own.max_seq_length) for one in (splits.train, splits.test))
    model = ADRec(text, vocabulary, own, train.target_counts(data.n_items), processes).to(compute.device)

    items: List[Any] = []

    def encode() -> None:
        items.append(model.query.encode_items(tokens, compute))

    def rank(count: int) -> None:
        some = slice(count * USERS_AT_ONCE)
        rows = replace(test, **{key: getattr(test, key)[some] for key in ("start", "stop", "targets", "users")})
        ranking_of(model.query, items[0], rows, rows.users)

    return model, TrainLoader(train, tokens, own, processes), encode, rank, -(-len(test) // USERS_AT_ONCE)


def peak() -> float:
    """The most memory that this process has held, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def in_process(part: str, home: Path, settings: Settings, processes: int = 1) -> Found:
    """Run a part in a process of its own, or in several."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)) // processes
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads)), "PYTHONPATH": str(REPOSITORY)}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    words = [f"{key}={json.dumps(value)}" for key, value in as_dict(settings).items()]
    command = [sys.executable, *launcher, "-m", "benchmarks.scale", "--part", part, "--home", str(home), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{part} on {home}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_part(part: str, home: Path, settings: Settings) -> Found:
    """A part, in this process."""
    name, _, of_model = part.partition(" ")
    if name == "make":
        size, n_items = map(int, of_model.split())
        return make(home, size, n_items, "items" in home.name, settings.seed)
    return model_part(name, of_model, home, settings) if of_model else data_part(name, home)


def measure(axis: str, size: int, settings: Settings) -> List[Found]:
    """All parts at one point of an axis."""
    home = Path(settings.folder) / f"{axis}-{size}"
    shutil.rmtree(home, ignore_errors=True)
    rows = []
    try:
        counts = (size, N_ITEMS) if axis == "interactions" else (settings.of_items, size)
        in_process(f"make {counts[0]} {counts[1]}", home, settings)
        for part in AXES[axis]:
            for processes in sorted({1, settings.processes if part == "ID_SeqEncoder epoch" else 1}):
                name = part if processes == 1 else f"{part}, {processes} processes"
                rows.append({"axis": axis, "part": name, "size": size, **in_process(part, home, settings, processes)})
                print(rows[-1], flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return rows


def exponent(rows: pd.DataFrame) -> str:
    """The slope of log seconds over log size in the last two decades."""
    last = rows[rows["size"] * 100 >= rows["size"].max()]
    return f"{np.polyfit(np.log(last['size']), np.log(last['seconds']), 1)[0]:.2f}" if len(last) > 1 else ""


def cell(row: pd.Series) -> str:
    """Seconds and peak GB; of what was scaled up, the share that was measured."""
    share = f" ({row['measured']:.1%} measured)" if row["measured"] < 1 else ""
    speed = f", {row['steps/s']:.1f} steps/s" if row["steps/s"] > 0 else ""
    return f"{row['seconds']:,.2f} s, {row['GB']:.2f} GB{share}{speed}"


def table(rows: pd.DataFrame, axis: str) -> str:
    """A line for each part, a column for each size, in Markdown."""
    cells = rows.assign(cell=rows.apply(cell, axis=1)).pivot(index="part", columns="size", values="cell").fillna("")
    cells.columns = [f"{size:,} {axis}" for size in cells.columns]
    cells["exponent"] = {part: exponent(own) for part, own in rows.groupby("part")}
    return cells.loc[rows["part"].unique()].to_markdown(disable_numparse=True)


def plot(rows: pd.DataFrame, axis: str) -> bytes:
    """Seconds and memory over the size, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, key, label, base in zip(
        figure.subplots(1, 2), ("seconds", "GB"), ("seconds", "peak memory, GB"), (10, 2)
    ):
        for part, own in rows.groupby("part", sort=False):
            axes.loglog(own["size"], own[key], "o-", markersize=4, label=part)
        axes.set(xlabel=axis, ylabel=label)
        axes.set_yscale("log", base=base)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(color="#dfe3e9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, add to the results in the folder, print the tables."""
    hidden = {"help": argparse.SUPPRESS}
    command = parse(Settings, __doc__, None, argv, ((("--part",), hidden), (("--home",), hidden)), has_force=False)
    settings, arguments = command.settings, command.arguments
    if arguments.part:
        found = run_part(arguments.part, Path(arguments.home), settings)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps({**found, "GB": max(found.get("peaks", [peak()]))}))
        return
    path = Path(settings.folder) / "scale.json"
    rows: List[Found] = read_json(path) if path.is_file() else []
    for axis in AXES:
        for size in getattr(settings, axis):
            rows += measure(axis, size, settings)
            write_json(path, list({(row["axis"], row["part"], row["size"]): row for row in rows}.values()))
    columns = ["axis", "part", "size", "seconds", "GB", "measured", "steps/s"]
    for axis, found in (
        pd.DataFrame(read_json(path), columns=columns).sort_values("size", kind="stable").groupby("axis")
    ):
        print(f"{table(found, axis)}\n")
        write_text(path.with_name(f"scale-{axis}.md"), f"{table(found, axis)}\n")
        write_bytes(path.with_name(f"scale-{axis}.png"), plot(found, axis))


if __name__ == "__main__":
    run_script(main)
