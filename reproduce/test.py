"""Test the trained runs of a model on a data set; print mean ± standard deviation over seeds.

    bash run_test.sh                                the quickstart: SICSRec on ml-100k
    bash run_test.sh SICSRec Bili_Food              all runs, after those of the ID encoder
    bash run_test.sh SICSRec Bili_Food alpha=0.2    only runs with this setting

Each run is tested once, with the checkpoint that is best on validation; its metrics.json keeps the result.
Writes <results_dir>/<model>/<dataset>/table.{md,csv}; of selected runs table-alpha=0.2.*, with --masked table-masked.*
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pandas as pd

from common.errors import UserError, nearest, run_script
from common.files import checksum, read_json, read_text, write_text
from common.settings import (
    DeviceSettings,
    as_dict,
    build,
    help_of_settings,
    read_yaml,
    setting,
    split_overrides,
    typed,
)
from reproduce.pipeline import Step, pipeline
from reproduce.ranks import METRICS
from reproduce.train import command_line, read_command_line

MASKED = "the metrics with the history masked (NineRec's protocol)"
CHECKPOINTS = ("id_checkpoint", "text_checkpoint")  # settings that name other runs, which are inputs too
NOT_IN_LABEL = ("dataset", "seed", "variant", "precision", *CHECKPOINTS)
MODALITIES = ("text", "image")


@dataclass
class Settings(DeviceSettings):
    """Where the runs are. Any setting of the model may be given too and selects the runs that have it."""

    results_dir: str = setting("results", "folder of the runs")


@dataclass
class Run:
    """A trained run."""

    step: Step
    folder: Path
    made_from: Dict[str, Any]  # made.json
    result: Dict[str, Any]  # metrics.json

    def label(self) -> str:
        """Model, variant, and the settings that differ from the model's defaults."""
        settings, inputs = self.made_from["settings"], self.made_from["inputs"]
        variant, seed = settings.get("variant"), settings["seed"]
        defaults = {**as_dict(self.step.schema(**({"variant": variant} if variant else {}))), "processes": 1}
        parts = [variant] if variant else []
        for key, value in settings.items():
            default = defaults.get(key)
            if default is None and isinstance(value, bool):  # a switch, which follows the variant
                default = variant == "paper"
            if key not in NOT_IN_LABEL and value != default:
                text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
                parts.append("+".join(value) if key == "modalities" else f"{key}={text}")
        folders = {Path(inputs[name]["path"]).parent.name for name in MODALITIES if name in inputs}
        names = sorted(folders - {self.result["dataset"], variant})
        parts += [f"features of {any_seed(name, seed)}/" for name in names]
        if self.step.name == "SICSRec" and "id_encoder" not in inputs:
            parts.append("pretrain_id=none")
        return f"{self.step.name} ({', '.join(parts)})" if parts else self.step.name

    def test(self, places: Mapping[str, str]) -> None:
        """Test the run, unless that was done before.

        Args:
            places: device, results_dir and datasets_dir.
        """
        if "test" not in self.result:
            own = {**read_yaml(self.folder / "settings.yaml"), **places, "run": self.folder.name, "test": True}
            self.step.script.train(build(self.step.schema, own))  # it is trained, so this only tests
            self.result = read_json(self.folder / "metrics.json")


def without_seed(content: Any) -> Any:
    """Settings without seeds and the checkpoints of other runs."""
    if isinstance(content, dict):
        return {k: without_seed(v) for k, v in content.items() if k not in ("seed", *CHECKPOINTS)}
    return [without_seed(value) for value in content] if isinstance(content, list) else content


def any_seed(name: str, seed: int) -> str:
    """The name of a file or folder with ``{seed}`` in place of the seed."""
    return re.sub(rf"(?<!\d){seed}(?!\d)", "{seed}", name)


def lineage(made_from: Mapping[str, Any], seed: int, results_dir: Path) -> Dict[str, Any]:
    """What runs have in common that differ by their seed alone.

    It is the record without seeds. In place of an input it has the lineage of the step that made it, where that left
    a record; else, of features and scores, the path, if the seed is part of it; else the checksum.
    """
    inputs: Dict[str, Any] = {}
    for name, entry in sorted(made_from["inputs"].items()):
        path = Path(entry["path"])
        moved = results_dir.joinpath(*path.parts[-4:])  # a checkpoint of results that were moved
        record = record_of(path, entry["sha256"]) or record_of(moved, entry["sha256"])
        if record is not None:
            inputs[name] = lineage(record, seed, results_dir)
        else:
            end = "/".join(path.parts[-2:])
            named = any_seed(end, seed) if name in (*MODALITIES, "scores", "valid_scores") else end
            inputs[name] = named if named != end else entry["sha256"]
    return {"step": made_from["step"], "settings": without_seed(made_from["settings"]), "inputs": inputs}


def record_of(path: Path, sha256: str) -> Optional[Dict[str, Any]]:
    """The record of the step that made a file or folder, if both are there and the content is still the same."""
    if not path.exists() or checksum(path) != sha256:
        return None
    for record in (path.with_suffix(".json"), *(path.with_name(f"{name}.json") for name in ("made", "sft", "summary"))):
        if record.is_file():
            content: Dict[str, Any] = read_json(record)
            return content
    return None


