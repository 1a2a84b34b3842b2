"""Run a suite: each run in a process of its own, done ones skipped, begun ones resumed, failures shown at the end.

    python -m reproduce.run quickstart
    python -m reproduce.run bili dataset=Bili_Food data_dir=DIR/{dataset} features_dir=datasets/{dataset}/standin
    python -m reproduce.run amazon seeds=[1,2,3] jobs=2 --dry-run
    python -m reproduce.run figures 'rows=[SASRec,"ADRec, ours"]' dataset=Scientific data_dir=DIR text_model=ENCODER
    python -m reproduce.table figures 'rows=[ADRec,"ADRec, ours"]' base=ADRec         what the table compares with

Other key=value go to each model that knows the key; {dataset} in a value stands for the data set. Suites:
reproduce/suites/*.yaml, or the path of a YAML of yours (reproduce/suite_file.py describes it).

Writes: what the models write, and <results_dir>/suite-runs/<run>.json (state, seconds, folder) and .log. A run is done
        until its settings change, in a YAML too, or the file of a model of yours or of scores; --check looks at data
        and features too
Then:   python -m reproduce.table with the same words makes the table
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import yaml
from omegaconf import ListConfig

from common.arguments import Parser
from common.errors import UserError, nearest, run_script
from common.files import read_json, read_text, write_json
from common.runs import METRICS
from common.settings import REPOSITORY, split_overrides
from reproduce.formats import name_part
from reproduce.suite import Suite, SuiteRun, load_suite, suite_names
from reproduce.train import check_finished_features, plan

HELD = "is writing here"  # of common.files.exclusive: another run makes what this one needs too
HELD_SECONDS = 10.0
BUILT_IN = "ml-100k"  # lies in the recbole package
OWN = ("dataset", "seeds", "rows", "base", "jobs")  # words that are not the models'


@dataclass
class Asked:
    """A command line of `reproduce.run` or `reproduce.table`."""

    suite: Suite
    given: str  # the suite's name, or the path of its YAML
    results_dir: str
    datasets_dir: str
    jobs: int
    words: List[str]
    flags: argparse.Namespace
    chosen: Dict[str, List[str]]  # what dataset=, seeds=, rows= and base= name, each where it is given

    @property
    def shaping(self) -> List[str]:
        """Words that make other runs of the same rows; folders, encoders and devices are not told apart."""
        keys = {word: word.partition("=")[0] for word in self.words}
        told = [word for word, key in keys.items() if key not in OWN and not key.endswith(("_dir", "_model"))]
        return [word for word in told if keys[word] not in ("device", "precision")]

    @property
    def selection(self) -> str:
        """What sets a table or a page of a part of the suite, or of another protocol, apart in a file's name."""
        told = [name_part(*([] if key == "dataset" else [key]), *names) for key, names in self.chosen.items()]
        told += [name_part("with", *self.shaping)] if self.shaping else []
        told += ["masked"] if getattr(self.flags, "masked", False) else []
        return "".join(f"-{word}" for word in told)


def command_line(doc: Optional[str], argv: Optional[List[str]], flags: Dict[str, str]) -> Asked:
    """SUITE and words."""
    parser = Parser(doc)
    parser.add_argument("suite", help=", ".join(suite_names()))
    parser.add_argument("words", nargs="*", metavar="key=value")
    for flag, told in flags.items():
        parser.add_argument(flag, action="store_true", help=told)
    arguments = parser.parse_intermixed_args(argv)
    return asked_for(arguments.suite, arguments.words, arguments)


