"""A suite's results without training: run folders and runs.csv on the tiny data set, and the report page of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
import pandas as pd
import torch
from tiny import N_ITEMS, N_USERS, make_tiny_dataset, tiny_sequences, tiny_titles

from common.dataset import write_dataset
from common.features import features_path, save_features
from common.files import recipe, write_json
from reproduce import report
from reproduce.ranks import METRICS, Ranks
from reproduce.rows import Results, ResultsSettings, read_results

EVIL = """</script><script>alert("x")</script> & 'quoted'"""
PAIRS = [(0, 5), (1, 6), (0, 5)]
ROWS = {"Pop": "Pop", "plain": "SASRec", "text <b>": "SASRec", "ours": "SICSRec"}  # row → model
SUITE = f"""
datasets: [Tiny]
seeds: [1, 2]
against: [ours]
models:
{"".join(f'  - {{model: {model}, name: "{row}"}}' + chr(10) for row, model in ROWS.items())}
"""


def write_run(folder: Path, seed: int, ranks: Sequence[float], top: np.ndarray, masked: Sequence[float]) -> None:
    """A tested run of the tiny data set's users; ``top`` is (users, 10)."""
    folder.mkdir(parents=True)
    targets = [items[-1] for items in tiny_sequences()]
    lines = [f"{user},{item},{a},{b}" for user, (item, a, b) in enumerate(zip(targets, ranks, masked))]
    (folder / "ranks.csv").write_text("\n".join(["user,item,rank,rank_masked", *lines]) + "\n")
    np.save(folder / "top.npy", top.astype(np.int32))
    result = {"seed": seed, "valid": {"ndcg@10": 0.25}, "epochs": 3, "seconds": 60.0, "operations_per_epoch": 2e9}
    result["parameters"] = {"trained": 1000 * seed, "frozen": 0}
    for split, values in (("test", ranks), ("test_masked", masked)):
        of_users = Ranks(np.arange(N_USERS), np.array(targets), np.array([values], dtype=float))
        result[split] = {metric: float(of_users.gains(metric).mean()) for metric in METRICS}
    write_json(folder / "metrics.json", result)
    (folder / "settings.yaml").write_text(f"seed: {seed}\n")
    (folder / "train.log").write_text("epoch 0\n")


def write_history(folder: Path, values: Sequence[float]) -> None:
    """A history.csv whose validation NDCG@10 are these; each that is the best so far is marked."""
    best = np.maximum.accumulate(values) == values
    lines = [f"{n + 1},{8 * (n + 1)},1.5,{3 - n},0.5,{v},{v},{int(best[n])}" for n, v in enumerate(values)]
    header = "epoch,step,seconds,train/rec,train/reg,valid/ndcg@10,valid/hit@10,best"
    (folder / "history.csv").write_text("\n".join([header, *lines]) + "\n")


def write_results(home: Path) -> Path:
    """Data set, features, pairs, YAML, run folders and runs.csv in ``home``; returns the YAML's path.

    Pop has one list for all users. "ours" ranks every target first with seed 1 and second with seed 2.
    """
    tiny = make_tiny_dataset(home / "datasets")
    titles_cn, titles_en = tiny_titles()
    titles_en[3] = EVIL
    write_dataset(tiny, "Tiny", enumerate(tiny_sequences()), zip(titles_cn, titles_en))
    (tiny / "pairs" / "hand").mkdir(parents=True)
    (tiny / "pairs" / "hand" / "item_pairs_id.txt").write_text("".join(f"{a},{b}\n" for a, b in PAIRS))
    text = {
        "after": features_path(tiny, "Tiny", "text"),
        "before": features_path(tiny / "features" / "before_stage1", "Tiny", "text"),
    }
    for number, path in enumerate(text.values()):
        vectors = torch.randn(N_ITEMS, 6, generator=torch.Generator().manual_seed(number))
        save_features(path, vectors, recipe("test", {"model": "m"}, {}))
    generator = np.random.default_rng(0)
    targets = [items[-1] for items in tiny_sequences()]
    lines: List[Dict[str, object]] = []
    for seed in (1, 2):
        for row, model in ROWS.items():
            folder = home / "results" / model / "Tiny" / f"{row[:4].strip()}-{seed}"
            top = np.stack([generator.permutation(N_ITEMS)[:10] for _ in range(N_USERS)])
            ranks = generator.integers(1, N_ITEMS + 1, N_USERS).astype(float)
            if row == "Pop":
                top = np.tile(np.arange(10), (N_USERS, 1))
            if row == "ours":
                ranks = np.full(N_USERS, float(seed))
                top = np.stack([np.insert([i for i in range(11) if i != t][:9], seed - 1, t) for t in targets])
            write_run(folder, seed, ranks, top, np.maximum(1, ranks - 1))
            write_json(folder / "made.json", {"inputs": {"text": {"path": str(text["after"])}}})
            if row != "Pop":
                write_history(folder, [0.1, 0.1 * seed + 0.2, 0.2])
            lines.append({"row": row, "model": model, "dataset": "Tiny", "seed": seed, "state": "done", "seconds": 60})
            lines[-1].update(folder=str(folder), command=f"bash run_train.sh {model} Tiny seed={seed}", log="x.log")
    suite = home / "results" / "suites" / "mine"
    suite.mkdir(parents=True)
    pd.DataFrame(lines).to_csv(suite / "runs.csv", index=False)
    path = home / "mine.yaml"
    path.write_text(SUITE)
    return path


def words_of(suite: Path, *more: str) -> List[str]:
    """The command line of `reproduce.table`, `reproduce.figure` and `reproduce.report`."""
    home = suite.parent
    return [str(suite), f"results_dir={home / 'results'}", f"datasets_dir={home / 'datasets'}", *more]


def results_of(suite: Path) -> Results:
    """The suite's results."""
    home = suite.parent
    settings = ResultsSettings(results_dir=str(home / "results"), datasets_dir=str(home / "datasets"))
    return read_results(str(suite), settings)


def made_page(suite: Path, *more: str) -> str:
    """The report page."""
    report.main(words_of(suite, *more))
    name = "report-masked.html" if "--masked" in more else "report.html"
    return (suite.parent / "results" / "suites" / "mine" / name).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """The page without markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