def find_runs(step: Step, results_dir: Path, dataset: str, wanted: Mapping[str, Any]) -> List[Run]:
    """The finished runs with the wanted settings, in the order of their names.

    Raises:
        UserError: a value that the setting does not allow.
    """
    wanted = typed(step.schema, wanted, "command line")
    runs = []
    for path in sorted((results_dir / step.name / dataset).glob("*/metrics.json")):
        run = Run(step, path.parent, read_json(path.with_name("made.json")), read_json(path))
        settings = {**read_yaml(path.with_name("settings.yaml")), **run.made_from["settings"]}
        if all(settings[key] == value for key, value in wanted.items()):
            runs.append(run)
    return runs


def table(runs: List[Run], split: str, results_dir: Path) -> pd.DataFrame:
    """A row for the runs that differ by their seed alone: test metrics, validation, epochs, seconds of training."""
    lines = []
    for run in runs:
        seed, result = run.made_from["settings"]["seed"], run.result
        lines.append(
            {
                "group": repr(lineage(run.made_from, seed, results_dir)),
                "model": run.label(),
                "folder": run.folder.name,
                "seed": seed,
                **{metric.upper(): result[split][metric] for metric in METRICS},
                **{f"valid {metric.upper()}": result["valid"][metric] for metric in ("hit@10", "ndcg@10")},
                "epochs": result["epochs"],
                "train s": result["seconds"],
            }
        )
    every = pd.DataFrame(lines)
    groups = every.drop_duplicates(["group", "seed"]).groupby("group", sort=False)  # of a seed, the first run counts
    first, mean, std = groups.first(), groups.mean(numeric_only=True), groups.std(numeric_only=True)
    n_seeds, n_runs = groups.size(), every.groupby("group", sort=False).size()
    shared = first["model"].duplicated(keep=False)
    found = pd.DataFrame({"model": first["model"].where(~shared, first["model"] + ": " + first["folder"])})
    found["seeds"] = [f"{n}" if n == all_runs else f"{n} ({all_runs} runs)" for n, all_runs in zip(n_seeds, n_runs)]
    for metric in (m.upper() for m in METRICS):
        found[metric] = [f"{m:.4f}" + ("" if s != s else f" ± {s:.4f}") for m, s in zip(mean[metric], std[metric])]
    for column, digits in {"valid HIT@10": 4, "valid NDCG@10": 4, "epochs": 0, "train s": 0}.items():
        found[column] = [f"{value:.{digits}f}" for value in mean[column]]
    return found.reset_index(drop=True)


def main(argv: Optional[List[str]] = None) -> None:
    """Find the runs, test them, print and write the table."""
    parser = command_line(__doc__)
    parser.epilog = help_of_settings(Settings, "settings (key=value):", ["dataset"])
    parser.epilog += "\nany setting of the model, such as alpha=0.2 or seed=7, selects the runs that have it"
    parser.add_argument("--masked", action="store_true", help=MASKED)
    arguments = read_command_line(parser, argv)
    *earlier, final = pipeline(arguments.model)
    values = split_overrides(arguments.overrides)
    own = {key: value for key, value in values.items() if key in as_dict(Settings())}
    wanted = {key: value for key, value in values.items() if key not in own}
    for key in wanted:
        if key not in final.keys:
            raise UserError(f"'{key}' is not a setting of {final.name}{nearest(key, final.keys)} (see --help)")
    settings = build(Settings, {**own, "dataset": arguments.dataset})
    results_dir = Path(settings.results_dir)
    runs: List[Run] = []
    for step in [*(step for step in earlier if step.name == "ID_SeqEncoder"), final]:
        known = {key: value for key, value in wanted.items() if key in step.keys}
        runs += find_runs(step, results_dir, settings.dataset, known)
    if not any(run.step == final for run in runs):
        again = f"train with: bash run_train.sh {arguments.model} {settings.dataset}"
        raise UserError(f"{results_dir}: no trained run of {final.name} on {settings.dataset}; {again}")

    for run in runs:
        run.test({key: value for key, value in as_dict(settings).items() if key != "dataset"})
    found = table(runs, "test_masked" if arguments.masked else "test", results_dir)
    selected = [f"{key}={value}" for key, value in wanted.items()]
    name = re.sub(r"[^\w.=-]+", "_", "-".join(["table", *selected, *(["masked"] if arguments.masked else [])]))
    path = results_dir / final.name / settings.dataset / name
    text = found.to_markdown(index=False, disable_numparse=True) + "\n"
    write_text(path.with_name(f"{name}.md"), text)
    write_text(path.with_name(f"{name}.csv"), found.to_csv(index=False, lineterminator="\n"))
    n_users = len(read_text(runs[-1].folder / "ranks.csv").splitlines()) - 1
    history = "masked" if arguments.masked else "unmasked"
    print(f"{settings.dataset}: test, {n_users} users, all items ranked, history {history}, ties at their mean rank")
    print(text, end="")
    print(f"written to {path}.md and .csv")


if __name__ == "__main__":
    run_script(main)
