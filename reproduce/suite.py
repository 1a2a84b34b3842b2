"""A suite: models × data sets × settings × seeds of a YAML of reproduce/suites/ (suite_file.py), as a list of runs."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from omegaconf import OmegaConf

from common.errors import UserError, nearest
from common.files import checksum, read_json
from common.settings import as_dict, split_overrides
from reproduce import scores
from reproduce.steps import OF_STAGE_2, STAGE_1, pipeline
from reproduce.suite_file import Entry, SuiteFile, check_keys, check_seeds, read_suite
from reproduce.train import plan, with_config

SUITES = Path(__file__).resolve().parent / "suites"
SEED = 2024  # by which a row's settings are checked, and of a suite that names none


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


def _word(key: str, value: Any, dataset: str, seed: int) -> str:
    if OmegaConf.is_config(value):  # a list or a mapping of the command line
        value = OmegaConf.to_container(value)
    value = _filled(value, dataset, seed)
    text = OmegaConf.to_yaml(OmegaConf.create({"v": value}), resolve=True)[2:].strip()
    if isinstance(value, (dict, list)):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = _as_read_back(key, value)
    return f"{key}={text}"


def _filled(value: Any, dataset: str, seed: int) -> Any:
    """``{dataset}`` and ``{seed}`` replaced, in a list too."""
    if isinstance(value, list):
        return [_filled(one, dataset, seed) for one in value]
    return value.replace("{dataset}", dataset).replace("{seed}", str(seed)) if isinstance(value, str) else value


def _as_read_back(key: str, text: str) -> str:
    """A string as a word gives it, in quotes where YAML would make something else of it, as of ``a # b``."""
    with suppress(UserError):
        if split_overrides([f"{key}={text}"])[key] == text:
            return text
    return json.dumps(text, ensure_ascii=False)


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
    file = _found(name)
    path, given, shared = file.path, settings or {}, with_config(file.settings)
    of_yaml = [file.settings, *file.of_dataset.values(), *(entry.settings for entry in file.entries)]
    _check_not_for_suites(path, given, [key for own in of_yaml for key in own])
    if seeds is not None:
        check_seeds(seeds, "command line")
    of_entries = [dataset for entry in file.entries for dataset in entry.datasets]
    check_keys(list(file.of_dataset), [*(datasets or []), *file.datasets, *of_entries], f"{path}: of_dataset")
    keys = [_keys_of(path, entry) for entry in file.entries]
    _check_known([*shared, *(key for own in file.of_dataset.values() for key in own)], given, keys, path, own_keys)
    asked = [rows is None or entry.name in rows for entry in file.entries]
    runs, notes = [], []
    for entry, known, is_asked in zip(file.entries, keys, asked):
        of_row = with_config(entry.settings, pipeline(entry.model))
        notes += _overridden(entry.name, of_row, given) if is_asked else []
        for dataset in datasets or entry.datasets or file.datasets:
            values = {k: v for k, v in {**shared, **file.of_dataset.get(dataset, {})}.items() if k in known}
            values = {k: v for k, v in {**values, **of_row}.items() if not _outranked(k, given)}
            values.update({k: v for k, v in given.items() if k in known})
            made_of = _check_run(path, entry.name, entry.model, dataset, values) if is_asked else ""
            for seed in seeds or entry.seeds or file.seeds or [SEED]:
                words = [_word(key, value, dataset, seed) for key, value in {**values, "seed": seed}.items()]
                files = _files_told(words) if entry.model == "Scores" else ""
                runs.append(SuiteRun(entry.name, entry.model, dataset, seed, tuple(words), made_of + files))
    if not runs:
        raise UserError(f"{path}: holds no runs; it needs models and datasets, or give dataset=NAME")
    for (row, _, _), count in Counter((run.name, run.dataset, run.seed) for run in runs).items():
        if count > 1:
            raise UserError(f"{path}: two rows have the name '{row}'; give each entry a name of its own")
    check_keys(
        [*file.against, *filter(None, [file.base])],
        [entry.name for entry in file.entries],
        f"{path}: against, base",
        "row",
    )
    read = set().union(*(known for known, is_asked in zip(keys, asked) if is_asked))
    notes += [f"{key} is read by none of the rows asked for" for key in given if key not in read]
    order = {seed: number for number, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    runs.sort(key=lambda run: order[run.seed])  # every row has one result before any has two
    suite = Suite(path.stem, runs, file.against, file.base, tuple(notes))
    return suite if rows is None else suite.only(rows)


def _keys_of(path: Path, entry: Entry) -> Set[str]:
    """Settings that a row's steps know, plain and as step.key."""
    try:
        steps = pipeline(entry.model)
    except UserError as error:
        raise UserError(f"{path}: models: {error}") from error
    return {key for step in steps for key in (*step.keys, *(f"{step.name}.{k}" for k in step.keys))}


def _check_known(
    of_yaml: Sequence[str], given: Mapping[str, Any], keys: Sequence[Set[str]], path: Path, own_keys: Sequence[str]
) -> None:
    """Whether each setting for all models is known to one of them."""
    known = set().union(*keys)
    for key in (*of_yaml, *given):
        if key not in known:
            source = path if key in of_yaml else "command line"
            hint = nearest(key, known if key in of_yaml else known.union(own_keys))
            raise UserError(f"{source}: setting '{key}' is known to none of the suite's models{hint}")


NOT_FOR_SUITES = {
    "seed": "seeds=[7] names seeds",
    "run": "runs of a suite are named by what makes them",
    "masked": "--masked asks for a table of it",
}
OF_THE_COMMAND_LINE = {
    "dataset": "the YAML's datasets names data sets",
    "datasets_dir": "tables look for the data there too: name it on the command line",
    "results_dir": "tables look for the runs there too: name it on the command line",
}


def _check_not_for_suites(path: Path, given: Mapping[str, Any], of_yaml: Sequence[str]) -> None:
    for source, told, keys in (
        ("command line", NOT_FOR_SUITES, given),
        (path, {**NOT_FOR_SUITES, **OF_THE_COMMAND_LINE}, of_yaml),
    ):
        for key in keys:
            if key in told:
                raise UserError(f"{source}: '{key}' is not for suites: {told[key]}")
    if "config" in given:
        raise UserError(f"command line: 'config' is not for suites: a row's settings in {path} may hold config: FILE")


def _outranked(key: str, given: Mapping[str, Any]) -> bool:
    """Whether a YAML's step.key gives way to a key of the command line that means this step too."""
    step, dot, plain = key.rpartition(".")
    of_stage_1 = step in [one.name for one in STAGE_1] and plain in OF_STAGE_2
    return bool(dot) and plain in given and not of_stage_1


def _overridden(row: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> List[str]:
    """Notes of a row's own settings that the command line replaces by other values."""
    notes = []
    for key, value in own.items():
        for by in (g for g in given if g == key or _outranked(key, {g: 0}) or _outranked(g, {key: 0})):
            its_own, instead = (_word(k, v, "{dataset}", SEED) for k, v in ((key, value), (by, given[by])))
            if its_own.partition("=")[2] != instead.partition("=")[2]:
                notes.append(f"row '{row}' runs with {instead} of the command line, not with its own {its_own}")
    return notes


def _files_told(words: Sequence[str]) -> str:
    """Size and time of each file of scores that a run ranks, so that a run of others is not taken as done."""
    values = split_overrides(words)
    files = [Path(values[key]) for key in scores.FILES if key in values]
    return "".join(f"-{stat.st_size}-{stat.st_mtime_ns}" for stat in (file.stat() for file in files if file.is_file()))


def _check_run(path: Path, row: str, model: str, dataset: str, values: Mapping[str, Any]) -> str:
    """Digest of what makes a run of any seed: settings that are not default, and the file of a user's model."""
    words = [_word(key, value, dataset, SEED) for key, value in {**values, "seed": SEED}.items()]
    try:
        planned = plan(model, dataset, words)
    except UserError as error:
        told = str(error).replace("command line: ", "", 1)  # it may stand in the YAML as well
        raise UserError(f"{path}: {row} on {dataset}: {told}") from error
    source = pipeline(model)[-1].source
    made_of: List[Any] = [source and checksum(source)]
    for step, settings in planned:
        default = as_dict(type(settings)())
        made_of.append([step.name, {k: v for k, v in as_dict(settings).items() if v != default[k]}])
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
