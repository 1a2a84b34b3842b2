"""Run a suite: each run in its own process, several at a time; failed runs are listed at the end.

    python -m reproduce.run quickstart
    python -m reproduce.run bili dataset=Bili_Food data_dir=DIR/{dataset} features_dir=datasets/{dataset}/standin
    python -m reproduce.run amazon data_dir=DIR/{dataset} seeds=[1,2,3] jobs=2 --dry-run
    python -m reproduce.run figures 'rows=[SASRec,"ADRec, ours"]' dataset=Scientific data_dir=DIR text_model=minilm

Other key=value go to each model that has the key; {dataset} and {seed} in a value are replaced by those of the run.
Suites: reproduce/suites/*.yaml, or the path of your own YAML (reproduce/suite.py describes it).
The same command continues a suite that was stopped: finished runs end within seconds, others resume.

Writes: what the models write, and <results_dir>/suites/<suite>/runs.csv (a row per run: state, seconds, folder,
        command, log) and logs/. Two commands may run parts of a suite at the same time.
Then:   python -m reproduce.table SUITE
"""

from __future__ import annotations

from common.start import run_script

import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from common.errors import UserError
from common.files import exclusive, read_text, write_text
from common.settings import REPOSITORY, Parser, help_of_settings, setting, split_overrides, typed
from reproduce.suite import SuiteRun, load_suite, suite_names, suite_path

COLUMNS = ["row", "model", "dataset", "seed", "state", "seconds", "folder", "command", "log"]
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
Record = Dict[str, str]  # a row of runs.csv
Key = Tuple[str, str, str]  # row, data set, seed


@dataclass
class Settings:
    """How a suite is run."""

    jobs: int = setting(1, "runs at a time", minimum=1)
    results_dir: str = setting("results", "folder of all results")


def read_records(path: Path) -> Dict[Key, Record]:
    """The rows of runs.csv; empty without a file."""
    if not path.is_file():
        return {}
    return {(r["row"], r["dataset"], r["seed"]): r for r in csv.DictReader(io.StringIO(read_text(path)))}


def update_records(path: Path, changed: Dict[Key, Record]) -> None:
    """Replace or append some rows of runs.csv, while other processes may do the same."""
    with exclusive(path.parent):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**read_records(path), **changed}.values())
        write_text(path, text.getvalue())


