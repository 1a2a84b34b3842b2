"""``search_space``: which settings a search may try, and which values; checked before a run, drawn from by Optuna.

{alpha: [0.1, 0.2]} is a list of values; {learning_rate: {low: 1e-4, high: 1e-2, log: true}} a range. Lists alone are a
grid.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Type, get_type_hints

import optuna

from common.errors import UserError, nearest
from common.settings import typed
from stage2_sequence_preference_learning.settings import NOT_SHAPING, StageSettings

NOT_SEARCHED = ("dataset", "device", "precision", "seed", "valid_metric", "variant")  # the switches are, one by one


def grid_of(space: Dict[str, Any]) -> List[Dict[str, Any]]:
    """All cells of a space of lists, in their order; empty if any setting has a range."""
    if not all(isinstance(values, list) for values in space.values()):
        return []
    return [dict(zip(space, cell)) for cell in itertools.product(*space.values())]


def check_space(settings: Any) -> Dict[str, Any]:
    """Every searched key is a setting that shapes a run; every value is admitted there.

    Returns:
        The space, its values of the types that the settings have.

    Raises:
        UserError: names the key.
    """
    known = [f.name for f in dataclasses.fields(settings) if f.name not in (*NOT_SHAPING, *NOT_SEARCHED)]
    of_both_steps = [f.name for f in dataclasses.fields(StageSettings) if f.name in known]
    if not settings.search_space:
        raise UserError("search_space is empty: name a setting and its values, as in search_space={alpha: [0.1, 0.2]}")
    space: Dict[str, Any] = {}
    for key, values in settings.search_space.items():
        if key not in known:
            kind = "cannot search" if hasattr(settings, key) else "unknown setting"
            raise UserError(f"search_space: {kind} '{key}'{nearest(key, known)}")
        if key in of_both_steps and getattr(settings, "pretrain_id", "none") != "none":
            raise UserError(
                f"search_space: '{key}' must be the ID encoder's, which all trials start from; train one run for each "
                f"value ({key}=VALUE reaches both steps of run_train.sh), or search it with pretrain_id=none"
            )
        if isinstance(values, dict):
            space[key] = _range(type(settings), key, values)
        elif isinstance(values, list) and values:
            space[key] = [_typed(type(settings), key, value) for value in values]
        else:
            raise UserError(f"search_space: '{key}' must be a list of values, or {{low, high}}")
    return space


def _range(schema: Type[Any], key: str, values: Mapping[str, Any]) -> Dict[str, Any]:
    """low and high as the setting holds them, log and step as they are. Raises `UserError`: it is no range."""

    def refuse(fault: str) -> NoReturn:
        raise UserError(f"search_space: '{key}'{fault}; it has {dict(values)}")

    if not {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
        refuse(" needs low and high, and may have log and step")
    low, high = values["low"], values["high"]
    if not all(isinstance(end, (int, float)) for end in (low, high)) or low > high:
        refuse(": low and high must be numbers, low the lesser")
    if values.get("log") and (low <= 0 or "step" in values):
        refuse(": log: true needs low above 0, and no step")
    if "step" in values and not (isinstance(values["step"], (int, float)) and values["step"] > 0):
        refuse(": step must be a number above 0")
    if type(_typed(schema, key, low)) not in (int, float):
        refuse(" is no number: it must be a list of values")
    return {**values, **{end: _typed(schema, key, values[end]) for end in ("low", "high")}}


def _typed(schema: Type[Any], key: str, value: Any) -> Any:
    """A value as the setting holds it, so that a run is the same searched or given; `UserError`: not admitted."""
    return typed(schema, {key: value}, "search_space")[key]


def name_of(chosen: Dict[str, Any]) -> str:
    """The name of a trial's run, such as ``alpha=0.2``."""
    return ",".join(f"{k}={v}" for k, v in chosen.items())


def suggest(trial: optuna.Trial, space: Dict[str, Any], settings: Any) -> Dict[str, Any]:
    """One value for each searched setting, of the type that the setting has."""
    chosen: Dict[str, Any] = {}
    types = get_type_hints(type(settings))  # of a value that may stand at null, too
    for key, values in space.items():
        if isinstance(values, list):
            chosen[key] = trial.suggest_categorical(key, values)
        elif types[key] in (int, Optional[int]):
            chosen[key] = trial.suggest_int(key, **values)
        else:
            chosen[key] = trial.suggest_float(key, **values)
    return chosen


def as_it_stands(settings: Any) -> Dict[str, Any]:
    """The searched settings' own values, but for those that lie outside of the space."""
    own = {key: getattr(settings, key) for key in settings.search_space}
    return {key: value for key, value in own.items() if _lies_in(value, settings.search_space[key])}


def _lies_in(value: Any, values: Any) -> bool:
    if isinstance(values, list):
        return value in values
    return value is not None and bool(values["low"] <= value <= values["high"])
