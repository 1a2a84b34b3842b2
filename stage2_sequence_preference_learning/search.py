"""The search for α (paper: Optuna over 0.1 … 1.0), or for other settings, chosen on validation.

``search_space`` gives each searched setting a list of values, as in {alpha: [0.1, 0.2]}, or a range, as in
{learning_rate: {low: 1e-4, high: 1e-2, log: true}}. Lists alone are a grid. Ranges are searched by TPE, whose first
trial has the settings' own values.

Writes <results_dir>/<model>/<dataset>/search-<digest>/: study.db (optuna-dashboard shows it), a run per trial,
trials.csv, a plot of the score over each searched setting, and search.json, the record. The best trial's run is then
moved to where a run with its settings belongs, and only that run is tested.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import shutil
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Type, TypeVar, get_type_hints

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from common.errors import Diverged, UserError, nearest
from common.files import atomic, digest, making, read_json, recipe, record
from common.run import MADE, METRICS, run_name
from common.settings import as_dict, shaping, typed
from stage2_sequence_preference_learning.settings import NetworkSettings, SearchSettings

NOT_SEARCHED = ("dataset", "precision", "seed", "valid_metric", "variant")
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)  # pruned: the training diverged

S = TypeVar("S", bound=SearchSettings)


def search(model: str, settings: S, train: Callable[..., Path], force: bool = False) -> S:
    """Run the trials that are missing; returns the settings that they choose, for the seed of ``settings``.

    Trials have ``search_seed``, so that all seeds share one search. ``n_trials`` counts all trials that ended, those
    that diverged too; a grid that is smaller is complete earlier.

    Args:
        train: trains one run of settings and returns its folder.

    Raises:
        UserError: the search space is not valid, every trial diverged, or study.db is damaged or in use elsewhere.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("n_trials: a search runs in one process; start it without torchrun")
    space = check_space(settings)
    plain = dataclasses.replace(settings, n_trials=0, search_space={})
    searched = dataclasses.replace(plain, seed=settings.search_seed, test=False)
    folder = search_folder(model, searched, space)
    wanted = min(settings.n_trials, len(grid_of(space)) or settings.n_trials)
    done, made_from = folder / "search.json", recipe(f"search {model}", {"n_trials": settings.n_trials}, {})
    with making(done, made_from, force) as needed:
        if needed:
            database = folder / "study.db"
            if force:
                database.unlink(missing_ok=True)
            with database_errors(database, Exception):  # of a damaged file, optuna raises nearly anything
                study = open_study(database, f"{model}-{settings.dataset}", searched, space, settings.n_trials)
            with database_errors(database, SQLAlchemyError, StorageInternalError):
                run_trials(study, wanted, searched, space, folder, lambda settings: train(settings, force))
            if not study.get_trials(states=(TrialState.COMPLETE,)):
                raise UserError(f"{folder}: all {wanted} trials diverged; lower learning_rate in search_space")
            write_report(study, folder, settings.valid_metric)
            keep_best_run(folder.parent / trial_run(folder, study.best_params), folder.parent)
            outputs = {"study": database, "trials": folder / "trials.csv"}
            record(done, made_from, outputs, {"best": study.best_params, "value": study.best_value})
    found = read_json(done)
    best: Dict[str, Any] = found["best"]
    print(f"best of {wanted} trials: {describe(best)}, valid {settings.valid_metric} {found['value']:.4f}")
    return dataclasses.replace(plain, **best)


