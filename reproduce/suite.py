"""A suite: models × data sets × settings × seeds in a YAML of reproduce/suites/, as a list of runs.

datasets: [ml-100k]
seeds: [2024, 2025]
against: [SICSRec]                    rows that the table compares with the strongest of the others; or
base: SICSRec                         the row that the table compares all others with
settings: {epochs: 30}                for each model that knows the key; config: FILE.yaml stands for what is in it
of_dataset: {ml-100k: {epochs: 20}}   likewise, on one data set
models:
  - Pop                               a model as it is, or with a name and settings of its own:
  - {model: SICSRec, name: SICSRec without LoRA, settings: {lora_rank: 1}}
  - {model: mine.py:MyRec}            a model of yours (reproduce/own_models.py), or its scores (reproduce/scores.py)
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from omegaconf import ListConfig, OmegaConf

from common.errors import UserError, nearest
from common.files import checksum, read_json
from common.settings import LARGEST_SEED, as_dict, read_yaml, split_overrides
from reproduce.steps import pipeline
from reproduce.train import plan, with_config

SUITES = Path(__file__).parent / "suites"
KEYS = ("datasets", "seeds", "against", "base", "settings", "of_dataset", "models")
SEED = 2024  # by which a row's settings are checked
ENTRY_KEYS = ("model", "name", "settings", "datasets", "seeds")


@dataclass(frozen=True)
class SuiteRun:
    """One model on one data set with one seed."""

    name: str  # of its row
    model: str
    dataset: str
    seed: int
    words: Tuple[str, ...]  # key=value
    made_of: str = ""  # digest of all its settings but the seed, those of YAMLs too

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
        known = ", ".join(f'"{name}"' if "," in name else name for name in self.rows)
        for row in rows:
            if row not in self.rows:
                near = nearest(row, self.rows)
                raise UserError(f"rows: suite {self.name} has no row '{row}'{near}; there are {known}")
        if not rows:
            raise UserError(f"rows=[]: names none; suite {self.name} has {known}")
        return replace(self, runs=[run for run in self.runs if run.name in rows])


def suite_names() -> List[str]:
    """The suites that there are."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def _word(key: str, value: Any, dataset: str, seed: int) -> str:
    if OmegaConf.is_config(value):  # a list or a mapping of the command line
        value = OmegaConf.to_container(value)
    text = OmegaConf.to_yaml(OmegaConf.create({"v": value}), resolve=True)[2:].strip()
    if isinstance(value, (dict, list)):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = _as_read_back(key, value.replace("{dataset}", dataset).replace("{seed}", str(seed)))
    return f"{key}={text}"


def _as_read_back(key: str, text: str) -> str:
    """A string as a word gives it, in quotes where YAML would make something else of it, as of ``a # b``."""
    with suppress(UserError):
        if split_overrides([f"{key}={text}"])[key] == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def listed(value: Any) -> List[Any]:
    """A list of a YAML or of the command line, or a list of one value."""
    return list(value) if isinstance(value, (list, ListConfig)) else [value]


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(
                f"{where}: unknown key '{key}'{nearest(key, known)}; there are {', '.join(dict.fromkeys(known))}"
            )


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
    path = Path(name) if name.endswith(".yaml") else SUITES / f"{name}.yaml"
    if not path.is_file():
        fault = f"{name}: no such file" if path == Path(name) else f"no suite '{name}'{nearest(name, suite_names())}"
        raise UserError(f"{fault}; there are {', '.join(suite_names())}")
    content = read_yaml(path)
    _check_keys(content, KEYS, str(path))
    for key in ("datasets", "models", "against"):
        if not isinstance(content.get(key, []), (list, type(None))):
            raise UserError(f"{path}: '{key}' must be a list, as in {key}: [{content[key]}]")
    if content.get("against") and content.get("base"):
        raise UserError(f"{path}: 'against' and 'base' both say what the table compares; leave one out")
    for key in ("settings", "of_dataset"):
        if not isinstance(content.get(key, {}), (dict, type(None))):
            raise UserError(f"{path}: '{key}' must be a mapping, as in {key}: {{KEY: VALUE}}")
    entries = [e if isinstance(e, dict) else {"model": e} for e in content.get("models") or []]
    given, shared = settings or {}, with_config(content.get("settings") or {})
    of_dataset = content.get("of_dataset") or {}
    for key, cure in (("seed", "seeds=[7] names seeds"), ("run", "runs of a suite are named by what makes them")):
        for source, told in (("command line", given), (path, shared)):
            if key in told:
                raise UserError(f"{source}: '{key}' is not for suites: {cure}")
    if "config" in given:
        raise UserError(f"command line: 'config' is not for suites: a row's settings in {path} may hold config: FILE")
    in_use = [*(datasets or []), *(content.get("datasets") or [])]
    in_use += [name for entry in entries for name in entry.get("datasets") or []]
    _check_keys(of_dataset, in_use, f"{path}: of_dataset")
    known_to_one, runs = set(), []
    for entry in entries:
        _check_keys(entry, ENTRY_KEYS, f"{path}: models")
        model = str(entry.get("model", ""))
        known = {key for step in pipeline(model) for key in (*step.keys, *(f"{step.name}.{k}" for k in step.keys))}
        known_to_one |= known
        row = str(entry.get("name", model))
        own_seeds = listed(seeds or entry.get("seeds", content.get("seeds", [SEED])))
        if not own_seeds or len(set(map(str, own_seeds))) < len(own_seeds):
            raise UserError(f"{path}: seeds: {own_seeds}: name one or more, none of them twice")
        for seed in own_seeds:
            if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
                source = "command line" if seeds else path
                raise UserError(f"{source}: seeds: {seed!r} must be a number from 0 to {LARGEST_SEED}")
        for dataset in datasets or entry.get("datasets") or content.get("datasets") or []:
            values = {k: v for k, v in {**shared, **(of_dataset.get(dataset) or {})}.items() if k in known}
            values.update(with_config(entry.get("settings") or {}, pipeline(model)))
            values.update({k: v for k, v in given.items() if k in known})
            asked = rows is None or row in rows
            made_of = _check_run(path, row, model, dataset, values) if asked else ""
            for seed in own_seeds:
                words = [_word(key, value, dataset, seed) for key, value in {**values, "seed": seed}.items()]
                runs.append(SuiteRun(row, model, dataset, seed, tuple(words), made_of))
    of_datasets = [key for own in of_dataset.values() for key in own or {}]
    for key in (*shared, *of_datasets, *given):
        if key not in known_to_one:
            source = "command line" if key in given and key not in (*shared, *of_datasets) else path
            hint = nearest(key, known_to_one.union(own_keys if source != path else ()))
            raise UserError(f"{source}: setting '{key}' is known to none of the suite's models{hint}")
    if not runs:
        raise UserError(f"{path}: holds no runs; it needs models and datasets, or give dataset=NAME")
    for (row, _, _), count in Counter((run.name, run.dataset, run.seed) for run in runs).items():
        if count > 1:
            raise UserError(f"{path}: two rows have the name '{row}'; give each entry a name of its own")
    against, base = content.get("against") or [], content.get("base")
    _check_keys(
        dict.fromkeys([*against, *([base] if base else [])]), [run.name for run in runs], f"{path}: against, base"
    )
    order = {seed: number for number, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    runs.sort(key=lambda run: order[run.seed])  # every row has one result before any has two
    suite = Suite(path.stem, runs, against, base)
    return suite if rows is None else suite.only(rows)


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
