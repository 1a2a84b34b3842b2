"""Seconds of an epoch under both OpenMP wait policies, on an idle machine and beside another training.

    python -m benchmarks.wait_policy -d ml-100k

Waiting threads spin under ``OMP_WAIT_POLICY=active`` and sleep under ``passive``. Run it when nothing else runs: each
case is a process of its own, which trains ID_SeqEncoder with one thread per core.
"""

from __future__ import annotations

from common.start import run_script

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import List, Optional

from common.settings import ComputeSettings, parse, setting


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    epochs: int = setting(3, "epochs, after one to warm up; the median is reported", minimum=1)


def epoch_seconds(settings: Settings) -> float:
    """The median seconds of an epoch of ID_SeqEncoder."""
    from benchmarks.stage2 import measure_ours
    from common.compute import pick_compute, seed_everything
    from stage2_sequence_preference_learning.data import load_splits
    from stage2_sequence_preference_learning.models import ID_SeqEncoder
    from stage2_sequence_preference_learning.settings import IDSettings

    own = IDSettings(dataset=settings.dataset, datasets_dir=settings.datasets_dir)
    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    data = load_splits(own)
    model = ID_SeqEncoder(own, data).to(compute.device)
    return measure_ours("ID_SeqEncoder", model, data, own, compute, settings.epochs).seconds


def keep_busy(settings: Settings) -> None:
    """Train until killed."""
    while True:
        epoch_seconds(settings)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure the four cases, print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    spawn = multiprocessing.get_context("spawn")  # a new process reads the policy when it loads torch
    print("| seconds of an epoch | idle | beside another training |\n|---|---|---|", flush=True)
    for policy in ("active", "passive"):
        os.environ["OMP_WAIT_POLICY"] = policy
        seconds = []
        for is_busy in (False, True):
            other = spawn.Process(target=keep_busy, args=(settings,), daemon=True)
            if is_busy:
                other.start()
                time.sleep(20)  # until it trains
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                seconds.append(process.submit(epoch_seconds, settings).result())
            if is_busy:
                other.kill()
        print(f"| OMP_WAIT_POLICY={policy} | {seconds[0]:.2f} | {seconds[1]:.2f} |", flush=True)


if __name__ == "__main__":
    run_script(main)
