"""A suite: a YAML of models × data sets × settings × seeds, as a list of ``run_train.sh`` command lines.

datasets: [ml-100k]
seeds: [2024, 2025]
against: [SICSRec]                    rows that the table compares with the strongest of the others; or
base: SICSRec                         the row that the table compares all others with
settings: {epochs: 30}                for each model that has the key; config: FILE.yaml stands for its content
of_dataset: {ml-100k: {epochs: 20}}   the same, on one data set
models:                               the rows of the table
  - Pop                               a model with its default settings, or with a name and settings:
  - {model: SICSRec, name: SICSRec without LoRA, settings: {id_tuning: frozen}}
  - {model: mine.py:MyRec}            your own model (reproduce/own_models.py) or its scores (reproduce/scores.py)

A row may also have its own datasets and seeds. {dataset} and {seed} in a value are replaced by those of the run.
"""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import yaml

from common.errors import UserError, nearest
from common.settings import LARGEST_SEED, read_yaml, split_overrides
from reproduce.pipeline import pipeline
from reproduce.train import check_inputs, plan, with_config

SUITES = Path(__file__).resolve().parent / "suites"
SUITE_KEYS: Dict[str, type] = {"datasets": list, "seeds": list, "settings": dict, "of_dataset": dict, "models": list}
SUITE_KEYS.update({"against": list, "base": str})
ROW_KEYS: Dict[str, type] = {"model": str, "name": str, "settings": dict, "datasets": list, "seeds": list}
FORMS: Dict[type, str] = {list: "a list, as in [A, B]", dict: "a mapping, as in {KEY: VALUE}", str: "a name, in quotes"}
NOT_SETTINGS = {
    "seed": "use seeds",
    "run": "the runs of a suite are named after their settings",
    "dataset": "use datasets",
    "results_dir": "it belongs on the command line, because tables need it too",
    "datasets_dir": "it belongs on the command line, because tables need it too",
}
NOT_WORDS = {**{key: NOT_SETTINGS[key] for key in ("seed", "run")}, "config": "a row's settings may have config: FILE"}


@dataclass(frozen=True)
class SuiteRun:
    """One model on one data set with one seed."""

    row: str
    model: str
    dataset: str
    seed: int
    words: Tuple[str, ...]  # key=value

    def __str__(self) -> str:
        """The row, the data set and the seed."""
        return f"{self.row} on {self.dataset}, seed {self.seed}"

    @property
    def arguments(self) -> List[str]:
        """What follows ``bash run_train.sh``."""
        return [self.model, self.dataset, *self.words]

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join(["bash", "run_train.sh", *self.arguments])

    @property
    def file_name(self) -> str:
        """The name of the log, without a suffix."""
        return re.sub(r"[^\w.+=@-]+", "-", f"{self.row}-{self.dataset}-seed{self.seed}")


@dataclass(frozen=True)
class Suite:
    """The runs, in the order in which they start, and what the table compares."""

    name: str
    runs: List[SuiteRun]
    against: List[str]  # rows that are compared with the strongest of the others
    base: Optional[str]  # or the row that all others are compared with

    @property
    def rows(self) -> List[str]:
        """Names of the rows, in the order of the YAML."""
        return list(dict.fromkeys(run.row for run in self.runs))

    @property
    def datasets(self) -> List[str]:
        """Data sets, in their order."""
        return list(dict.fromkeys(run.dataset for run in self.runs))


@dataclass(frozen=True)
class Row:
    """An entry of ``models``."""

    name: str
    model: str
    settings: Dict[str, Any]
    datasets: List[str]
    seeds: List[int]

    def keys(self) -> Set[str]:
        """The settings of the model's steps, as ``key`` and as ``step.key``."""
        return {name for step in pipeline(self.model) for key in step.keys for name in (key, f"{step.name}.{key}")}


@dataclass(frozen=True)
class SuiteFile:
    """The content of a suite's YAML."""

    path: Path
    against: List[str]
    base: Optional[str]
    settings: Dict[str, Any]
    of_dataset: Dict[str, Dict[str, Any]]
    rows: List[Row]


