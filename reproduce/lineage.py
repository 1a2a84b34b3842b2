"""What made a run, but for some settings, its seed first of all: runs of equal lineage differ by these alone."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Type

from adrec.settings import ADRecSettings
from common.errors import UserError
from common.files import checksum, read_json
from common.runs import MADE, METRICS
from common.settings import as_dict
from reproduce import scores
from stage2_sequence_preference_learning.settings import CHECKPOINTS
from stage2_sequence_preference_learning.settings import schema_of as stage2_schema_of

OTHER_SCHEMAS: Dict[str, Type[Any]] = {"ADRec": ADRecSettings, "Scores": scores.Settings}


def schema_of(model: str) -> Type[Any]:
    """The settings' dataclass of any model."""
    return OTHER_SCHEMAS[model] if model in OTHER_SCHEMAS else stage2_schema_of(model)


def lineage_of_run(model: str, folder: Path, made_from: Mapping[str, Any], without: Sequence[str] = ("seed",)) -> Any:
    """Model, settings and what each input was made from in its turn; settings younger than the run have their default.

    Args:
        without: settings that do not count, here and in all that the run was made from.
    """
    settings = {**as_dict(schema_of(model)()), **made_from["settings"]}
    kept = {k: str(v) for k, v in settings.items() if k not in CHECKPOINTS and k not in without}
    inputs = _of_inputs(made_from["inputs"], folder, without)
    for name in scores.FILES if "seed" in without else ():  # made elsewhere: their names alone can tell of a seed
        path, seed = made_from["inputs"].get(name, {}).get("path", ""), settings["seed"]
        named = re.sub(rf"(?<!\d){seed}(?!\d)", "{seed}", path)
        inputs.update({name: named} if named != path else {})
    return [model, dict(sorted(kept.items())), inputs]


def _of_inputs(inputs: Mapping[str, Any], folder: Path, without: Sequence[str]) -> Dict[str, Any]:
    return {name: _of_file(Path(e["path"]), e["sha256"], folder, without) for name, e in sorted(inputs.items())}


def _of_file(path: Path, sha256: str, folder: Path, without: Sequence[str]) -> Any:
    """What made the file of this checksum, where one of the settings that do not count shaped it; else the checksum."""
    moved = folder.parents[2].joinpath(*path.parts[-4:])  # a checkpoint, with all results
    for file in (path, moved):
        made, result = file.with_name(MADE), file.with_name(METRICS)
        if made.is_file() and result.is_file() and file.is_file() and checksum(file) == sha256:
            return lineage_of_run(read_json(result)["model"], file.parent, read_json(made), without)
    record = _record_of(path, sha256)
    if record is not None:
        inputs = _of_inputs(record["inputs"], folder, without)
        if _names(record["settings"], without) or any(not isinstance(told, str) for told in inputs.values()):
            return [record["step"], _less(record["settings"], without), inputs]
    return sha256


def _record_of(path: Path, sha256: str) -> Optional[Dict[str, Any]]:
    """The record (`common.files.record`) beside a file or folder that tells of it as it was then."""
    for file in sorted(path.parent.glob("*.json")):
        with suppress(UserError, AttributeError, KeyError, TypeError):  # a JSON of another kind
            told: Dict[str, Any] = read_json(file)
            for output in told["outputs"].values():
                if (os.path.normpath(output["path"]), output["sha256"]) == (path.name, sha256):
                    return told
    return None


def _names(content: Any, keys: Sequence[str]) -> bool:
    if isinstance(content, dict):
        return any(key in keys or _names(value, keys) for key, value in content.items())
    return isinstance(content, list) and any(_names(value, keys) for value in content)


def _less(content: Any, keys: Sequence[str]) -> Any:
    if isinstance(content, dict):
        return {key: _less(value, keys) for key, value in content.items() if key not in keys}
    return [_less(value, keys) for value in content] if isinstance(content, list) else content
