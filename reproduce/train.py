"""Train a model on a data set, from the raw files on. Steps that are up to date are skipped.

    bash run_train.sh                                       # SICSRec on ml-100k, with drawn covers
    bash run_train.sh SICSRec Bili_Food data_dir=DIR        # DIR holds NineRec's raw files, or prepared ones
    bash run_train.sh SICSRec Bili_Food data_dir=DIR features_dir=DIR2     # features are in DIR2: no stage 1
    bash run_train.sh ADRec Scientific data_dir=DIR
    bash run_train.sh SICSRec ml-100k alpha=0.4 sft_content_encoder.epochs=3
    bash run_train.sh ADRec Scientific config=adrec/ours.yaml      # settings from a YAML

key=value goes to each step that has the key, step.key=value to one step. epochs, learning_rate and temperature
without a step are those of stage 2; sft_content_encoder.epochs and so on are those of stage 1.
"""

from __future__ import annotations

from common.start import run_script

import argparse
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import yaml

from common.errors import UserError, nearest
from common.features import check_there, features_path
from common.files import write_text
from common.settings import REPOSITORY, CommonSettings, Parser, as_dict, build, read_yaml, split_overrides, typed
from reproduce.pipeline import PIPELINES, SCRIPTS, STAGE_1, Step, pipeline, route

BUILT_IN = "ml-100k"  # the recbole package contains it
Plan = List[Tuple[Step, CommonSettings]]


def with_config(values: Mapping[str, Any], steps: Sequence[Step]) -> Dict[str, Any]:
    """Replace the key ``config`` by the settings in that YAML; the other values win over these.

    The path is relative to the current folder, or else to the project's.

    Raises:
        UserError: no such file, or it has a key or value that the steps do not allow.
    """
    given = dict(values)
    name = given.pop("config", None)
    if name is None:
        return given
    path = Path(os.path.expanduser(str(name)))
    path = path if path.is_file() else REPOSITORY / path
    from_file = read_yaml(path)
    try:
        routed = route(steps, from_file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for step in steps:
        typed(step.schema, routed[step.name], str(path))
    return {**from_file, **given}


def plan(model: str, dataset: str, words: Sequence[str]) -> Plan:
    """The steps that are needed, each with its checked settings.

    Raises:
        UserError: an unknown model, or settings that are unknown, not allowed or contradict each other.
    """
    steps = pipeline(model)
    values = with_config(split_overrides(words), steps)
    if "dataset" in values:
        raise UserError("dataset is the second argument: run_train.sh MODEL DATASET [key=value …]")
    routed = route(steps, values)
    if model == "SICSRec":  # it trains the ID encoder with these settings if that is not up to date
        # a setting of both steps is left out where it is the same: trials have another seed, and step 1 then has theirs
        own, of_both = routed[model], steps[-1].script.OF_BOTH_STEPS
        extra = {k: v for k, v in routed["ID_SeqEncoder"].items() if k not in of_both or own.get(k) != v}
        own["step_1"] = {**own.get("step_1", {}), **extra}
    planned: Dict[str, Any] = {}
    for step in reversed(steps):
        if step.name == "ID_SeqEncoder" and model == "SICSRec":
            planned[step.name] = steps[-1].script.id_settings(planned[model])
        else:
            planned[step.name] = build(step.schema, {**routed[step.name], "dataset": dataset}, step.script.CONFIGS)
    last = planned[steps[-1].name]
    final = as_dict(last)
    if final.get("n_trials"):
        from stage2_sequence_preference_learning.search import check_space

        check_space(last)
    skipped: Set[str] = set()
    if final.get("features_dir") is not None:
        skipped.update(STAGE_1)
    for modality, export in (("text", "use_finetune_bert"), ("image", "use_finetune_swinbase")):
        if modality not in final.get("modalities", []):
            skipped.add(export)
    if "sft_content_encoder" in planned and not planned["sft_content_encoder"].losses:
        skipped.add("llm_driven_sample")
    if final.get("pretrain_id") is not None:
        skipped.add("ID_SeqEncoder")
    return [(step, planned[step.name]) for step in steps if step.name not in skipped]


def check_inputs(planned: Plan) -> None:
    """Check what can be checked before the first step: that the data set and finished features can be found.

    Raises:
        UserError: names the missing folder or file, and the setting to change.
    """
    settings, final = as_dict(planned[0][1]), as_dict(planned[-1][1])
    folder, dataset = Path(settings["datasets_dir"]), settings["dataset"]
    if settings["data_dir"] is None and dataset != BUILT_IN and not (folder / dataset).is_dir():
        names = [BUILT_IN, *(path.name for path in folder.glob("*") if path.is_dir())]
        raise UserError(
            f"no data set '{dataset}' in {folder}{nearest(dataset, names)}; set data_dir=FOLDER of its files"
        )
    if final.get("features_dir") is not None:
        for modality in final["modalities"]:
            check_there(features_path(Path(final["features_dir"]), dataset, modality))


def run_plan(planned: Plan, force: bool) -> Path:
    """Run the steps in their order. Returns the folder of the last step's run.

    Raises:
        UserError: from `check_inputs` or a step.
    """
    check_inputs(planned)
    settings_of: Dict[str, Any] = {step.name: settings for step, settings in planned}
    for number, (step, settings) in enumerate(planned, start=1):
        print(f"== {number}/{len(planned)} {step.name}", flush=True)
        start = time.perf_counter()
        if step.name == "llm_driven_sample":  # are the covers and encoders there, before an LLM is asked for hours?
            Step("sft_content_encoder").script.check_inputs(settings_of["sft_content_encoder"])
        script = step.script
        folder: Path = (script.train if hasattr(script, "train") else script.run)(settings, force)
        print(f"   {time.perf_counter() - start:.1f} s", flush=True)
    return folder


def parse_words(parser: Parser, argv: Optional[List[str]]) -> argparse.Namespace:
    """Add MODEL, DATASET and settings to the parser, and parse; without any it is SICSRec on ml-100k.

    Raises:
        UserError: a setting where the model or the data set belongs.
    """
    parser.add_argument("model", nargs="?", default="SICSRec", help=", ".join(PIPELINES))
    parser.add_argument("dataset", nargs="?", default="ml-100k")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    if "=" in arguments.model + arguments.dataset:
        raise UserError("name MODEL and DATASET before settings, as in: SICSRec ml-100k alpha=0.4")
    return arguments


def main(argv: Optional[List[str]] = None) -> None:
    """Plan, then run."""
    steps = [f"steps of {model}: {' → '.join(names)}" for model, names in PIPELINES.items()]
    scripts = [f"    python -m {module} --help" for module in SCRIPTS.values()]
    last = "    python -m reproduce.baseline MODEL --help"
    parser = Parser(__doc__, "\n".join([*steps, "settings of each step:", *scripts, last]))
    parser.add_argument("--force", action="store_true", help="do every step again, though it is up to date")
    parser.add_argument("--print-config", action="store_true", help="print the settings of all steps as YAML and exit")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the path of the run's folder here")
    arguments = parse_words(parser, argv)
    planned = plan(arguments.model, arguments.dataset, arguments.overrides)
    if arguments.print_config:  # config=FILE reads it
        values = {f"{step.name}.{key}": value for step, own in planned for key, value in as_dict(own).items()}
        print(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), end="")
        return
    folder = run_plan(planned, arguments.force)
    if arguments.record is not None:
        write_text(arguments.record, str(folder))


if __name__ == "__main__":
    run_script(main)
