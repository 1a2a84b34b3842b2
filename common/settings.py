"""Typed settings: dataclass defaults < YAML of the data set < ``key=value`` on the command line.

Each script declares one dataclass. An unknown key, a wrong type or a value out of range stops the run and names the
nearest known key. ``--print-config`` prints the settings that a run would use.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Dict,
    Generic,
    List,
    Mapping,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError, nearest

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST_SEED = 2**63 - 1  # that every generator accepts
LONGEST_NAME = 150  # bytes of a name; the files that are made of it have some more, and 255 at most
PLACEHOLDER = re.compile(r"\{\w+\}")  # such as {dataset}/x, which YAML would read as a mapping


def setting(
    default: Any,
    help: str,
    *,
    choices: Optional[Sequence[Any]] = None,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    may_be_empty: bool = True,
    shapes: Union[bool, str] = True,
) -> Any:
    """A dataclass field with its help text and the values that it allows (bounds are inclusive).

    For a list the bounds hold for each value; with ``choices`` no value may occur twice.

    Args:
        shapes: false leaves it out of the recipe: numbers do not depend on it, or only by way of an input file;
            "changed" leaves its default out, so that runs from before there was the setting are up to date.
    """
    allowed = {"choices": choices, "minimum": minimum, "maximum": maximum, "may_be_empty": may_be_empty}
    metadata = {"help": help, "allowed": allowed, "shapes": shapes}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def switch(number: str, help: str, paper: Any = True, released: Any = False, others: bool = False) -> Any:
    """A numbered departure of the authors' code (docs/deviations.md): its values with ``variant`` paper and released.

    null takes the variant's value when the settings are made, so that a run never sees null. ``others``: other values
    than these two are allowed.
    """
    values = {"paper": paper, "released": released}
    metadata = {"help": f"{number}: {help}; null: as variant says", "switch": values}
    allowed = {} if others else {"choices": tuple(values.values())}
    return field(default=None, metadata={**metadata, "allowed": allowed})


@dataclass
class CommonSettings:
    """Settings of every script."""

    # keys of other programs: our setting of the same meaning; or what is done here, and the words of the values that
    # agree with it (None: all do)
    foreign: ClassVar[Mapping[str, Tuple[str, Optional[str]]]] = {}

    dataset: str = setting("ml-100k", "name of the data set")
    datasets_dir: str = setting("datasets", "folder of the prepared data sets", shapes=False)

    def __post_init__(self) -> None:
        """Resolve the switches that are null."""
        for f in dataclasses.fields(self):
            if f.metadata.get("switch") and getattr(self, f.name) is None:
                setattr(self, f.name, f.metadata["switch"][vars(self)["variant"]])

    @property
    def dataset_dir(self) -> Path:
        """Folder of the prepared data set."""
        return Path(self.datasets_dir) / self.dataset

    def check(self) -> None:
        """Raise a `UserError` for values that contradict each other; `build` calls it."""
        check_folder_names(strategy=vars(self).get("strategy"))


@dataclass
class DeviceSettings(CommonSettings):
    """Scripts that run a network."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N", shapes=False)


@dataclass
class PrecisionSettings(DeviceSettings):
    """Scripts whose network may compute in less than fp32."""

    precision: str = setting(
        "auto",
        "auto takes bf16 on Ampere and later and on CPUs with bf16 instructions, fp16 with loss scaling on older "
        "GPUs (V100), else fp32",
        choices=("auto", "fp32", "fp16", "bf16"),
    )


@dataclass
class SeedSettings(CommonSettings):
    """Scripts that draw random numbers."""

    seed: int = setting(2024, "seed of every random choice", minimum=0, maximum=LARGEST_SEED)


@dataclass
class ComputeSettings(SeedSettings, PrecisionSettings):
    """Scripts that train a network or draw what it reads."""


S = TypeVar("S", bound=CommonSettings)


@dataclass
class CommandLine(Generic[S]):
    """A parsed command line."""

    settings: S
    force: bool
    arguments: argparse.Namespace


def check_folder_names(**names: Optional[str]) -> None:
    """Raise a `UserError` where the value of a setting, passed under its name, cannot be the name of one folder."""
    for key, name in names.items():
        if name is not None and (name != Path(name).name or name.startswith(".")):
            raise UserError(f"{key}={name}: not the name of a folder; use a name without / and without a leading dot")
        if name is not None and len(os.fsencode(name)) > LONGEST_NAME:
            raise UserError(f"{key}={name}: too long for the name of a folder; use at most {LONGEST_NAME} bytes")


def as_dict(settings: CommonSettings) -> Dict[str, Any]:
    """Settings as plain containers, ready for JSON or YAML."""
    return dict(dataclasses.asdict(settings))


def shaping(settings: CommonSettings) -> Dict[str, Any]:
    """The settings that a run's numbers depend on."""
    found = {}
    for f in dataclasses.fields(settings):
        shapes, value = f.metadata.get("shapes", True), getattr(settings, f.name)
        if shapes is True or (shapes == "changed" and value != f.default):
            found[f.name] = value
    return found


