"""Typed settings: dataclass defaults < YAML of the data set < ``key=value`` on the command line.

Every script declares one dataclass. An unknown key, a wrong type or a value out of range stops the
run with the nearest known name; nothing is swallowed. ``--print-config`` shows what a run would use.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Generic, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.arguments import Parser
from common.errors import UserError, nearest

REPOSITORY = Path(__file__).resolve().parents[1]
BRACED = re.compile(r"\{\w+\}")  # such as {dataset}/x, which YAML would read as a mapping
LARGEST_SEED = 2**63 - 1  # that every generator takes


def setting(
    default: Any,
    help: str,
    *,
    choices: Optional[Sequence[Any]] = None,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    may_be_empty: bool = True,
) -> Any:
    """A dataclass field with its help text and the values it admits (bounds are inclusive).

    A list holds such values; with ``choices`` it names each once at most.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "may_be_empty": may_be_empty,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_folder_names(**names: Optional[str]) -> None:
    """Raise a `UserError` where the value of a setting, given under its name, cannot be the name of one folder."""
    for key, name in names.items():
        if name is not None and (name != Path(name).name or name.startswith(".")):
            raise UserError(f"{key}={name}: is not the name of a folder; name it without / and without a dot in front")


@dataclass
class CommonSettings:
    """What every script of both papers knows."""

    dataset: str = setting("ml-100k", "name of the data set")
    datasets_dir: str = setting("datasets", "prepared data sets, one folder each")

    @property
    def dataset_dir(self) -> Path:
        """Folder of the prepared data set."""
        return Path(self.datasets_dir) / self.dataset

    def check(self) -> None:
        """Raise a `UserError` for values that do not go together; `build` calls it."""
        check_folder_names(dataset=self.dataset)


@dataclass
class DeviceSettings(CommonSettings):
    """What every script that runs a network knows as well."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


@dataclass
class PrecisionSettings(DeviceSettings):
    """What every script knows as well whose network may compute in less than fp32."""

    precision: str = setting(
        "auto",
        "auto takes bf16 on Ampere and later and on CPUs that compute in it, fp16 with loss scaling "
        "on older GPUs (V100), else fp32",
        choices=("auto", "fp32", "fp16", "bf16"),
    )


@dataclass
class SeedSettings(CommonSettings):
    """What every script that draws random numbers knows as well."""

    seed: int = setting(2024, "seed of every random choice", minimum=0, maximum=LARGEST_SEED)


@dataclass
class ComputeSettings(SeedSettings, PrecisionSettings):
    """What every script that trains a network, or draws what it reads, knows."""


S = TypeVar("S", bound=CommonSettings)


@dataclass
class Run(Generic[S]):
    """One parsed command line."""

    settings: S
    force: bool
    arguments: argparse.Namespace


def as_dict(settings: Any) -> Dict[str, Any]:
    """Settings as plain containers, ready for JSON or YAML."""
    return dict(dataclasses.asdict(settings))


def follow_variant(switch: Optional[bool], variant: str) -> bool:
    """The value of a switch; null follows ``variant``, true is the paper's side."""
    return variant == "paper" if switch is None else switch


def resolve_switches(settings: Any, names: Sequence[str]) -> Any:
    """Give every switch that the settings have its value; the settings are changed and returned."""
    for name in names:
        if hasattr(settings, name):
            setattr(settings, name, follow_variant(getattr(settings, name), settings.variant))
    return settings