def run_trials(
    study: optuna.Study,
    wanted: int,
    searched: S,
    space: Mapping[str, Any],
    folder: Path,
    train: Callable[[S], Path],
) -> None:
    """Run trials until ``wanted`` of them ended; ``searched`` are their settings but for the searched ones."""
    types = get_type_hints(type(searched))
    drawn_from = {key: distribution(types[key], values) for key, values in space.items()}
    for number in range(len(study.get_trials(states=ENDED)), wanted):
        # seeded for each trial, so that a search that continues draws what it would have drawn
        study.sampler = optuna.samplers.TPESampler(seed=(searched.search_seed + number) % 2**32)
        trial = study.ask(drawn_from)
        chosen = trial.params
        dataclasses.replace(searched, **chosen).check()
        one = dataclasses.replace(searched, **chosen, run=trial_run(folder, chosen))
        print(f"trial {trial.number}: {describe(chosen)}")
        try:
            score = float(read_json(train(one) / METRICS)["valid"][searched.valid_metric])
        except Diverged as error:
            print(f"trial {trial.number}: diverged: {error}")
            study.tell(trial, state=TrialState.PRUNED)
            continue
        study.tell(trial, score)
        print(f"trial {trial.number}: {describe(chosen)}: valid {searched.valid_metric} {score:.4f}")


def check_space(settings: SearchSettings) -> Dict[str, Any]:
    """The search space with values of the settings' types.

    Raises:
        UserError: a key that cannot be searched, a value that is not allowed, or a range that is none.
    """
    schema = type(settings)
    space: Dict[str, Any] = {}
    known = [f.name for f in dataclasses.fields(schema) if f.metadata.get("shapes", True)]
    known = [name for name in known if name not in NOT_SEARCHED]
    shared = [f.name for f in dataclasses.fields(NetworkSettings)]
    if not settings.search_space:
        raise UserError(
            "search_space is empty: name a setting and its values, as in search_space={learning_rate: [1e-3, 1e-2]}"
        )
    for key, values in settings.search_space.items():
        if key not in known:
            kind = "cannot search" if hasattr(settings, key) else "unknown setting"
            raise UserError(f"search_space: {kind} '{key}'{nearest(key, known)}")
        if key in shared and vars(settings).get("pretrain_id", "none") not in (None, "none"):
            raise UserError(f"search_space: '{key}' must be that of pretrain_id; search it without pretrain_id")
        if isinstance(values, dict):
            space[key] = check_range(schema, key, values)
        elif isinstance(values, list) and values:
            space[key] = [typed(schema, {key: value}, "search_space")[key] for value in values]
        else:
            raise UserError(f"search_space: '{key}' must be a list of values, or {{low, high}}")
    return space


def check_range(schema: Type[SearchSettings], key: str, values: Mapping[str, Any]) -> Dict[str, Any]:
    """A range whose ends have the setting's type. Raises `UserError`: it is not a range."""
    where = f"search_space: '{key}' is {dict(values)}"
    if not {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
        raise UserError(f"{where}; it needs low and high, and may have log and step")
    ends = {end: typed(schema, {key: values[end]}, "search_space")[key] for end in ("low", "high")}
    if not all(type(value) in (int, float) for value in ends.values()):
        raise UserError(f"{where}; low and high must be numbers; other settings need a list")
    try:
        distribution(get_type_hints(schema)[key], {**values, **ends})
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}; {error}") from error
    return {**values, **ends}


def distribution(kind: Any, values: Any) -> BaseDistribution:
    """What trials draw a setting from; ``kind`` is the setting's type."""
    if isinstance(values, list):
        return CategoricalDistribution(values)
    return IntDistribution(**values) if kind in (int, Optional[int]) else FloatDistribution(**values)


