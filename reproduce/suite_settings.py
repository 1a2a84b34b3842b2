"""Settings of a suite's rows, of its YAML and of the command line: which are refused, which win, the words of a run."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Set

from omegaconf import OmegaConf

from common.errors import UserError, nearest
from common.settings import split_overrides
from reproduce.steps import OF_STAGE_2, STAGE_1, pipeline
from reproduce.suite_file import Entry

SEED = 2024  # by which a row's settings are checked, and of a suite that names none

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


def word(key: str, value: Any, dataset: str, seed: int) -> str:
    """``key=value`` as a command line gives it, ``{dataset}`` and ``{seed}`` filled in."""
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


def keys_of(path: Path, entry: Entry) -> Set[str]:
    """Settings that a row's steps know, plain and as step.key."""
    try:
        steps = pipeline(entry.model)
    except UserError as error:
        raise UserError(f"{path}: models: {error}") from error
    return {key for step in steps for key in (*step.keys, *(f"{step.name}.{k}" for k in step.keys))}


def check_known(
    of_yaml: Sequence[str], given: Mapping[str, Any], keys: Sequence[Set[str]], path: Path, own_keys: Sequence[str]
) -> None:
    """Whether each setting for all models is known to one of them."""
    known = set().union(*keys)
    for key in (*of_yaml, *given):
        if key not in known:
            source = path if key in of_yaml else "command line"
            hint = nearest(key, known if key in of_yaml else known.union(own_keys))
            raise UserError(f"{source}: setting '{key}' is known to none of the suite's models{hint}")


def check_not_for_suites(path: Path, given: Mapping[str, Any], of_yaml: Sequence[str]) -> None:
    """Whether no key is one that a suite sets itself. Raises `UserError`: one is, and what does it instead."""
    for source, told, keys in (
        ("command line", NOT_FOR_SUITES, given),
        (path, {**NOT_FOR_SUITES, **OF_THE_COMMAND_LINE}, of_yaml),
    ):
        for key in keys:
            if key in told:
                raise UserError(f"{source}: '{key}' is not for suites: {told[key]}")
    if "config" in given:
        raise UserError(f"command line: 'config' is not for suites: a row's settings in {path} may hold config: FILE")


def outranked(key: str, given: Mapping[str, Any]) -> bool:
    """Whether a YAML's step.key gives way to a key of the command line that means this step too."""
    step, dot, plain = key.rpartition(".")
    of_stage_1 = step in [one.name for one in STAGE_1] and plain in OF_STAGE_2
    return bool(dot) and plain in given and not of_stage_1


def overridden(row: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> List[str]:
    """Notes of a row's own settings that the command line replaces by other values."""
    notes = []
    for key, value in own.items():
        for by in (g for g in given if g == key or outranked(key, {g: 0}) or outranked(g, {key: 0})):
            its_own, instead = (word(k, v, "{dataset}", SEED) for k, v in ((key, value), (by, given[by])))
            if its_own.partition("=")[2] != instead.partition("=")[2]:
                notes.append(f"row '{row}' runs with {instead} of the command line, not with its own {its_own}")
    return notes