def asked_for(name: str, words: List[str], arguments: argparse.Namespace, others: Sequence[str] = ()) -> Asked:
    """The suite and the words given with it; those of `OWN` are ours, all else is the models'.

    Args:
        others: keys that the caller took itself, which a mistyped key may have meant.
    """
    values = split_overrides(words)
    own = {key: values.pop(key) for key in OWN if key in values}
    texts = {key: text for key, _, text in (word.partition("=") for word in words)}
    chosen = {key: _names(key, texts[key]) for key in own if key != "jobs"}
    jobs = own.get("jobs", 1)
    if type(jobs) is not int or jobs < 1:
        raise UserError(f"jobs={jobs}: must be a number of at least 1")
    seeds = own.get("seeds")
    if seeds is not None:
        seeds = list(seeds) if isinstance(seeds, ListConfig) else [seeds]
    suite = load_suite(name, chosen.get("dataset"), seeds, values, (*OWN, *others), chosen.get("rows"))
    if "base" in chosen:
        (base, *others_named) = chosen["base"]
        if others_named or base not in chosen.get("rows", [base]):
            raise UserError(f"base={texts['base']}: name one row, of those that rows= names")
        suite = suite.compared_with(base)
    for note in suite.notes:
        print(f"note: {note}", file=sys.stderr)
    folders = [str(values.get(key, key[: -len("_dir")])) for key in ("results_dir", "datasets_dir")]
    return Asked(suite, name, folders[0], folders[1], jobs, words, arguments, chosen)


def _names(key: str, text: str) -> List[str]:
    """Names of data sets, rows or seeds as they were typed: ``rows=[1.10,on]`` are no numbers.

    Raises:
        UserError: none, or one twice.
    """
    found = yaml.load(text, Loader=yaml.BaseLoader)
    names = found if isinstance(found, list) else [found]
    if not all(isinstance(one, str) and one for one in names) or len(set(names)) < max(1, len(names)):
        raise UserError(f"{key}={text}: name one or more, none of them twice, as in '{key}=[A,\"B, too\"]'")
    return names


def listing(suite: Suite, results_dir: str) -> str:
    """A line a run: state, minutes that it took last time, command."""
    lines, known, unknown = [], 0.0, 0
    for run in suite.runs:
        told = run.state(results_dir)
        seconds = told.get("seconds")
        if told["state"] != "done":
            known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
        took = "?" if seconds is None else f"{seconds / 60:.1f} min"
        lines.append(f"{told['state']:<7} {took:>9}  {run.name}: {run.command}")
    parts = [f"{known / 60:.1f} min by last time"] if known else []
    parts += [f"{unknown} runs never timed"] if unknown else []
    done = sum(run.state(results_dir)["state"] == "done" for run in suite.runs)
    left = " and ".join(parts) or "nothing"
    return "\n".join([*lines, f"{suite.name}: {done} of {len(suite.runs)} runs done; left: {left}"])