def grid_of(space: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """All cells of a space of lists, in their order; none if a setting has a range."""
    if not all(isinstance(values, list) for values in space.values()):
        return []
    return [dict(zip(space, cell)) for cell in itertools.product(*space.values())]


def own_values(settings: SearchSettings, space: Mapping[str, Any]) -> Dict[str, Any]:
    """The searched settings' own values, without those outside of the space."""

    def is_inside(value: Any, values: Any) -> bool:
        if isinstance(values, list):
            return value in values
        return value is not None and bool(values["low"] <= value <= values["high"])

    own = {key: getattr(settings, key) for key in space}
    return {key: value for key, value in own.items() if is_inside(value, space[key])}


def search_folder(model: str, settings: SearchSettings, space: Mapping[str, Any]) -> Path:
    """The folder of a search, named by a digest of all that shapes its trials."""
    own = {key: value for key, value in shaping(settings).items() if key not in space}
    step_1 = as_dict(settings).get("step_1")
    made_from = recipe(f"search {model}", {**own, "search_space": space, "step_1": step_1}, settings.input_files())
    return Path(settings.results_dir) / model / settings.dataset / f"search-{digest(made_from)}"


def trial_run(folder: Path, chosen: Mapping[str, Any]) -> str:
    """The ``run`` setting of a trial: a folder in that of the search, the same when a killed trial is repeated."""
    return f"{folder.name}/trial-{digest(recipe('trial', chosen, {}))}"


@contextmanager
def database_errors(path: Path, *kinds: Type[Exception]) -> Iterator[None]:
    """Raise a `UserError` that names the database in place of exceptions of these kinds."""
    try:
        yield
    except kinds as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", cause)).splitlines()[0]
        raise UserError(f"{path}: {reason}; close other programs that use it, or delete it") from error


def open_study(
    path: Path, name: str, settings: SearchSettings, space: Mapping[str, Any], n_trials: int
) -> optuna.Study:
    """The study with its next trials: those that were killed, the missing cells of a grid, the settings' own values."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warning about a stopped trial shows a traceback
    storage = optuna.storages.RDBStorage(  # the path is not in the URL, where ?, % and { have a meaning
        "sqlite:///study.db", {"creator": lambda: sqlite3.connect(path, check_same_thread=False)}
    )
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    cells = grid_of(space)[:n_trials]
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and not cells:
            study.enqueue_trial(trial.params, user_attrs={"asked": trial.params})
    asked = [trial.params for trial in study.get_trials(states=ENDED)]
    asked += [trial.user_attrs["asked"] for trial in study.get_trials(states=(TrialState.WAITING,))]
    first = [] if asked or cells else [own_values(settings, space)]
    for params in [cell for cell in cells if cell not in asked] + [values for values in first if values]:
        study.enqueue_trial(params, user_attrs={"asked": params})
    return study


def keep_best_run(trial: Path, folder: Path) -> None:
    """Move the best trial's run to ``folder``, under the name of a run with its settings, unless there is one."""
    if (trial / MADE).is_file():
        target = folder / run_name(read_json(trial / MADE))
        if not target.exists():
            shutil.move(str(trial), str(target))


def describe(chosen: Mapping[str, Any]) -> str:
    """Such as ``alpha=0.2``."""
    return ",".join(f"{key}={value}" for key, value in chosen.items())


def write_report(study: optuna.Study, folder: Path, metric: str) -> None:
    """trials.csv, and score over each searched setting as a picture."""
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    keys = sorted({key for trial in trials for key in trial.params})
    with atomic(folder / "trials.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["trial", *keys, f"valid {metric}"])
        writer.writerows([t.number, *(t.params.get(key, "") for key in keys), t.value] for t in trials)
    for key in keys:
        plot(study, trials, key, metric, folder / f"score_over_{key}.png")


def plot(study: optuna.Study, trials: List[Any], key: str, metric: str, path: Path) -> None:
    """The score over one searched setting."""
    from matplotlib.figure import Figure

    numbers = all(isinstance(t.params[key], (int, float)) for t in trials)
    shown = float if numbers else str
    points: List[Tuple[Any, float]] = sorted((shown(t.params[key]), t.value) for t in trials)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points), "o-" if len(study.best_params) == 1 else "o", color="#1f6f8b")
    axes.plot(shown(study.best_params[key]), study.best_value, "*", color="#c8553d", markersize=14, label="chosen")
    axes.set(xlabel="α" if key == "alpha" else key, ylabel=f"validation {metric.upper()}", title=study.study_name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
