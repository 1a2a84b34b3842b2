"""What the tests of the report share: a suite on the tiny data set, run in this process, and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from stage2_helpers import make_ready
from tiny import N_ITEMS, tiny_sequences, tiny_titles

from common.dataset import write_dataset
from common.features import features_path, save_features
from common.files import recipe, write_json
from reproduce import report, train
from reproduce.suite import SuiteRun, load_suite
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, write_rows
from stage1_content_modality_semantic_alignment.paths import pairs_dir

EVIL = """</script><script>alert("x")</script> & 'quoted'"""
PAIRS = [(0, 5), (1, 6), (0, 5)]
SUITE = """
datasets: [Tiny]
seeds: [1]
against: [wide]
settings: {max_seq_length: 10, train_batch_size: 16, inner_size: 8, precision: fp32, epochs: 3, stopping_step: 5}
models:
  - Pop
  - {model: SASRec, name: narrow, settings: {hidden_size: 8}}
  - {model: SASRec, name: wide, settings: {hidden_size: 16}}
  - {model: ItemKNN, name: searched, settings: {n_trials: 2, search_seed: 1}}
  - {model: SASRecText, name: "text <b>", settings: {hidden_size: 8, modalities: [text]}}
"""


Ran = Tuple[Path, List[str], List[SuiteRun]]


def run_suite(folder: Path) -> Ran:
    """Run the suite in this process; returns the folder, the words that name the suite, and its runs."""
    home = make_ready(folder / "d")
    titles_cn, titles_en = tiny_titles()
    titles_en[3] = EVIL
    write_dataset(home, "Tiny", dict(enumerate(tiny_sequences())), zip(titles_cn, titles_en))
    write_rows(pairs_path(pairs_dir(home, "hand"), "id"), PAIRS)
    before = features_path(home / "before_stage1", "Tiny", "text")
    save_features(before, torch.randn(N_ITEMS, 6), recipe("test", {"model": "m"}, {}))
    (folder / "mine.yaml").write_text(SUITE)
    words = [f"datasets_dir={folder / 'd'}", f"results_dir={folder / 'r'}", f"features_dir={home}", "device=cpu"]
    values = dict(word.split("=", 1) for word in words)
    runs = load_suite(str(folder / "mine.yaml"), settings=values).runs
    for run in runs:
        made, _ = train.run_plan(train.plan(run.model, run.dataset, run.words), force=False)
        write_json(run.ledger(str(folder / "r")), {"state": "done", "folder": str(made)})
    return folder, [str(folder / "mine.yaml"), *words], runs


def made_page(ran: Ran, *more: str) -> str:
    """The page, with further words."""
    folder, words, _ = ran
    report.main([*words, *more])
    name = "report-masked.html" if "--masked" in more else "report.html"
    return (folder / "r" / "suites" / "mine" / name).read_text(encoding="utf-8")


def data_of(page: str) -> Dict[str, Any]:
    """What page.js reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: Dict[str, Any] = json.loads(text)
    return found


def folder_of(ran: Ran, name: str) -> Path:
    """The folder of a row's run."""
    (run,) = (run for run in ran[2] if run.name == name)
    return Path(run.state(str(ran[0] / "r"))["folder"])


def charts(page: str) -> Dict[str, List[List[Any]]]:
    """The figures' numbers of each chart by id, one list a choice."""
    found = re.findall(r'<div class="plots" id="mine-[a-z]+-([\w-]+)" data-picks="([^"]*)"', page)
    return {name: json.loads(picks.replace("&#34;", '"')) for name, picks in found}