def to_yaml(settings: CommonSettings) -> str:
    """Settings as YAML, in the order of the dataclass."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(settings)))


def check_values(settings: CommonSettings, source: str) -> None:
    """Compare each value with what its field allows; ``source`` says where the settings come from.

    Raises:
        UserError: names the setting, its value and the allowed values.
    """
    for f in dataclasses.fields(settings):
        value, allowed = getattr(settings, f.name), f.metadata.get("allowed", {})
        choices, low, high = (allowed.get(key) for key in ("choices", "minimum", "maximum"))
        values = value if isinstance(value, list) else [value]
        where = f"{source}: setting '{f.name}'"
        if not values and not allowed.get("may_be_empty", True):
            raise UserError(f"{where} is empty; give one or more of: {', '.join(map(str, choices or ['a value']))}")
        if choices and len(set(values)) < len(values):
            raise UserError(f"{where} is {values}; give each value once")
        if value == "" and f.name.endswith("_dir"):
            raise UserError(f"{where} is empty; give a folder, or leave it out")
        for one in values:
            if one is None:
                continue
            if choices and one not in choices:
                suggestion = nearest(str(one), map(str, choices))
                raise UserError(f"{where} is {one!r}; it must be one of: {', '.join(map(str, choices))}{suggestion}")
            if (low is not None and not one >= low) or (high is not None and not one <= high):
                span = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UserError(f"{where} is {one!r}; it must be {span}")


def under_our_names(schema: Type[Any], values: Mapping[str, Any], source: str) -> Dict[str, Any]:
    """Values by the names of the schema's settings, as ``schema.foreign`` says.

    Raises:
        UserError: an unknown key, or foreign keys with another meaning; the message names them all.
    """
    known, foreign = [f.name for f in dataclasses.fields(schema)], getattr(schema, "foreign", {})
    ours: Dict[str, Any] = {}
    refused = []
    for key, value in values.items():
        name, agree = foreign.get(key, (key, None))
        if name in ours:
            raise UserError(f"{source}: setting '{name}' is given twice, also by another name; give it once")
        if name in known:
            ours[name] = value
        elif key not in foreign:
            raise UserError(f"{source}: unknown setting '{key}'{nearest(key, known)} (--help lists all settings)")
        elif agree is not None and not set(re.findall(r"\w+", str(value).lower())) <= set(agree.split()):
            refused.append(f"{key}={value} ({name})")
    if refused:
        raise UserError(f"{source}: remove {'; '.join(refused)}")
    return ours


def merge(config: DictConfig, schema: Type[Any], values: Mapping[str, Any], source: str) -> Any:
    """Put values into the structured config of a schema; a value replaces the earlier one, mappings too.

    ``~``, alone or before a slash at the beginning of a text, is the home folder.

    Returns:
        The settings.

    Raises:
        UserError: an unknown key, a wrong type or a value that is not allowed.
    """
    choices = {f.name: f.metadata.get("allowed", {}).get("choices") for f in dataclasses.fields(schema)}
    for key, value in under_our_names(schema, values, source).items():
        if isinstance(value, str) and value.lower() in (choices[key] or ()):  # HIT@10
            value = value.lower()
        try:
            expanded = os.path.expanduser(value) if isinstance(value, str) and ("/" in value or value == "~") else value
            OmegaConf.update(config, key, expanded, merge=False)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            if isinstance(config[key], ListConfig) and not isinstance(value, (list, ListConfig)):
                reason = f"must be a list, as in {key}=[{value}]"
            raise UserError(f"{source}: setting '{key}': {reason}") from error
    merged: Any = OmegaConf.to_object(config)
    check_values(merged, source)
    return merged


def typed(schema: Type[Any], values: Mapping[str, Any], source: str) -> Dict[str, Any]:
    """Values as the fields of a schema hold them. Raises `UserError` as `merge` does."""
    settings = merge(OmegaConf.structured(schema), schema, values, source)
    return {key: getattr(settings, key) for key in under_our_names(schema, values, source)}


def read_yaml(path: Path) -> Dict[str, Any]:
    """A YAML file as a mapping; an empty file is an empty mapping."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True, throw_on_missing=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such settings file") from error
    except Exception as error:  # the YAML parser's errors share no base with OmegaConf's
        reason = " ".join(str(error).split()).replace(f' in "{path.absolute()}",', "")
        raise UserError(f"{path}: not a YAML mapping: {reason}; put text that holds ': ' or ' #' in quotes") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a YAML mapping of key: value")
    return {str(key): value for key, value in loaded.items()}


