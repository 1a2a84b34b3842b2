"""The search for α (paper: Optuna over 0.1 … 1.0), or for any settings, chosen on validation.

Writes <results_dir>/<model>/<dataset>/search-<digest>/: study.db (SQLite; optuna-dashboard shows it), a run per
trial, trials.csv, and a plot of the score over each searched setting. The first trial over ranges has the settings
as they stand, so that a small budget never ends below them. The best trial's run is then copied to where a run
with its settings belongs, and it alone is tested.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import matplotlib
import optuna
from optuna.trial import TrialState

from common.device import pick_compute
from common.errors import Diverged, UserError
from common.files import atomic, digest, exclusive, read_json, write_text
from common.runs import MADE, METRICS, open_run, run_folder
from common.settings import as_dict, to_yaml
from stage2_sequence_preference_learning.search_space import as_it_stands, check_space, grid_of, name_of, suggest
from stage2_sequence_preference_learning.settings import resolve_switches
from stage2_sequence_preference_learning.spine import train, what_makes

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)  # pruned: the training diverged


def _folder(model: str, settings: Any) -> Path:
    fixed = dict.fromkeys(settings.search_space)
    compute = pick_compute(settings.device, settings.precision)
    made_from = what_makes(model, settings, compute.precision, 1)
    searched = digest(made_from, settings={**made_from["settings"], **fixed}, space=settings.search_space)
    return Path(settings.results_dir) / model / settings.dataset / f"search-{searched}"


def _open_study(folder: Path, model: str, settings: Any) -> optuna.Study:
    """The study, with trials that a killed process left running asked for again."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warning of a stopped trial shows a traceback
    study = optuna.create_study(
        study_name=f"{model}-{settings.dataset}",
        storage=f"sqlite:///{folder / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and not grid_of(settings.search_space):
            study.enqueue_trial(trial.params, user_attrs={"asked": trial.params})
    return study


def _enqueue_grid(study: optuna.Study, cells: List[Dict[str, Any]]) -> None:
    """Ask for every cell that is neither done nor waiting, so that a resumed grid is complete."""
    asked = [t.params for t in study.get_trials(states=ENDED)]
    asked += [t.user_attrs["asked"] for t in study.get_trials(states=(TrialState.WAITING,))]
    for cell in cells:
        if cell not in asked:
            study.enqueue_trial(cell, user_attrs={"asked": cell})


def _enqueue_as_it_stands(study: optuna.Study, settings: Any) -> None:
    """Ask first for the settings that the run has anyway; a value outside of the space is drawn."""
    stands = as_it_stands(settings)
    if stands:
        study.enqueue_trial(stands, user_attrs={"asked": stands})


def search(model: str, settings: Any, force: bool = False) -> Path:
    """Run the trials that are still missing, then test the best; returns the best run's folder.

    ``n_trials`` counts trials that ended, over all starts, those that diverged among them; a grid smaller than it is
    done when complete. Trials and test are of ``seed``.

    Raises:
        UserError: every trial diverged.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("n_trials: a search runs in one process; start it without torchrun")
    resolve_switches(settings)
    folder = _folder(model, settings)
    with exclusive(folder):
        if force:
            (folder / "study.db").unlink(missing_ok=True)
        study = _open_study(folder, model, settings)
        cells = grid_of(settings.search_space)[: settings.n_trials]
        _enqueue_grid(study, cells)
        if not cells and not study.get_trials(states=(*ENDED, TrialState.WAITING)):  # Ctrl-C leaves the first failed
            _enqueue_as_it_stands(study, settings)
        wanted = len(cells) or settings.n_trials

        def objective(trial: optuna.Trial) -> float:
            chosen = suggest(trial, settings.search_space, settings)
            name = name_of(chosen)
            print(f"trial {trial.number}: {name}")
            dataclasses.replace(settings, **chosen).check()
            one = dataclasses.replace(settings, **chosen, run=f"{folder.name}/{name}", test=False)
            try:
                score = read_json(train(model, one, force) / METRICS)["valid"][settings.valid_metric]
            except Diverged as error:
                print(f"trial {trial.number}: {name}: diverged: {error}")
                raise optuna.TrialPruned from error
            print(f"trial {trial.number}: {name}: valid {settings.valid_metric} {score:.4f}")
            return float(score)

        done = len(study.get_trials(states=ENDED))
        for number in range(done, wanted):  # seeded per trial: a search that goes on draws what it would have drawn
            study.sampler = optuna.samplers.TPESampler(seed=(settings.seed + number) % 2**32)
            study.optimize(objective, n_trials=1)
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise UserError(f"{folder}: all {max(wanted, done)} trials diverged; lower learning_rate in search_space")
        report(study, folder, settings.valid_metric)
        best = dataclasses.replace(settings, **study.best_params)
        print(f"best of {max(wanted, done)} trials: {name_of(study.best_params)}, {study.best_value:.4f}")
        _adopt(folder, model, study, best, force)
    return train(model, dataclasses.replace(best, n_trials=0))


def train_or_search(
    model: str, settings: Any, force: bool = False, complete: Callable[[Any], Any] = lambda settings: settings
) -> Path:
    """Train; with ``n_trials``, what a search with ``search_seed``, once for all seeds, chose. Returns the run.

    Args:
        complete: names what a run of these settings starts from, such as a checkpoint of its seed.

    Raises:
        UserError: the search space makes no sense, or every trial diverged.
    """
    if not getattr(settings, "n_trials", 0):  # Pop has nothing to tune
        return train(model, complete(settings), force)
    settings = dataclasses.replace(settings, search_space=check_space(settings))
    own = settings.seed == settings.search_seed  # run=NAME names the run of this seed
    searched = dataclasses.replace(settings, seed=settings.search_seed, run=settings.run if own else None)
    best = search(model, complete(searched), force)
    if own:
        return best
    told = {**as_dict(type(settings)()), **read_json(best / MADE)["settings"]}  # a recipe may leave out a default
    chosen = {key: told[key] for key in settings.search_space}
    return train(model, complete(dataclasses.replace(settings, **chosen, n_trials=0)), force)


def _adopt(folder: Path, model: str, study: optuna.Study, best: Any, force: bool) -> None:
    """Copy the best trial's run to where a run of its settings belongs, unless it stands there and is to stay."""
    compute = pick_compute(best.device, best.precision)
    made_from = what_makes(model, best, compute.precision, 1)
    target = run_folder(model, best, made_from)
    if (target / METRICS).is_file() and not force:
        return
    with exclusive(target):
        open_run(target, made_from, best, force)
        for file in sorted((folder / name_of(study.best_params)).iterdir(), key=lambda f: f.name == METRICS):
            if not file.name.startswith("."):
                with atomic(target / file.name) as temporary:  # metrics.json last: it marks the run as done
                    shutil.copyfile(file, temporary)
        write_text(target / "settings.yaml", to_yaml(best))


def report(study: optuna.Study, folder: Path, metric: str) -> None:
    """trials.csv, and score over each searched setting as a picture."""
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    keys = sorted({key for trial in trials for key in trial.params})
    with atomic(folder / "trials.csv") as temporary, open(temporary, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["trial", *keys, f"valid {metric}"])
        writer.writerows([t.number, *(t.params.get(key, "") for key in keys), t.value] for t in trials)
    for key in keys:
        _plot(study, trials, key, metric, folder / f"score_over_{key}.png")


def _plot(study: optuna.Study, trials: List[Any], key: str, metric: str, path: Path) -> None:
    numbers = all(isinstance(t.params[key], (int, float)) for t in trials)
    shown = float if numbers else str
    points: List[Tuple[Any, float]] = sorted((shown(t.params[key]), t.value) for t in trials)
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(*zip(*points), "o-" if len(study.best_params) == 1 else "o", color="#1f6f8b")
    axes.plot(shown(study.best_params[key]), study.best_value, "*", color="#c8553d", markersize=14, label="chosen")
    axes.set(xlabel="α" if key == "alpha" else key, ylabel=f"validation {metric.upper()}", title=study.study_name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
