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

A row may also have its own datasets, seeds, and seconds, from which the time left is estimated. {dataset} and {seed} in
a value are replaced by those of the run.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from omegaconf import ListConfig

from common.errors import UserError, nearest
from common.files import file_name
from common.settings import LARGEST_SEED, read_yaml, setting, split_overrides, typed
from reproduce.pipeline import pipeline
from reproduce.train import check_inputs, plan, with_config

SUITES = Path(__file__).resolve().parent / "suites"
SETS_ITSELF = ("seed", "run", "dataset")  # settings that a suite gives to each run
FOLDERS = ("results_dir", "datasets_dir")  # settings of the command line, because tables need them too
LISTS = ("dataset", "rows", "seeds")


@dataclass(frozen=True)
class SuiteRun:
    """One model on one data set with one seed."""

    row: str
    model: str
    dataset: str
    seed: int
    words: Tuple[str, ...]  # key=value
    seconds: float = 1.0  # relative to other runs

    def __str__(self) -> str:
        """The row, the data set and the seed."""
        return f"{self.row} on {self.dataset}, seed {self.seed}"

    @property
    def key(self) -> Tuple[str, str, str]:
        """The columns of runs.csv that identify the run."""
        return self.row, self.dataset, str(self.seed)

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
        return file_name(f"{self.row}-{self.dataset}-seed{self.seed}")


@dataclass
class Selection:
    """Which runs of a suite are meant."""

    dataset: List[str] = setting([], "data sets; empty: all of the suite")
    rows: List[str] = setting([], "rows; empty: all of the suite")
    seeds: List[int] = setting([], "seeds; empty: all of the suite", minimum=0, maximum=LARGEST_SEED)


@dataclass
class Row:
    """An entry of ``models``."""

    model: str = setting("", "a model of run_train.sh")
    name: str = setting("", "name of the row; by default the model")
    settings: Dict[str, Any] = setting({}, "settings of the model's steps, as key or step.key")
    seconds: float = setting(1.0, "how long a run takes relative to other rows; the time left is estimated from it")
    datasets: List[str] = setting([], "data sets; by default those of the suite")
    seeds: List[int] = setting([], "seeds; by default those of the suite", minimum=0, maximum=LARGEST_SEED)

    @property
    def keys(self) -> Set[str]:
        """The settings of the model's steps, as ``key`` and as ``step.key``."""
        return {name for step in pipeline(self.model) for key in step.keys for name in (key, f"{step.name}.{key}")}


@dataclass
class SuiteFile:
    """The content of a suite's YAML."""

    datasets: List[str] = setting([], "data sets")
    seeds: List[int] = setting([2024], "seeds", minimum=0, maximum=LARGEST_SEED, may_be_empty=False)
    against: List[str] = setting([], "rows that the table compares with the strongest of the others")
    base: Optional[str] = setting(None, "or the row that the table compares all others with")
    settings: Dict[str, Any] = setting({}, "settings for each model that has them")
    of_dataset: Dict[str, Dict[str, Any]] = setting({}, "data set: settings")
    models: List[Any] = setting([], "rows")

    @property
    def rows(self) -> List[Row]:
        """``models``, which `read_suite` makes rows of."""
        return self.models

    @property
    def keys(self) -> Set[str]:
        """The settings of all models, as ``key`` and as ``step.key``."""
        return set().union(*(row.keys for row in self.rows))


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


def read_words(words: Sequence[str]) -> Dict[str, Any]:
    """``key=value`` as a mapping; each of `LISTS` may be given as one value."""
    values = split_overrides(words)
    return {k: [v] if k in LISTS and not isinstance(v, ListConfig) else v for k, v in values.items()}