def start(run: SuiteRun, results_dir: str, jobs: int) -> subprocess.Popen[bytes]:
    """Begin a run in its own process, which writes to its own log."""
    ledger = run.ledger(results_dir)
    before = read_json(ledger) if ledger.is_file() else {}
    known = {"seconds": before["seconds"], "was": before["state"]} if "seconds" in before else {}
    write_json(ledger, {"state": "begun", "arguments": run.arguments, "made_of": run.made_of, **known})
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "reproduce.train", *run.arguments, "--record", str(ledger.with_suffix(".part"))]
    with open(ledger.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def finish(run: SuiteRun, results_dir: str, code: int, seconds: float) -> Tuple[str, str]:
    """Write the ledger of a run that ended: its state (done, failed or held) and the log's last line."""
    ledger = run.ledger(results_dir)
    lines = read_text(ledger.with_suffix(".log")).strip().splitlines() or ["no output"]
    told: Dict[str, Any] = {"arguments": run.arguments, "made_of": run.made_of, "seconds": round(seconds, 1)}
    if code == 0:
        made, before = read_json(ledger.with_suffix(".part")), read_json(ledger)
        told.update(state="done", folder=made["folder"], steps=made["seconds"])
        earlier, now = before.get("seconds", 0.0), told["seconds"]  # a repeated run took the longer, a resumed one both
        told["seconds"] = max(earlier, now) if before.get("was") == "done" else round(earlier + now, 1)
        trained = read_json(Path(made["folder"]) / METRICS).get("seconds", 0.0)  # knows of suites that were killed
        told["seconds"] = max(told["seconds"], trained)
    else:
        told.update(state="held" if HELD in lines[-1] else "failed", error=lines[-1])
    write_json(ledger, told)
    ledger.with_suffix(".part").unlink(missing_ok=True)
    return told["state"], lines[-1]


def run_all(suite: Suite, results_dir: str, jobs: int, check: bool = False) -> List[SuiteRun]:
    """Run what is not done (``check``: ask all), ``jobs`` at a time; a run that another holds up waits for it.

    Returns:
        Those that failed.
    """
    waiting = [run for run in suite.runs if check or run.state(results_dir)["state"] != "done"]
    held: List[SuiteRun] = []
    failed: List[SuiteRun] = []
    active: Dict[SuiteRun, Tuple[Any, float]] = {}
    stand, what = len(suite.runs) - len(waiting), "check" if check else "do"
    print(f"{suite.name}: {stand} of {len(suite.runs)} runs stand, {len(waiting)} to {what}")
    try:
        while waiting or held or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                print(f"start   {run.name} on {run.dataset}, seed {run.seed}", flush=True)
                active[run] = (start(run, results_dir, jobs), time.perf_counter())
            ended = [run for run, (process, _) in active.items() if process.poll() is not None]
            for run in ended:
                process, since = active.pop(run)
                state, last = finish(run, results_dir, process.returncode, time.perf_counter() - since)
                if state == "held":  # tried again when the next run ends
                    held.append(run)
                    print(
                        f"held    {run.name} on {run.dataset}, seed {run.seed}: {last.removeprefix('error: ')}",
                        flush=True,
                    )
                    continue
                waiting, held = [*held, *waiting], []
                failed += [run] if state != "done" else []
                told = "" if state == "done" else f": {last}"
                print(f"{state:<7} {run.name} on {run.dataset}, seed {run.seed}{told}", flush=True)
            if held and not active and not waiting:  # a process that is not ours makes what they need
                print(f"waiting for another process: {read_json(held[0].ledger(results_dir))['error']}", flush=True)
                time.sleep(HELD_SECONDS)
                waiting, held = held, []
            time.sleep(0.2 if not ended else 0.0)
    finally:
        for process, _ in active.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    return failed


def check_data(asked: Asked) -> None:
    """Whether each data set is there, or something to prepare it from is named, and so are finished features.

    Raises:
        UserError: they are not; before the first run starts.
    """
    checked = set()
    for run in asked.suite.runs:
        given = dict(word.split("=", 1) for word in run.words)
        folder = Path(given.get("datasets_dir", asked.datasets_dir))
        known = [BUILT_IN, *(path.name for path in folder.glob("*") if path.is_dir())]
        if not {"data_dir", "prepare_dataset.data_dir"} & set(given) and run.dataset not in known:
            cure = f"name what to prepare it from, data_dir=FOLDER{nearest(run.dataset, known)}"
            raise UserError(f"no data set '{run.dataset}' in {folder}/; {cure}")
        of_any_seed = (run.model, run.dataset, *(word for word in run.words if not word.startswith("seed=")))
        if of_any_seed not in checked:
            checked.add(of_any_seed)
            check_finished_features(plan(run.model, run.dataset, run.words))


def main(argv: Optional[List[str]] = None) -> None:
    """List or run."""
    check = "start done runs too: each skips what still stands, and does again what data or features changed"
    asked = command_line(__doc__, argv, {"--dry-run": "list what is to be done, and stop", "--check": check})
    if asked.flags.dry_run:
        print(listing(asked.suite, asked.results_dir))
        try:
            check_data(asked)
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
        return
    check_data(asked)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # run_all ends its processes
    try:
        failed = run_all(asked.suite, asked.results_dir, asked.jobs, asked.flags.check)
    finally:
        signal.signal(signal.SIGTERM, before)
    for run in failed:
        print(f"failed: {run.name} on {run.dataset}, seed {run.seed}; log: {log_of(run, asked.results_dir)}")
    if failed:
        raise UserError(f"{len(failed)} of {len(asked.suite.runs)} runs failed; the same command tries them again")
    print(f"all done; the table: python -m reproduce.table {shlex.join([asked.given, *asked.words])}")


def log_of(run: SuiteRun, results_dir: str) -> Path:
    """The log of a run's process."""
    return run.ledger(results_dir).with_suffix(".log")


if __name__ == "__main__":
    run_script(main)
