"""Run a suite: each run in its own process, several at a time; failed runs are listed at the end.

    python -m reproduce.run quickstart
    python -m reproduce.run bili dataset=Bili_Food data_dir=DIR/{dataset} features_dir=datasets/{dataset}/standin
    python -m reproduce.run amazon seeds=[1,2,3] jobs=2 --dry-run
    python -m reproduce.run figures 'rows=[SASRec,"ADRec, ours"]' dataset=Scientific data_dir=DIR text_model=ENCODER

Other key=value go to each model that has the key; {dataset} and {seed} in a value are replaced by those of the run.
Suites: reproduce/suites/*.yaml, or the path of your own YAML (reproduce/suite.py describes it).
The same command continues a suite that was stopped: finished runs end within seconds, others resume.

Writes: what the models write, and <results_dir>/suites/<suite>/runs.csv (a row per run: state, seconds, folder,
        command, log) and logs/. Two commands may run parts of a suite at the same time.
Then:   python -m reproduce.table SUITE
"""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from common.errors import UserError, run_script
from common.files import exclusive, read_json, read_text, write_text
from common.settings import REPOSITORY, Parser
from reproduce.suite import Suite, SuiteRun, load_suite, suite_names

COLUMNS = ["row", "model", "dataset", "seed", "state", "seconds", "folder", "command", "log"]
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
Record = Dict[str, str]  # a row of runs.csv
Key = Tuple[str, str, str]


def key_of(run: SuiteRun) -> Key:
    """The columns of runs.csv that identify a run."""
    return run.row, run.dataset, str(run.seed)


def read_records(path: Path) -> Dict[Key, Record]:
    """The rows of runs.csv by row, data set and seed; empty without a file."""
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
    """Runs a suite and keeps its runs.csv."""

    def __init__(self, suite: Suite, home: Path, jobs: int) -> None:
        self.suite, self.home, self.jobs = suite, home, jobs
        self.path = home / "runs.csv"
        known = read_records(self.path)
        self.records: Dict[Key, Record] = {}
        for run in suite.runs:
            record = known.get(key_of(run), {})
            if record.get("command") != run.command:
                values = [run.row, run.model, run.dataset, str(run.seed), WAITING, "", "", run.command]
                record = dict(zip(COLUMNS, [*values, str(home / "logs" / f"{run.file_name}.log")]))
            self.records[key_of(run)] = record

    def run_all(self) -> List[SuiteRun]:
        """Start the runs in their order, ``jobs`` at a time, and wait for all; returns those that failed."""
        update_records(self.path, self.records)
        waiting, failed, begin = list(self.suite.runs), [], time.perf_counter()
        active: Dict[SuiteRun, Tuple[subprocess.Popen[bytes], float]] = {}
        try:
            while waiting or active:
                while waiting and len(active) < self.jobs:
                    run = waiting.pop(0)
                    active[run] = (self.start(run), time.perf_counter())
                    self.save(run, state=RUNNING)
                ended = [run for run, (process, _) in active.items() if process.poll() is not None]
                for run in ended:
                    process, since = active.pop(run)
                    self.finish(run, process.returncode, time.perf_counter() - since)
                    state = self.records[key_of(run)]["state"]
                    failed += [run] if state == FAILED else []
                    n_left = len(waiting) + len(active)
                    n_ended = len(self.suite.runs) - n_left
                    left = (time.perf_counter() - begin) / n_ended * n_left
                    print(
                        f"[{n_ended}/{len(self.suite.runs)}] {state:<6} {run}: "
                        f"{time.perf_counter() - since:,.0f} s; about {left / 60:,.0f} min left",
                        flush=True,
                    )
                if not ended:
                    time.sleep(0.2)
        finally:  # also on Ctrl-C and SIGTERM; the processes end and can resume
            for run, (process, _) in active.items():
                process.terminate()
                self.save(run, state=DONE if self.records[key_of(run)]["folder"] else WAITING)
        return failed

    def start(self, run: SuiteRun) -> subprocess.Popen[bytes]:
        """Start a run's process, which appends to the run's log."""
        log = Path(self.records[key_of(run)]["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs)),
            "OMP_WAIT_POLICY": "passive",  # threads that wait do not take the cores of other runs
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", "reproduce.train", *run.arguments, "--record", str(log.with_suffix(".json"))]
        with open(log, "ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)

    def finish(self, run: SuiteRun, code: int, seconds: float) -> None:
        """Record how a run's process ended, and where its results are."""
        if code != 0:
            self.save(run, state=FAILED)
            return
        made = Path(self.records[key_of(run)]["log"]).with_suffix(".json")
        folder = read_json(made)["folder"]
        made.unlink()
        before = self.records[key_of(run)]
        if before["folder"] == folder:  # this process may have found everything up to date
            seconds = max(seconds, float(before["seconds"] or 0))
        self.save(run, state=DONE, folder=folder, seconds=f"{seconds:.1f}")

    def save(self, run: SuiteRun, **changed: str) -> None:
        """Change a run's row of runs.csv."""
        self.records[key_of(run)].update(changed)
        update_records(self.path, {key_of(run): self.records[key_of(run)]})


def main(argv: Optional[List[str]] = None) -> None:
    """Check all runs, then run them or list them."""
    parser = Parser(__doc__)
    parser.add_argument("suite", help=", ".join(suite_names()))
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="list the runs with their states, and stop")
    arguments = parser.parse_intermixed_args(argv)
    options = {"jobs": "1", "results_dir": "results"}
    options.update(word.split("=", 1) for word in arguments.words if word.partition("=")[0] in options)
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise UserError(f"jobs={options['jobs']}: must be a number of at least 1")
    words = [word for word in arguments.words if not word.startswith("jobs=")]
    suite = load_suite(arguments.suite, words, with_inputs=not arguments.dry_run)
    runner = Runner(suite, Path(options["results_dir"]) / "suites" / suite.name, int(options["jobs"]))
    if arguments.dry_run:
        for run in suite.runs:
            print(f"{runner.records[key_of(run)]['state']:<8} {run}: {run.command}")
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = runner.run_all()
    for run in failed:
        print(f"failed: {run}; log: {runner.records[key_of(run)]['log']}")
    if failed:
        raise UserError(f"{len(failed)} of {len(suite.runs)} runs failed; the same command tries them again")
    print(f"all {len(suite.runs)} runs are done; table: python -m reproduce.table {arguments.suite}")


if __name__ == "__main__":
    run_script(main)