class Runner:
    """Runs a suite and keeps its runs.csv in ``home``."""

    def __init__(self, runs: List[SuiteRun], home: Path, jobs: int) -> None:
        self.runs, self.jobs, self.path = runs, jobs, home / "runs.csv"
        self.took: Dict[SuiteRun, float] = {}  # seconds of the runs that ended
        known = read_records(self.path)
        self.records: Dict[Key, Record] = {}
        for run in runs:
            record = known.get(run.key, {})
            if record.get("command") != run.command:
                values = [run.row, run.model, run.dataset, str(run.seed), WAITING, "", "", run.command]
                record = dict(zip(COLUMNS, [*values, str(home / "logs" / f"{run.file_name}.log")]))
            self.records[run.key] = record

    def run_all(self) -> List[SuiteRun]:
        """Start the runs in their order, ``jobs`` at a time, and wait for all; returns those that failed."""
        update_records(self.path, self.records)
        waiting, failed = list(self.runs), []
        active: Dict[SuiteRun, Tuple[subprocess.Popen[bytes], float]] = {}
        begin = shown = time.perf_counter()
        changed = True
        try:
            while waiting or active:
                while waiting and len(active) < self.jobs:
                    run = waiting.pop(0)
                    active[run] = (self.start(run), time.perf_counter())
                    self.save(run, state=RUNNING)
                now = time.perf_counter()
                if changed or now - shown > max(20, 0.05 * (now - begin)):
                    print(self.progress({run: now - since for run, (_, since) in active.items()}, waiting), flush=True)
                    shown, changed = now, False
                ended = [run for run, (process, _) in active.items() if process.poll() is not None]
                for run in ended:
                    process, since = active.pop(run)
                    self.took[run] = time.perf_counter() - since
                    self.finish(run, process.returncode, self.took[run])
                    state = self.records[run.key]["state"]
                    failed += [run] if state == FAILED else []
                    print(f"{state:<6} {run}: {self.took[run]:,.0f} s", flush=True)
                    changed = True
                if not ended:
                    time.sleep(0.2)
        finally:  # also on Ctrl-C and SIGTERM; the processes end and can resume
            for run, (process, _) in active.items():
                process.terminate()
                self.save(run, state=DONE if self.records[run.key]["folder"] else WAITING)
        return failed

    def progress(self, active: Mapping[SuiteRun, float], waiting: Sequence[SuiteRun]) -> str:
        """How many runs ended, the step of each active one, given with its seconds so far, and the time left."""
        steps = []
        for run in active:
            log = Path(self.records[run.key]["log"]).read_text(encoding="utf-8", errors="replace")
            *_, step = re.findall(r"^== (.*)", log, re.MULTILINE) or ["starts"]
            steps.append(f"{run.row} ({step})")
        pace = sum(self.took.values()) / sum(run.seconds for run in self.took) if self.took else 0.0
        left = [max(pace * run.seconds - active.get(run, 0.0), 0.0) for run in (*active, *waiting)]
        known = f"; about {max(sum(left) / self.jobs, *left) / 60:,.0f} min left" if self.took else ""
        ended = len(self.runs) - len(active) - len(waiting)
        return f"[{ended}/{len(self.runs)}] now {', '.join(steps)}; {len(waiting)} waiting{known}"

    def start(self, run: SuiteRun) -> subprocess.Popen[bytes]:
        """Start a run's process, which appends to the run's log."""
        log = Path(self.records[run.key]["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs)),
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", "reproduce.train", *run.arguments, "--record", str(log.with_suffix(".folder"))]
        with open(log, "ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)

    def finish(self, run: SuiteRun, code: int, seconds: float) -> None:
        """Record how a run's process ended, and where its results are."""
        if code != 0:
            self.save(run, state=FAILED)
            return
        before = self.records[run.key]
        made = Path(before["log"]).with_suffix(".folder")
        folder = read_text(made)
        made.unlink()
        if before["folder"] == folder:  # this process may have found everything up to date
            seconds = max(seconds, float(before["seconds"] or 0))
        self.save(run, state=DONE, folder=folder, seconds=f"{seconds:.1f}")

    def save(self, run: SuiteRun, **changed: str) -> None:
        """Change a run's row of runs.csv."""
        self.records[run.key].update(changed)
        update_records(self.path, {run.key: self.records[run.key]})


def main(argv: Optional[List[str]] = None) -> None:
    """Check all runs, then run them or list them."""
    parser = Parser(__doc__, help_of_settings(Settings, "settings (key=value):"))
    parser.add_argument("suite", help=", ".join(suite_names()))
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="list the runs with their states, and stop")
    arguments = parser.parse_intermixed_args(argv)
    values = split_overrides(arguments.words)
    own = {f.name: values[f.name] for f in fields(Settings) if f.name in values}
    settings = Settings(**typed(Settings, own, "command line"))
    words = [word for word in arguments.words if not word.startswith("jobs=")]
    path = suite_path(arguments.suite)
    runs = load_suite(path, words)
    runner = Runner(runs, Path(settings.results_dir) / "suites" / path.stem, settings.jobs)
    if arguments.dry_run:
        for run in runs:
            print(f"{runner.records[run.key]['state']:<8} {run}: {run.command}")
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = runner.run_all()
    for run in failed:
        print(f"failed: {run}; log: {runner.records[run.key]['log']}")
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again")
    print(f"all {len(runs)} runs are done; table: python -m reproduce.table {arguments.suite}")


if __name__ == "__main__":
    run_script(main)