def load_suite(path: Path, words: Sequence[str] = ()) -> List[SuiteRun]:
    """The runs of a suite in the order in which they start; the settings and inputs of each are checked.

    Args:
        words: ``key=value``: those of `Selection`; any other goes to each model that has the key, in place of the
            YAML's value.

    Raises:
        UserError: names the file or the command line, the row and the key; or a data set or features that are missing.
    """
    file = read_suite(path)
    values = read_words(words)
    chosen = Selection(**typed(Selection, {key: values[key] for key in LISTS if key in values}, "command line"))
    given = {key: text for key, _, text in (word.partition("=") for word in words) if key not in LISTS}
    _check_keys(given, SETS_ITSELF, file.keys, "command line")
    names = [row.name for row in file.rows]
    check_known("row", chosen.rows, names, str(path))
    rows = [
        replace(row, datasets=chosen.dataset or row.datasets, seeds=chosen.seeds or row.seeds)
        for row in file.rows
        if row.name in (chosen.rows or names)
    ]
    datasets = {dataset for row in (*file.rows, *rows) for dataset in row.datasets}
    check_known("data set", file.of_dataset, datasets, f"{path}: of_dataset")
    runs: List[SuiteRun] = []
    for row in rows:
        for dataset in row.datasets:
            try:
                runs += _runs(file, row, dataset, given)
            except UserError as error:
                reason = str(error).removeprefix("command line: ")
                raise UserError(f"{path}: {row.name} on {dataset}: {reason}") from error
    if not runs:
        raise UserError(f"{path}: has no runs; it needs models, datasets and seeds")
    for name, count in Counter(run.file_name for run in runs).items():
        if count > 1:
            raise UserError(f"{path}: {name} occurs twice; give rows different names, and each seed once")
    order = list(dict.fromkeys(run.seed for run in runs))
    return sorted(runs, key=lambda run: order.index(run.seed))  # each row has a first result before any has a second


def read_suite(path: Path) -> SuiteFile:
    """Read the YAML and check its form and the names in it.

    Raises:
        UserError: names the file and the key.
    """
    file = SuiteFile(**typed(SuiteFile, read_yaml(path), str(path)))
    for number, entry in enumerate(file.models):
        values = {str(key): value for key, value in (entry if isinstance(entry, dict) else {"model": entry}).items()}
        row = Row(**typed(Row, values, f"{path}: models"))
        if not row.model:
            raise UserError(f"{path}: models: {values} has no model; add model: NAME")
        row.name = row.name or row.model
        row.datasets, row.seeds = row.datasets or file.datasets, row.seeds or file.seeds
        file.models[number] = row
    if file.against and file.base:
        raise UserError(f"{path}: 'against' and 'base' exclude each other; leave one out")
    compared = [*file.against, *([file.base] if file.base else [])]
    check_known("row", compared, [row.name for row in file.rows], f"{path}: against, base")
    try:
        known = file.keys
        file.settings = with_config(file.settings, [step for row in file.rows for step in pipeline(row.model)])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for settings in (file.settings, *file.of_dataset.values()):
        _check_keys(settings, (*SETS_ITSELF, *FOLDERS), known, str(path))
    for row in file.rows:
        _check_keys(row.settings, (*SETS_ITSELF, *FOLDERS), row.settings, str(path))  # the plan finds unknown ones
    return file


def _runs(file: SuiteFile, row: Row, dataset: str, given: Mapping[str, str]) -> List[SuiteRun]:
    """A row's runs on one data set: settings of the suite < of the data set < of the row < of the command line."""
    known = row.keys
    shared = {**file.settings, **file.of_dataset.get(dataset, {})}
    own = with_config(row.settings, pipeline(row.model))
    values = {**{key: value for key, value in shared.items() if key in known}, **own}
    texts = {key: _text(key, value) for key, value in values.items()}
    texts.update({key: text for key, text in given.items() if key in known})
    runs = []
    for seed in row.seeds:
        words = [f"{key}={text}" for key, text in {**texts, "seed": "{seed}"}.items()]
        words = [word.replace("{dataset}", dataset).replace("{seed}", str(seed)) for word in words]
        runs.append(SuiteRun(row.name, row.model, dataset, seed, tuple(words), row.seconds))
    check_inputs(plan(row.model, dataset, runs[0].words))
    return runs


def _text(key: str, value: Any) -> str:
    """A value of a YAML as the command line gives it: text in quotes only where it would be read as something else."""
    if isinstance(value, str):
        with suppress(UserError):
            if split_overrides([f"{key}={value}"])[key] == value:
                return value
    return json.dumps(value, ensure_ascii=False)


def check_known(what: str, names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a `UserError` for a name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{where}: unknown {what} '{name}'{nearest(name, known)}; available: {', '.join(known)}")


def _check_keys(keys: Iterable[str], refused: Sequence[str], known: Iterable[str], where: str) -> None:
    """Raise a `UserError` for a setting that a suite sets itself, or that none of its models has."""
    for key in keys:
        if key in refused:
            use = "give it on the command line" if key in FOLDERS else "use datasets and seeds"
            raise UserError(f"{where}: '{key}' is not a setting of a suite; {use}")
        if key not in known:
            raise UserError(f"{where}: setting '{key}': no model of the suite has it{nearest(key, known)}")
