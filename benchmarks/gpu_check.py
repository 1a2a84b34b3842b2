"""Check this project on a GPU, in at most eight minutes on a V100 or newer, without network.

    bash benchmarks/gpu_check.sh                       # or: python -m benchmarks.gpu_check folder=/tmp/gpu_check

1. The tests marked ``gpu``: fp16, bf16 and fp32 agree, a resumed run equals an uninterrupted one, no step waits, …
2. The quickstart's models, for one epoch each.
3. An epoch of stage 2 on made-up data of Bili_Food's size, on the GPU and the CPU, this code and the plain way; the
   share of peak is operations per second over those of a large matrix product in the same precision.

Without a GPU it runs on the CPU and says what is skipped. Writes gpu_check.json and a log of each part to ``folder``.
"""

from __future__ import annotations

from common.start import run_script

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from common.dataset import write_dataset
from common.errors import UserError
from common.files import write_json
from common.settings import REPOSITORY, ComputeSettings, parse, setting

N_USERS, N_ITEMS, PER_USER = 6_549, 1_579, 6  # of Bili_Food
EPOCHS = ["epochs=1", "sft_content_encoder.epochs=1", "ID_SeqEncoder.epochs=1", "SICSRec.epochs=1"]
QUICKSTART = ["quickstart", *EPOCHS, "text_model=small", "plm_layer=2"]
Found = Dict[str, Any]


@dataclass
class Settings(ComputeSettings):
    """What is checked."""

    folder: str = setting("/tmp/gpu_check", "folder of the data, the logs and gpu_check.json")
    epochs: int = setting(3, "epochs that are measured, after one to warm up", minimum=1)
    plain_steps: int = setting(1, "steps of the plain way, after one to warm up", minimum=1)


def in_process(name: str, words: List[str], folder: Path) -> Found:
    """Run a module in a process, offline; its output goes to a log."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    log, started = folder / f"{name}.log", time.perf_counter()
    with open(log, "w", encoding="utf-8") as out:
        run = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
    last = (log.read_text(encoding="utf-8").strip().splitlines() or [""])[-1]
    state = "passed" if run.returncode == 0 else f"FAILED, see {log}"
    return {"check": name, "state": state, "seconds": round(time.perf_counter() - started), "last line": last}


def make_data(folder: Path, seed: int) -> None:
    """A data set of Bili_Food's size; what users read next depends a little on what they read before."""
    random = np.random.default_rng(seed)
    lengths = 4 + random.poisson(PER_USER - 4, N_USERS)
    starts = random.integers(0, N_ITEMS, N_USERS)
    users = ((start + np.cumsum(random.geometric(0.1, n))) % N_ITEMS for start, n in zip(starts, lengths))
    titles = [(f"item {item}", f"item {item}") for item in range(N_ITEMS)]
    write_dataset(folder / "Made", "Made", enumerate(users), titles)


@cache
def operations_per_second(device: str, precision: str) -> float:
    """Of a large matrix product."""
    import torch

    from benchmarks.measured import timed
    from common.compute import DTYPES

    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(DTYPES[precision])
    return 2 * size**3 / min(timed(lambda: a @ a) for _ in range(10))


def epochs(devices: List[str], settings: Settings) -> List[Found]:
    """An epoch of each model on the devices, the CPU first; the plain way on the last of them."""
    import torch

    from benchmarks.epochs import make, measure_ours, measure_plain
    from common.compute import pick_compute, seed_everything

    rows: List[Found] = []
    for name in ("ID_SeqEncoder", "SICSRec"):
        seconds: Dict[str, float] = {}
        for device in devices:
            compute = pick_compute(device, settings.precision if device == devices[-1] else "auto")
            seed_everything(settings.seed)
            own, data, model = make(name, "Made", settings.folder)
            ours = measure_ours(name, model.to(compute.device), data, own, compute, settings.epochs)
            seconds[device] = ours.seconds
            share = ours.operations / ours.seconds / operations_per_second(device, compute.precision)
            row = {"check": f"epoch of {ours.name}", "state": device, "seconds": round(ours.seconds, 3)}
            rows.append(
                {**row, "share of peak": f"{share:.1%}", "times the CPU": round(seconds["cpu"] / ours.seconds, 1)}
            )
            if device != "cpu":
                rows[-1]["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        plain = measure_plain(name, model, data, own, settings.plain_steps, device)
        rows.append({"check": f"epoch of {plain.name}", "state": device, "seconds": round(plain.seconds, 3)})
        rows[-2]["times the plain way"] = round(plain.seconds / ours.seconds, 1)
    return rows


def main(argv: Optional[List[str]] = None) -> None:
    """Run all checks, write the JSON, print the table. Raises `UserError` if a check failed."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    import torch

    from common.compute import pick_compute

    folder, started = Path(settings.folder).absolute(), time.perf_counter()
    settings.folder = str(folder)
    shutil.rmtree(folder / "results", ignore_errors=True)  # finished runs would not run again
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder, settings.seed)
    device = str(pick_compute(settings.device, settings.precision).device)
    name = "no GPU: the tests marked gpu are skipped, and the rest runs on the CPU"
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
    print(f"{name}; torch {torch.__version__}", flush=True)
    folders = [f"datasets_dir={folder}", f"results_dir={folder / 'results'}", f"finetune_dir={folder / 'results'}"]
    quickstart = ["reproduce.run", *QUICKSTART, *folders, f"device={device}", f"precision={settings.precision}"]
    rows = [
        in_process("tests", ["pytest", "-m", "gpu", "tests/common/test_gpu.py"], folder),
        in_process("quickstart", quickstart, folder),
        *epochs(list(dict.fromkeys(("cpu", device))), settings),
    ]
    found = {"device": name, "torch": torch.__version__, "seconds": round(time.perf_counter() - started), "rows": rows}
    write_json(folder / "gpu_check.json", found)
    print_rows(rows)
    print(f"{found['seconds']} s; written: {folder / 'gpu_check.json'}")
    failed = [row["check"] for row in rows if "FAILED" in row["state"]]
    if failed:
        raise UserError(f"{', '.join(failed)}: failed; the logs are in {folder}")


def print_rows(rows: List[Found]) -> None:
    """The table, in Markdown."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(str(row.get(key, '')) for key in columns)} |")


if __name__ == "__main__":
    run_script(main)