def split_overrides(words: Sequence[str]) -> Dict[str, Any]:
    """``["alpha=0.5", "modalities=[text]"]`` → a mapping; values are read as YAML.

    Text that YAML would change stays text: ``run=007``, ``run=1.10``, ``run=on`` and ``run=a #b`` are names. The
    field of a number converts it.
    """
    values: Dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not a setting: write key=value (--help lists all settings)")
        if key in values:
            raise UserError(f"command line: setting '{key}' is given twice")
        try:
            written = json.dumps(text) if PLACEHOLDER.match(text) or text == "~" else text
            value = OmegaConf.create(f"value: {written}").value if text else ""
        except Exception as error:  # the YAML parser's errors share no base with OmegaConf's
            raise UserError(f"command line: setting '{key}': cannot read the value {text!r}") from error
        raw = text.strip()
        scalar = isinstance(value, (str, int, float)) and raw[:1] not in ("'", '"')
        values[key] = raw if scalar and str(value).lower() != raw.lower() else value
    return values


def build(
    schema: Type[S],
    values: Mapping[str, Any],
    config_dir: Optional[Path] = None,
    config_file: Optional[Path] = None,
) -> S:
    """Settings from the schema's defaults, a YAML and ``values``, checked.

    The YAML is ``config_file``, else ``<config_dir>/<dataset>.yaml``, else ``<config_dir>/default.yaml``, if it exists.
    """
    config: DictConfig = OmegaConf.structured(schema)
    dataset = str(values.get("dataset", config.dataset))
    check_folder_names(dataset=dataset)
    if config_file is None and config_dir is not None:
        likely = (config_dir / f"{dataset}.yaml", config_dir / "default.yaml")
        config_file = next((path for path in likely if path.is_file()), None)
    if config_file is not None:
        merge(config, schema, read_yaml(config_file), str(config_file))
    settings: S = merge(config, schema, values, "command line")
    if not settings.dataset:
        raise UserError("setting 'dataset' is empty; name the data set: -d NAME")
    settings.check()
    return settings


def help_of_settings(
    schema: Type[Any],
    title: str = "settings (key=value, or in the YAML of the data set):",
    left_out: Sequence[str] = (),
) -> str:
    """Each setting with its default, the allowed values and its meaning."""
    lines = [title]
    defaults = {
        f.name: f.default_factory() if callable(f.default_factory) else f.default for f in dataclasses.fields(schema)
    }
    for f in dataclasses.fields(schema):
        if f.name not in left_out:
            choices = f.metadata.get("allowed", {}).get("choices")
            one_of = f" [{' | '.join(map(str, choices))}]" if choices else ""
            default = "null" if defaults[f.name] is None else defaults[f.name]
            lines += [f"  {f.name} = {default}{one_of}", f"      {f.metadata['help']}"]
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """argparse with the help text as written, no abbreviations, and one-line errors that suggest the nearest option."""

    def __init__(self, doc: Optional[str], epilog: Optional[str] = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, epilog=epilog, formatter_class=layout, allow_abbrev=False)
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # the shell leaves --option=~/x

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        known = [option for action in self._actions for option in action.option_strings]
        words = [word.split("=")[0].rstrip(":,") for word in message.split() if word.startswith("--")]
        mistyped = [word for word in words if word not in known]
        suggestion = nearest(mistyped[0], known) if mistyped else ""
        if "=" in message and not suggestion:
            suggestion = "; a setting is key=value, without dashes"
        print(f"error: {message}{suggestion} (--help lists all options)", file=sys.stderr)
        sys.exit(2)


def parse(
    schema: Type[S],
    doc: Optional[str],
    config_dir: Optional[Path] = None,
    argv: Optional[List[str]] = None,
    extra: Sequence[Tuple[Tuple[str, ...], Dict[str, Any]]] = (),
    aliases: Sequence[Tuple[str, str, str]] = (),
    has_force: bool = True,
) -> CommandLine[S]:
    """Parse a script's command line: ``-d DATASET [--config FILE] [key=value …]``.

    Args:
        extra: further ``add_argument`` calls as (names, keywords).
        aliases: options that set a setting, as (option, setting, placeholder).
        has_force: the script keeps what it made and offers ``--force``.

    ``--print-config`` prints the settings and exits.
    """
    parser = Parser(doc, help_of_settings(schema))
    parser.add_argument("-d", "--dataset", help="name of the data set")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML to use in place of the data set's")
    if has_force:
        parser.add_argument("--force", action="store_true", help="do the step again even if it is up to date")
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and exit")
    for names, keywords in extra:
        parser.add_argument(*names, **keywords)
    for option, name, placeholder in aliases:
        parser.add_argument(option, dest=name, metavar=placeholder, help=f"the same as {name}={placeholder} (below)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings; they take precedence over the YAML"
    )
    arguments = parser.parse_intermixed_args(argv)
    values = split_overrides(arguments.overrides)
    for option, name in (("-d", "dataset"), *((option, name) for option, name, _ in aliases)):
        if getattr(arguments, name) is not None:
            if name in values:
                raise UserError(f"command line: '{name}' is given twice, by {option} and by {name}=")
            values[name] = getattr(arguments, name)
    settings = build(schema, values, config_dir, arguments.config)
    if arguments.print_config:
        print(to_yaml(settings), end="")
        raise SystemExit(0)
    return CommandLine(settings, has_force and arguments.force, arguments)
