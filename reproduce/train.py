"""Train a model on a data set, every step from the raw files on; steps whose output stands are skipped.

    bash run_train.sh                                       the quickstart: SICSRec on ml-100k
    bash run_train.sh SICSRec Bili_Food data_dir=DIR        DIR holds NineRec's raw files, or prepared ones
    bash run_train.sh SICSRec Bili_Food data_dir=DIR features_dir=DIR2     with stage 1's features at hand
    bash run_train.sh ADRec Scientific data_dir=DIR         text alone
    bash run_train.sh SICSRec ml-100k alpha=0.4 sft_content_encoder.epochs=3
    bash run_train.sh ADRec Scientific config=adrec/ours.yaml      settings from a YAML

key=value goes to every step that has the key, step.key=value to one step. epochs, learning_rate and
temperature without a step are stage 2's; those of stage 1 are sft_content_encoder.epochs and so on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from common.arguments import Parser
from common.errors import UserError, run_script
from common.features import check_there, features_path
from common.files import checksum, write_json
from common.settings import REPOSITORY, build, read_yaml, split_overrides, typed
from reproduce.steps import ID, PIPELINES, Step, pipeline, route
from stage1_content_modality_semantic_alignment import llm_driven_sample, sft_content_encoder
from stage1_content_modality_semantic_alignment.feature_export import ExportSettings
from stage1_content_modality_semantic_alignment.paths import strategy_of
from stage1_content_modality_semantic_alignment.strategy import seed_suffix
from stage2_sequence_preference_learning import SICSRec_main1
from stage2_sequence_preference_learning.search_space import check_space

Planned = List[Tuple[Step, Any]]


def with_config(values: Mapping[str, Any], steps: Sequence[Step] = ()) -> Dict[str, Any]:
    """Settings of the YAML that ``config`` names, as seen from here or from the project's folder; the others win.

    Raises:
        UserError: no such file, or none of the steps (if given) knows one of its keys.
    """
    given = dict(values)
    name = given.pop("config", None)
    if name is None:
        return given
    path = Path(str(name)) if Path(str(name)).is_file() else REPOSITORY / str(name)
    from_file = read_yaml(path)
    asked = list(steps) or [step for steps_of_one in PIPELINES.values() for step in steps_of_one]
    try:
        routed = route(asked, from_file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for step in asked:
        typed(step.schema, routed[step.name], str(path))
    return {**from_file, **given}


def plan(model: str, dataset: str, words: Sequence[str]) -> Planned:
    """Each step with its settings, checked before any of them runs."""
    steps = pipeline(model)
    values = with_config(split_overrides(words), steps)
    if "dataset" in values:
        raise UserError("the data set is the second argument: run_train.sh MODEL DATASET [key=value …]")
    routed = route(steps, values)
    final = build(steps[-1].schema, {**routed[steps[-1].name], "dataset": dataset}, steps[-1].configs)

    def settings_of(step: Step) -> Any:
        if model == "SICSRec" and step is ID:  # shares widths and heads with the step after it
            return SICSRec_main1.id_settings(final, routed[ID.name])
        return build(step.schema, {**routed[step.name], "dataset": dataset}, step.configs)

    planned = [*((step, settings_of(step)) for step in steps[:-1]), (steps[-1], final)]
    if getattr(final, "n_trials", 0):
        check_space(final)
    _name_strategy(planned)
    needed = [(step, settings) for step, settings in planned if _is_needed(step, final)]
    _name_features(needed)
    if any(getattr(settings, "losses", None) == [] for _, settings in needed):
        needed = [(step, settings) for step, settings in needed if step.script is not llm_driven_sample]
    return needed


def _name_strategy(planned: Planned) -> None:
    """Every step of stage 1 works on the pairs that this run's selector chooses."""
    with_strategy = [settings for _, settings in planned if hasattr(settings, "strategy")]
    if not with_strategy:
        return
    chooses = with_strategy[0]
    drawn = chooses.sample is not None or chooses.selector == "random"  # the pairs themselves depend on the seed
    for settings in with_strategy[1:]:
        settings.strategy = settings.strategy or strategy_of(chooses)
    chooses.strategy = strategy_of(chooses)
    for settings in with_strategy if drawn else []:
        settings.strategy += seed_suffix(chooses.seed)