def to_yaml(settings: Any) -> str:
    """Settings as YAML, in the order of the dataclass."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(settings)))


def _key_errors(schema: Type[S], keys: Sequence[str], source: str) -> None:
    known = [f.name for f in dataclasses.fields(schema)]
    for key in keys:
        if key not in known:
            raise UserError(f"{source}: unknown setting '{key}'{nearest(key, known)} (--help lists all settings)")


def _update(config: DictConfig, values: Mapping[str, Any], source: str) -> None:
    for key, value in values.items():
        try:
            OmegaConf.update(config, key, value, merge=False)  # a mapping is replaced, like any other value
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            if isinstance(config[key], ListConfig) and not OmegaConf.is_config(value):
                reason = f"must be a list, as in {key}=[{value}]"
            raise UserError(f"{source}: setting '{key}': {reason}") from error


def apply(config: DictConfig, schema: Type[Any], values: Mapping[str, Any], source: str) -> None:
    """Put values into the config of a schema, each checked by itself; ``source`` names where they come from.

    Raises:
        UserError: an unknown key, a wrong type, a value that is not admitted.
    """
    _key_errors(schema, list(values), source)
    _update(config, values, source)
    check_values(OmegaConf.to_object(config), source)


def typed(schema: Type[Any], values: Mapping[str, Any], source: str) -> Dict[str, Any]:
    """Values as the fields of a schema hold them, each checked by itself as by `apply`."""
    config: DictConfig = OmegaConf.structured(schema)
    apply(config, schema, values, source)
    settings = as_dict(OmegaConf.to_object(config))
    return {key: settings[key] for key in values}


def check_values(settings: Any, source: str) -> None:
    """Compare each value with what its field admits; ``source`` names where the settings come from.

    Raises:
        UserError: names the setting, its value and what is admitted.
    """
    for f in dataclasses.fields(settings):
        value, meta = getattr(settings, f.name), f.metadata
        many = value if isinstance(value, list) else [value]
        if not many and not meta.get("may_be_empty", True):
            known = f" of: {', '.join(meta['choices'])}" if meta.get("choices") else ""
            raise UserError(f"{source}: setting '{f.name}' is empty; name one or more{known}")
        if meta.get("choices") and len(set(many)) < len(many):
            raise UserError(f"{source}: setting '{f.name}' is {many}; name each once")
        if value == "" and f.name.endswith("_dir"):
            raise UserError(f"{source}: setting '{f.name}' is empty; name a folder, or leave it out")
        for one in many:
            if one is None:
                continue
            if meta.get("choices") and one not in meta["choices"]:
                allowed = ", ".join(map(str, meta["choices"]))
                hint = nearest(str(one), map(str, meta["choices"]))
                raise UserError(f"{source}: setting '{f.name}' is {one!r}; it must be one of: {allowed}{hint}")
            low, high = meta.get("minimum"), meta.get("maximum")
            if (low is not None and not one >= low) or (high is not None and not one <= high):
                span = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UserError(f"{source}: setting '{f.name}' is {one!r}; it must be {span}")


def split_overrides(words: Sequence[str]) -> Dict[str, Any]:
    """``["alpha=0.5", "modalities=[text]"]`` → a mapping; values are read as YAML.

    What YAML would write otherwise stays text, so that ``run=007``, ``run=1.10``, ``run=on`` and ``run=a #b`` are
    names; a number's field converts it.
    """
    values: Dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not a setting: write key=value (--help lists all settings)")
        if key in values:
            raise UserError(f"command line: setting '{key}' is given twice")
        try:
            written = json.dumps(text) if BRACED.match(text) else text
            value = OmegaConf.create(f"value: {written}").value if text else ""
        except Exception as error:  # the YAML parser's errors share no base with OmegaConf's
            raise UserError(f"command line: setting '{key}': cannot read the value {text!r}") from error
        raw = text.strip()
        scalar = isinstance(value, (str, int, float)) and raw[:1] not in ("'", '"')
        values[key] = raw if scalar and str(value).lower() != raw.lower() else value
    return values


def read_yaml(path: Path) -> Dict[str, Any]:
    """A YAML file as a mapping; an empty file is an empty mapping."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True, throw_on_missing=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such settings file") from error
    except Exception as error:
        told = " ".join(str(error).split()).replace(f' in "{path.absolute()}",', "")
        raise UserError(f"{path}: not a YAML mapping: {told}; text with ': ' or ' #' in it needs quotes") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a YAML mapping of key: value")
    return {str(k): v for k, v in loaded.items()}


def build(
    schema: Type[S],
    values: Mapping[str, Any],
    config_dir: Optional[Path] = None,
    config_file: Optional[Path] = None,
) -> S:
    """Settings from the schema's defaults, the data set's YAML and ``values``, checked.

    The YAML is ``config_file``, or ``<config_dir>/<dataset>.yaml`` or else ``<config_dir>/default.yaml``
    where that exists.
    """
    _key_errors(schema, list(values), "command line")
    config: DictConfig = OmegaConf.structured(schema)
    dataset = str(values.get("dataset", config.dataset))
    if config_file is None and config_dir is not None:
        likely = (config_dir / f"{dataset}.yaml", config_dir / "default.yaml")
        config_file = next((path for path in likely if path.is_file()), None)
    if config_file is not None:
        apply(config, schema, read_yaml(config_file), str(config_file))
    apply(config, schema, values, "command line")
    settings: S = OmegaConf.to_object(config)  # type: ignore[assignment]
    if not settings.dataset:
        raise UserError("setting 'dataset' is empty; name the data set: -d NAME")
    settings.check()
    return settings


def help_of_settings(
    schema: Type[Any],
    title: str = "settings (key=value, or in the YAML of the data set):",
    left_out: Sequence[str] = (),
) -> str:
    """Each setting with its default, the values it admits, and what it means."""
    lines = [title]
    defaults = as_dict(schema())
    for f in dataclasses.fields(schema):
        if f.name in left_out:
            continue
        default = defaults[f.name]
        choices = f.metadata.get("choices")
        one_of = f" [{' | '.join(map(str, choices))}]" if choices else ""
        lines.append(f"  {f.name} = {'null' if default is None else default}{one_of}")
        lines.append(f"      {f.metadata.get('help', '')}")
    return "\n".join(lines)


def parse(
    schema: Type[S],
    doc: Optional[str],
    config_dir: Optional[Path] = None,
    argv: Optional[List[str]] = None,
    extra: Sequence[Tuple[Tuple[str, ...], Dict[str, Any]]] = (),
    aliases: Sequence[Tuple[str, str, str]] = (),
    redoes: bool = True,
) -> Run[S]:
    """Parse a script's command line: ``-d DATASET [--config FILE] [key=value …]``.

    ``extra`` holds further ``add_argument`` calls as (names, keywords), ``aliases`` options that give a setting, as
    (option, setting, placeholder). ``redoes``: the script keeps what it made, and takes ``--force``. Prints the
    settings and exits for ``--print-config``.
    """
    parser = Parser(doc, help_of_settings(schema))
    parser.add_argument("-d", "--dataset", help="name of the data set")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML to use in place of the data set's")
    if redoes:
        parser.add_argument("--force", action="store_true", help="do the step again though its output stands")
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and stop")
    for names, keywords in extra:
        parser.add_argument(*names, **keywords)
    for option, name, placeholder in aliases:
        parser.add_argument(option, dest=name, metavar=placeholder, help=f"the same as {name}={placeholder} (below)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings; they win over the YAML")
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
    return Run(settings, redoes and arguments.force, arguments)
