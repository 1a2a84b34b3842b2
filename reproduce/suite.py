"""A suite: models × data sets × settings × seeds of a YAML of reproduce/suites/ (suite_file.py), as a list of runs."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from common.errors import UserError, nearest
from common.files import checksum, read_json
from common.settings import as_dict, split_overrides
from reproduce import scores
from reproduce.steps import pipeline
from reproduce.suite_file import Entry, SuiteFile, check_keys, check_seeds, read_suite
from reproduce.suite_settings import SEED, check_known, check_not_for_suites, keys_of, outranked, overridden, word
from reproduce.train import Planned, plan, with_config

SUITES = Path(__file__).resolve().parent / "suites"


@dataclass(frozen=True)
class SuiteRun:
    """One model on one data set with one seed."""

    name: str  # of its row
    model: str
    dataset: str
    seed: int
    words: Tuple[str, ...]  # key=value
    made_of: str = ""  # digest of its settings but the seed, those of YAMLs too; of Scores, its files' times

    @property
    def arguments(self) -> List[str]:
        """What follows ``python -m reproduce.train``."""
        return [self.model, self.dataset, *self.words]

    @property
    def command(self) -> str:
        """What runs it, for a shell."""
        return shlex.join(["python", "-m", "reproduce.train", *self.arguments])

    @property
    def key(self) -> str:
        """The same for the same run in any suite, in whatever order its words were given."""
        return hashlib.sha256(json.dumps([self.model, self.dataset, *sorted(self.words)]).encode()).hexdigest()[:12]

    def ledger(self, results_dir: str) -> Path:
        """JSON of its state, seconds and folder; its log lies beside it."""
        return Path(results_dir) / "suite-runs" / f"{self.key}.json"

    def state(self, results_dir: str) -> Dict[str, Any]:
        """What the ledger tells; ``to do`` without one, or where the results are gone or a YAML was changed since."""
        path = self.ledger(results_dir)
        told: Dict[str, Any] = read_json(path) if path.is_file() else {"state": "to do"}
        gone = told["state"] == "done" and not (Path(told["folder"]) / "metrics.json").is_file()
        if gone or told.get("made_of", self.made_of) != self.made_of:
            told["state"] = "to do"
        return told


@dataclass(frozen=True)
class Suite:
    """Its runs, in the order in which they start, and what the table compares with what."""

    name: str
    runs: List[SuiteRun]
    against: List[str]  # rows compared with the strongest of the others
    base: Optional[str] = None  # or the row that all others are compared with
    notes: Tuple[str, ...] = ()  # what words of the command line do that may not have been meant

    @property
    def rows(self) -> List[str]:
        """Names of rows, in the order of the YAML."""
        return list(dict.fromkeys(run.name for run in self.runs))

    @property
    def datasets(self) -> List[str]:
        """Data sets, in their order."""
        return list(dict.fromkeys(run.dataset for run in self.runs))

    def only(self, rows: Sequence[str]) -> Suite:
        """Some of its rows.

        Raises:
            UserError: there is no row of that name.
        """
        if not rows:
            raise UserError(f"rows=[]: names none; suite {self.name} has {self._known()}")
        for row in rows:
            self._check_row("rows", row)
        return replace(self, runs=[run for run in self.runs if run.name in rows])

    def compared_with(self, base: str) -> Suite:
        """The same runs, every row compared with this one. Raises `UserError`: there is no row of that name."""
        self._check_row("base", base)
        return replace(self, against=[], base=base)

    def _known(self) -> str:
        return ", ".join(f'"{name}"' if "," in name else name for name in self.rows)

    def _check_row(self, word: str, row: str) -> None:
        if row not in self.rows:
            near = nearest(row, self.rows)
            raise UserError(f"{word}: suite {self.name} has no row '{row}'{near}; there are {self._known()}")


def suite_names() -> List[str]:
    """The suites that there are."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def _found(name: str) -> SuiteFile:
    """The suite's file, read."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    there = ", ".join(suite_names())
    if not path.is_file():
        fault = f"{name}: no such file" if path == Path(name) else f"no suite '{name}'{nearest(name, suite_names())}"
        raise UserError(f"{fault}; there are {there}")
    if path.stem in suite_names() and path.resolve().parent != SUITES:
        raise UserError(f"{name}: a suite of this name is built in and has its tables there; rename the file")
    return read_suite(path)


def load_suite(
    name: str,
    datasets: Optional[List[str]] = None,
    seeds: Optional[List[int]] = None,
    settings: Optional[Mapping[str, Any]] = None,
    own_keys: Sequence[str] = (),
    rows: Optional[Sequence[str]] = None,
) -> Suite:
    """Read a suite; every setting of every run is checked here, before anything starts.

    Args:
        name: of a file in reproduce/suites/, or a path of a YAML.
        datasets, seeds: in place of the YAML's.
        settings: for each model that knows the key; ``{dataset}`` and ``{seed}`` in a value stand for the run's.
        own_keys: of the command line, not of the models, which a mistyped key may have meant.
        rows: those that are asked for; settings that do not fit the others are let be.

    Raises:
        UserError: names the suite, the row and the key.
    """
    file, given = _found(name), settings or {}
    if seeds is not None:
        check_seeds(seeds, "command line")
    keys = _check_keys(file, datasets or [], given, own_keys)
    runs: List[SuiteRun] = []
    notes: List[str] = []
    read: Set[str] = set()
    for entry, known in zip(file.entries, keys):
        is_asked = rows is None or entry.name in rows
        for dataset in datasets or entry.datasets or file.datasets:
            runs += _runs_of(file, entry, dataset, seeds, {k: v for k, v in given.items() if k in known}, is_asked)
        if is_asked:
            notes += overridden(entry.name, with_config(entry.settings, pipeline(entry.model)), given)
            read |= known
    notes += [f"{key} is read by none of the rows asked for" for key in given if key not in read]
    _check_rows(file, runs)
    order = {seed: number for number, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    runs.sort(key=lambda run: order[run.seed])  # every row has one result before any has two
    suite = Suite(file.path.stem, runs, file.against, file.base, tuple(notes))
    return suite if rows is None else suite.only(rows)


def _check_keys(
    file: SuiteFile, datasets: Sequence[str], given: Mapping[str, Any], own_keys: Sequence[str]
) -> List[Set[str]]:
    """Settings that each entry knows; every key of the YAML and the command line is one, and one for suites."""
    of_yaml = [file.settings, *file.of_dataset.values(), *(entry.settings for entry in file.entries)]
    check_not_for_suites(file.path, given, [key for own in of_yaml for key in own])
    of_entries = [dataset for entry in file.entries for dataset in entry.datasets]
    check_keys(list(file.of_dataset), [*datasets, *file.datasets, *of_entries], f"{file.path}: of_dataset")
    keys = [keys_of(file.path, entry) for entry in file.entries]
    for_all = [*with_config(file.settings), *(key for own in file.of_dataset.values() for key in own)]
    check_known(for_all, given, keys, file.path, own_keys)
    return keys


def _check_rows(file: SuiteFile, runs: Sequence[SuiteRun]) -> None:
    """Whether there are any, each with a name of its own, and among them those that the table compares."""
    if not runs:
        raise UserError(f"{file.path}: holds no runs; it needs models and datasets, or give dataset=NAME")
    for (row, _, _), count in Counter((run.name, run.dataset, run.seed) for run in runs).items():
        if count > 1:
            raise UserError(f"{file.path}: two rows have the name '{row}'; give each entry a name of its own")
    compared = [*file.against, *filter(None, [file.base])]
    check_keys(compared, [entry.name for entry in file.entries], f"{file.path}: against, base", "row")


def _runs_of(
    file: SuiteFile,
    entry: Entry,
    dataset: str,
    seeds: Optional[Sequence[int]],
    given: Mapping[str, Any],
    is_asked: bool,
) -> List[SuiteRun]:
    """A row's runs on one data set; what is given on the command line wins over the YAML."""
    for_all, known = {**with_config(file.settings), **file.of_dataset.get(dataset, {})}, keys_of(file.path, entry)
    of_row = with_config(entry.settings, pipeline(entry.model))
    of_yaml = {**{key: value for key, value in for_all.items() if key in known}, **of_row}
    values = {**{key: value for key, value in of_yaml.items() if not outranked(key, given)}, **given}
    made_of = _check_run(file.path, entry, dataset, values, of_yaml) if is_asked else ""
    runs = []
    for seed in seeds or entry.seeds or file.seeds or [SEED]:
        words = [word(key, value, dataset, seed) for key, value in {**values, "seed": seed}.items()]
        files = _files_told(words) if entry.model == "Scores" else ""
        runs.append(SuiteRun(entry.name, entry.model, dataset, seed, tuple(words), made_of + files))
    return runs


