"""A suite of four runs that finish and one that fails, for the tests of suites and tables."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import pytest
from stage2_helpers import make_ready

from common.errors import UserError
from reproduce import run

ADREC = "{model: ADRec, settings: {text_model: small, queue_size: 8, fields: [title], max_text_tokens: 40}}"
FAILS = "{model: Markov, name: fails, datasets: [Nothing], settings: {data_dir: nowhere}}"
SUITE = f"""
datasets: [Tiny]
seeds: [1]
against: [Markov]
settings: {{epochs: 1}}
models: [Pop, Markov, {FAILS}, SASRec, {ADREC}]
"""


def write(folder: Path, text: str) -> str:
    """Write a suite's YAML and return its path."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def run_small_suite(folder: Path) -> Tuple[Path, List[str]]:
    """Run the suite in processes; returns its folder and the words of reproduce.run."""
    make_ready(folder / "d")
    words = [write(folder, SUITE), f"datasets_dir={folder / 'd'}", f"results_dir={folder / 'r'}", "device=cpu"]
    with pytest.raises(UserError, match="1 of 5 runs failed"):
        run.main([*words, "jobs=2"])
    return folder, words