def suite_names() -> List[str]:
    """The suites of this project."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def suite_path(name: str) -> Path:
    """The YAML of a suite by its name or path.

    Raises:
        UserError: no such suite, or a file whose name, and so whose results folder, is that of another suite.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"{name}: no such suite{nearest(name, suite_names())}; available: {', '.join(suite_names())}")
    if path.stem in suite_names() and path.resolve().parent != SUITES:
        raise UserError(f"{name}: this project has a suite with this name, and results would mix; rename the file")
    return path


def load_suite(name: str, words: Sequence[str] = (), with_inputs: bool = False) -> Suite:
    """Read a suite; the settings of each run are checked before anything starts.

    Args:
        name: of a file in reproduce/suites/, or the path of a YAML.
        words: ``dataset=``, ``seeds=`` and ``rows=`` select runs; any other ``key=value`` goes to each model that has
            the key, in place of the YAML's.
        with_inputs: check too that data sets and finished features can be found.

    Raises:
        UserError: names the file or the command line, the row and the key.
    """
    file = read_suite(suite_path(name))
    split_overrides(words)  # refuses what is no key=value, and a key given twice
    given = dict(word.split("=", 1) for word in words)
    chosen = {key: _names(key, given.pop(key)) for key in ("dataset", "seeds", "rows") if key in given}
    known = set().union(*(row.keys() for row in file.rows))
    _check_keys(given, NOT_WORDS, known, "command line")
    names = [row.name for row in file.rows]
    _check_known(chosen.get("rows", []), names, "rows", "row")
    rows = [row for row in file.rows if row.name in chosen.get("rows", names)]
    if "dataset" in chosen:
        rows = [replace(row, datasets=chosen["dataset"]) for row in rows]
    if "seeds" in chosen:
        seeds = [int(seed) if seed.isdigit() else seed for seed in chosen["seeds"]]
        rows = [replace(row, seeds=_checked({"seeds": seeds}, SUITE_KEYS, "command line")["seeds"]) for row in rows]
    _check_known(file.of_dataset, {d for row in (*file.rows, *rows) for d in row.datasets}, f"{file.path}: of_dataset")
    runs = [run for row in rows for dataset in row.datasets for run in _runs(file, row, dataset, given, with_inputs)]
    if not runs:
        raise UserError(f"{file.path}: has no runs; it needs models and datasets, or give dataset=NAME")
    logs = [run.file_name for run in runs]
    for run in runs:
        if logs.count(run.file_name) > 1:
            raise UserError(f"{file.path}: two rows have the name '{run.row}'; give each row its own name")
    order = list(dict.fromkeys(run.seed for run in runs))
    runs.sort(key=lambda run: order.index(run.seed))  # each row has its first result before any row has its second
    return Suite(file.path.stem, runs, file.against, file.base)


def read_suite(path: Path) -> SuiteFile:
    """Read the YAML and check its form and the names in it.

    Raises:
        UserError: names the file and the key.
    """
    content = _checked(read_yaml(path), SUITE_KEYS, str(path))
    of_dataset = content.get("of_dataset", {})
    _checked(of_dataset, dict.fromkeys(of_dataset, dict), f"{path}: of_dataset")
    defaults = {"datasets": content.get("datasets", []), "seeds": content.get("seeds", [2024]), "settings": {}}
    rows = []
    for entry in content.get("models", []):
        entry = entry if isinstance(entry, dict) else {"model": entry}
        entry = _checked({str(key): value for key, value in entry.items()}, ROW_KEYS, f"{path}: models")
        if "model" not in entry:
            raise UserError(f"{path}: models: {entry} has no model; add model: NAME")
        rows.append(Row(**{**defaults, "name": entry["model"], **entry}))
    against, base = content.get("against", []), content.get("base")
    if against and base:
        raise UserError(f"{path}: 'against' and 'base' exclude each other; leave one out")
    compared = [*against, *([base] if base else [])]
    _check_known(compared, [row.name for row in rows], f"{path}: against, base", "row")
    try:
        known = set().union(*(row.keys() for row in rows))
        shared = with_config(content.get("settings", {}), [step for row in rows for step in pipeline(row.model)])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for settings in (shared, *of_dataset.values()):
        _check_keys(settings, NOT_SETTINGS, known, str(path))
    for row in rows:
        _check_keys(row.settings, NOT_SETTINGS, {*known, *row.settings}, str(path))  # the plan finds unknown ones
    return SuiteFile(path, against, base, shared, of_dataset, rows)