def _files_told(words: Sequence[str]) -> str:
    """Size and time of each file of scores that a run ranks, so that a run of others is not taken as done."""
    values = split_overrides(words)
    files = [Path(values[key]) for key in scores.FILES if key in values]
    return "".join(f"-{stat.st_size}-{stat.st_mtime_ns}" for stat in (file.stat() for file in files if file.is_file()))


def _check_run(path: Path, entry: Entry, dataset: str, values: Mapping[str, Any], of_yaml: Mapping[str, Any]) -> str:
    """Digest of what makes a run of any seed: settings that are not default, and the file of a user's model.

    Args:
        values: the row's settings, of the YAML and the command line.
        of_yaml: those of the YAML alone; where they are in order, the fault is the command line's.
    """

    def planned_with(settings: Mapping[str, Any]) -> Planned:
        words = [word(key, value, dataset, SEED) for key, value in {**settings, "seed": SEED}.items()]
        return plan(entry.model, dataset, words)

    try:
        planned = planned_with(values)
    except UserError as error:
        at_fault = "command line"
        try:
            planned_with(of_yaml)
        except UserError:
            at_fault = str(path)
        told = str(error).replace("command line: ", "", 1)
        raise UserError(f"{at_fault}: {entry.name} on {dataset}: {told}") from error
    source = pipeline(entry.model)[-1].source
    made_of: List[Any] = [source and checksum(source)]
    for step, settings in planned:
        default = as_dict(type(settings)())
        made_of.append([step.name, {k: v for k, v in as_dict(settings).items() if v != default[k]}])
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