def _name_features(planned: Planned) -> None:
    """Features of other pairs, losses or modalities than the data set's YAMLs say get a folder, known to stage 2."""
    final = planned[-1][1]
    exports = [(step, settings) for step, settings in planned if isinstance(settings, ExportSettings)]
    for _, tuning in [one for one in planned if isinstance(one[1], sft_content_encoder.Settings)]:
        for _, export in exports:
            export.modalities = export.modalities or tuning.modalities
    for step, export in exports:
        if export.features_dir is None:
            usual = build(step.schema, {"dataset": export.dataset, "variant": export.variant}, step.configs)
            if export.encoders_name != usual.encoders_name:
                export.features_dir = str(export.dataset_dir / export.encoders_name)
    folders = sorted({export.features_dir or "null" for _, export in exports})
    if len(folders) > 1:
        raise UserError(f"features_dir: {' and '.join(folders)}: text and image features go into one folder")
    if folders and folders != ["null"]:
        final.features_dir = folders[0]


def _is_needed(step: Step, final: Any) -> bool:
    if step is ID and getattr(final, "pretrain_id", None) is not None:
        return False
    if step.needs_features and final.features_dir is not None:
        return False
    return not step.modality or step.modality in final.modalities


def run_plan(planned: Planned, force: bool) -> Tuple[Path, Dict[str, float]]:
    """Run the steps in order; SICSRec starts from ID encoders trained with the settings of the step before it.

    Returns:
        The last step's folder, and each step's seconds.

    Raises:
        UserError: of a step, or another run replaced the features that this one made.
    """
    check_finished_features(planned)
    step_1: Dict[str, Any] = {}
    seconds: Dict[str, float] = {}
    exported: Dict[Path, str] = {}
    for number, (step, settings) in enumerate(planned, start=1):
        print(f"== {number}/{len(planned)} {step.name}", flush=True)
        start = time.perf_counter()
        if number == len(planned):
            _refuse_replaced(exported)
        if step.script is llm_driven_sample:
            for tuning in (one for _, one in planned if isinstance(one, sft_content_encoder.Settings)):
                sft_content_encoder.check_inputs(tuning)
        made = step.script.run(settings, force, **(step_1 if step.name == "SICSRec" else {}))
        if step is ID:
            step_1 = {"step_1": settings}
        if isinstance(settings, ExportSettings):
            path = features_path(settings.features_folder, settings.dataset, step.modality)
            exported[path] = checksum(path)
        seconds[step.name] = round(time.perf_counter() - start, 2)
        print(f"   {seconds[step.name]:.1f} s", flush=True)
    return made, seconds


def check_finished_features(planned: Planned) -> None:
    """Whether the features that features_dir names are there; those that a step makes come later.

    Raises:
        UserError: names the file and the cures.
    """
    final = planned[-1][1]
    made_here = any(isinstance(settings, ExportSettings) for _, settings in planned)
    if getattr(final, "features_dir", None) is not None and not made_here:
        for modality in final.modalities:
            check_there(features_path(Path(final.features_dir), final.dataset, modality))


def _refuse_replaced(exported: Mapping[Path, str]) -> None:
    """Stop where the features are no longer those that this run made, such as of another seed: folders are shared."""
    for path, digest in exported.items():
        if checksum(path) != digest:  # reproduce.run tries again what ends with these words
            raise UserError(f"{path}: another run is writing here, and replaced what this one made; start it again")


def _help_epilog() -> str:
    lines: Dict[str, None] = {}
    for model, steps in PIPELINES.items():
        lines[f"steps of {model}: {' → '.join(step.name for step in steps)}"] = None
    for step in dict.fromkeys((*PIPELINES["SICSRec"], *PIPELINES["ADRec"])):
        lines[f"settings of {step.name}: {', '.join(step.keys)}"] = None
    lines["--help of each script tells what its settings mean; --print-config what they are"] = None
    return "\n".join(lines)


def command_line(doc: Optional[str]) -> Parser:
    """MODEL, DATASET and words of settings; the quickstart without any."""
    parser = Parser(doc)
    parser.add_argument("model", nargs="?", default="SICSRec", help=", ".join(PIPELINES))
    parser.add_argument("dataset", nargs="?", default="ml-100k")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def read_command_line(parser: Parser, argv: Optional[List[str]]) -> argparse.Namespace:
    """Parse it.

    Raises:
        UserError: a setting stands where model or data set should.
    """
    arguments = parser.parse_intermixed_args(argv)
    if "=" in arguments.model + arguments.dataset:
        raise UserError("name MODEL and DATASET before settings, as in: SICSRec ml-100k alpha=0.4")
    return arguments


def main(argv: Optional[List[str]] = None) -> None:
    """Plan, then run."""
    parser = command_line(__doc__)
    parser.epilog = _help_epilog()
    parser.add_argument("--force", action="store_true", help="do every step again though its output stands")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write folder and seconds of each step here (JSON)")
    arguments = read_command_line(parser, argv)
    folder, seconds = run_plan(plan(arguments.model, arguments.dataset, arguments.overrides), arguments.force)
    if arguments.record is not None:
        write_json(arguments.record, {"folder": str(folder), "seconds": seconds})


if __name__ == "__main__":
    run_script(main)