def _runs(file: SuiteFile, row: Row, dataset: str, given: Mapping[str, str], with_inputs: bool) -> List[SuiteRun]:
    """A row's runs on one data set: settings of the suite < of the data set < of the row < of the command line."""
    known = row.keys()
    shared = {**file.settings, **file.of_dataset.get(dataset, {})}
    try:
        own = with_config(row.settings, pipeline(row.model))
        values = {**{key: value for key, value in shared.items() if key in known}, **own}
        texts = {key: _text(key, value) for key, value in values.items()}
        texts.update({key: text for key, text in given.items() if key in known})
        runs = []
        for seed in row.seeds:
            words = [f"{key}={text}" for key, text in {**texts, "seed": "{seed}"}.items()]
            words = [word.replace("{dataset}", dataset).replace("{seed}", str(seed)) for word in words]
            runs.append(SuiteRun(row.name, row.model, dataset, seed, tuple(words)))
        planned = plan(row.model, dataset, runs[0].words)
        if with_inputs:
            check_inputs(planned)
    except UserError as error:
        reason = str(error).removeprefix("command line: ")
        raise UserError(f"{file.path}: {row.name} on {dataset}: {reason}") from error
    return runs


def _text(key: str, value: Any) -> str:
    """A value of a YAML as the command line gives it: text in quotes only where it would be read as something else."""
    if isinstance(value, str):
        with suppress(UserError):
            if split_overrides([f"{key}={value}"])[key] == value:
                return value
    return json.dumps(value, ensure_ascii=False)


def _names(key: str, text: str) -> List[str]:
    """Names as they were typed: in ``rows=[1.10,on]`` there are no numbers."""
    found = yaml.load(text, Loader=yaml.BaseLoader)
    names: List[str] = _checked({"names": found if isinstance(found, list) else [found]}, {"names": list}, key)["names"]
    return names


def _checked(content: Mapping[str, Any], types: Mapping[str, type], where: str) -> Dict[str, Any]:
    """The content, if each key is known and each value has its type; lists hold distinct names or seeds."""
    _check_known(content, types, where, "key")
    checked = {key: [value] if key == "seeds" and isinstance(value, int) else value for key, value in content.items()}
    for key, value in checked.items():
        if not isinstance(value, types[key]) or value == "" or "\n" in str(value):
            raise UserError(f"{where}: '{key}' is {value!r}; it must be {FORMS[types[key]]}")
        if not isinstance(value, list) or key == "models":
            continue
        for one in value:
            if key == "seeds" and not (type(one) is int and 0 <= one <= LARGEST_SEED):
                raise UserError(f"{where}: seeds: {one!r} must be a number from 0 to {LARGEST_SEED}")
            if key != "seeds" and not (isinstance(one, str) and one):
                raise UserError(f"{where}: '{key}' has {one!r}; it must be {FORMS[str]}")
        if len(set(value)) < max(1, len(value)):
            raise UserError(f"{where}: '{key}' is {value}; give one or more, and each once")
    return checked


def _check_known(names: Iterable[str], known: Iterable[str], where: str, what: str = "data set") -> None:
    """Raise a `UserError` for a name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{where}: unknown {what} '{name}'{nearest(name, known)}; available: {', '.join(known)}")


def _check_keys(keys: Iterable[str], refused: Mapping[str, str], known: Set[str], where: str) -> None:
    """Raise a `UserError` for a setting that a suite sets itself, or that none of its models has."""
    for key in keys:
        if key in refused:
            raise UserError(f"{where}: '{key}' is not a setting of a suite: {refused[key]}")
        if key not in known:
            raise UserError(f"{where}: setting '{key}': no model of the suite has it{nearest(key, known)}")
