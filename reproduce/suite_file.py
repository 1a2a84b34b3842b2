"""The YAML of a suite, read and checked: each part has its shape before any model is asked about a setting.

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

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from common.errors import UserError, nearest
from common.settings import LARGEST_SEED, read_yaml

KEYS = ("datasets", "seeds", "against", "base", "settings", "of_dataset", "models")
ENTRY_KEYS = ("model", "name", "settings", "datasets", "seeds")


@dataclass(frozen=True)
class Entry:
    """One of ``models``: a row of the table."""

    model: str
    name: str
    settings: Dict[str, Any]
    datasets: List[str]  # none: the suite's
    seeds: List[int]  # none: the suite's


@dataclass(frozen=True)
class SuiteFile:
    """What a suite's YAML says."""

    path: Path
    datasets: List[str]
    seeds: List[int]
    against: List[str]
    base: Optional[str]
    settings: Dict[str, Any]
    of_dataset: Dict[str, Dict[str, Any]]
    entries: List[Entry]


def check_keys(given: Sequence[str], known: Sequence[str], where: str, what: str = "key") -> None:
    """Raise a `UserError` for a key that is not known."""
    for key in given:
        if key not in known:
            there = ", ".join(dict.fromkeys(known))
            raise UserError(f"{where}: unknown {what} '{key}'{nearest(key, known)}; there are {there}")


def check_seeds(seeds: Sequence[Any], where: str) -> None:
    """Raise a `UserError` for seeds that are none, and for one that is named twice or that no generator takes."""
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"{where}: seeds: {seed!r} must be a number from 0 to {LARGEST_SEED}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds: {list(seeds)}: name one or more, none of them twice")


class _Part:
    """A mapping of the file; each value is asked for by its shape."""

    def __init__(self, content: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
        self.content, self.where = {str(key): value for key, value in content.items()}, where
        check_keys(list(self.content), known, where)

    def text(self, key: str) -> Optional[str]:
        """A name, or None."""
        value = self.content.get(key)
        if value is not None and (not isinstance(value, str) or not value or "\n" in value):
            raise UserError(
                f"{self.where}: '{key}' is {value!r}; it must be a name, in quotes if YAML reads it otherwise"
            )
        return value

    def names(self, key: str) -> List[str]:
        """A list of names, or none."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, list):
            raise UserError(f"{self.where}: '{key}' must be a list, as in {key}: [{value}]")
        for one in value or []:
            if not isinstance(one, str) or not one:
                told = f"'{key}' holds {one!r}; it must hold names, in quotes if YAML reads them otherwise"
                raise UserError(f"{self.where}: {told}")
        if value is not None and len(set(value)) < max(1, len(value)):
            raise UserError(f"{self.where}: '{key}' is {value}; name one or more, none of them twice")
        return value or []

    def mapping(self, key: str) -> Dict[str, Any]:
        """Settings, or none."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{self.where}: '{key}' is {value!r}; it must be a mapping, as in {key}: {{KEY: VALUE}}")
        return {str(name): one for name, one in (value or {}).items()}

    def seeds(self) -> List[int]:
        """Seeds, one or a list, or none at all where the key is not there."""
        value = self.content.get("seeds")
        if value is None:
            return []
        seeds = value if isinstance(value, list) else [value]
        check_seeds(seeds, self.where)
        return seeds


def _entry(content: Any, where: str) -> Entry:
    if not isinstance(content, dict):
        content = {"model": content}
    part = _Part(content, where, ENTRY_KEYS)
    model = part.text("model")
    if model is None:
        raise UserError(f"{where}: an entry without a model: {content}; write model: NAME")
    return Entry(model, part.text("name") or model, part.mapping("settings"), part.names("datasets"), part.seeds())


def read_suite(path: Path) -> SuiteFile:
    """Read the YAML.

    Raises:
        UserError: it is not YAML, or a part of it has another shape than it must; names the file and the key.
    """
    part = _Part(read_yaml(path), str(path), KEYS)
    models = part.content.get("models")
    if models is not None and not isinstance(models, list):
        raise UserError(f"{path}: 'models' must be a list, as in models: [Pop, {{model: SASRec, name: Mine}}]")
    own = part.mapping("of_dataset")
    of_datasets = _Part(own, f"{path}: of_dataset", list(own))
    found = SuiteFile(
        path,
        part.names("datasets"),
        part.seeds(),
        part.names("against"),
        part.text("base"),
        part.mapping("settings"),
        {name: of_datasets.mapping(name) for name in own},
        [_entry(content, f"{path}: models") for content in models or []],
    )
    if found.against and found.base:
        raise UserError(f"{path}: 'against' and 'base' both say what the table compares; leave one out")
    return found
