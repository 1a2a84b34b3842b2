"""Test the trained runs of a model on a data set; print mean ± standard deviation over seeds.

    bash run_test.sh                                # SICSRec on ml-100k
    bash run_test.sh SICSRec Bili_Food              # all runs, after those of the ID encoder
    bash run_test.sh SICSRec Bili_Food alpha=0.2    # only runs with this setting

Each run is tested once, with the checkpoint that is best on validation; its metrics.json keeps the result.
Writes <results_dir>/<model>/<dataset>/table.{md,csv}; of selected runs table-alpha=0.2.*, with --masked table-masked.*
"""

from __future__ import annotations

from common.start import run_script

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pandas as pd

from common.errors import UserError, nearest
from common.features import MODALITIES
from common.files import file_name, read_json, write_text
from common.run import BEST, MADE
from common.settings import (
    DeviceSettings,
    Parser,
    as_dict,
    build,
    help_of_settings,
    read_yaml,
    setting,
    split_overrides,
    typed,
)
from reproduce.formats import mean_and_std
from reproduce.pipeline import Step, pipeline
from reproduce.ranks import METRICS
from reproduce.train import parse_words

CHECKPOINTS = ("id_checkpoint", "text_checkpoint")  # settings that name other runs, which are inputs too
NOT_IN_LABEL = ("dataset", "seed", "variant", "precision", *CHECKPOINTS)
SEEDED = (*MODALITIES, "scores", "valid_scores")  # inputs whose path may hold the seed


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
            if key not in NOT_IN_LABEL and value != defaults.get(key):
                text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
                parts.append("+".join(value) if key == "modalities" else f"{key}={text}")
        folders = {Path(inputs[name]["path"]).parent.name for name in MODALITIES if name in inputs}
        names = sorted(folders - {self.result["dataset"], variant})
        parts += [f"features of {any_seed(name, seed)}/" for name in names]
        if self.step.name == "SICSRec" and "id_encoder" not in inputs:
            parts.append("pretrain_id=none")
        return f"{self.step.name} ({', '.join(parts)})" if parts else self.step.name

    def test(self, places: Mapping[str, str]) -> None:
        """Test the run, unless that was done before; ``places`` are device, results_dir and datasets_dir."""
        if "test" not in self.result:
            own = {**read_yaml(self.folder / "settings.yaml"), **places, "run": self.folder.name, "test": True}
            self.step.script.train(build(self.step.schema, own))  # it is trained, so this only tests
            self.result = read_json(self.folder / "metrics.json")


def any_seed(name: str, seed: int) -> str:
    """The name of a file or folder with ``{seed}`` in place of the seed."""
    return re.sub(rf"(?<!\d){seed}(?!\d)", "{seed}", name)


def without_seed(made_from: Mapping[str, Any], results_dir: Path) -> Dict[str, Any]:
    """What runs have in common that differ by their seed alone: settings, and inputs by their content.

    A checkpoint of another run in ``results_dir`` counts by what that run was made from, and features and scores with
    the seed in their path by that path.
    """
    seed = made_from["settings"]["seed"]
    inputs: Dict[str, Any] = {}
    for name, entry in made_from["inputs"].items():
        path = Path(entry["path"])
        of_run = results_dir.joinpath(*path.parts[-4:-1], MADE)
        other = read_json(of_run) if path.name == BEST and of_run.is_file() else None
        place = "/".join(path.parts[-2:])
        if other and other["outputs"]["best"]["sha256"] == entry["sha256"]:
            inputs[name] = without_seed(other, results_dir)
        elif name in SEEDED and any_seed(place, seed) != place:
            inputs[name] = any_seed(place, seed)
        else:
            inputs[name] = entry["sha256"]
    settings = {k: v for k, v in made_from["settings"].items() if k not in ("seed", *CHECKPOINTS)}
    return {"step": made_from["step"], "settings": settings, "inputs": inputs}


def find_runs(step: Step, results_dir: Path, dataset: str, wanted: Mapping[str, Any]) -> List[Run]:
    """The finished runs with the wanted settings, in the order of their names.

    Raises:
        UserError: a value that the setting does not allow.
    """
    wanted, defaults = typed(step.schema, wanted, "command line"), as_dict(step.schema())
    runs = []
    for path in sorted((results_dir / step.name / dataset).glob(f"*/{MADE}")):
        settings = {**defaults, **read_yaml(path.with_name("settings.yaml"))}  # older runs have fewer
        if all(settings[key] == value for key, value in wanted.items()):
            runs.append(Run(step, path.parent, read_json(path), read_json(path.with_name("metrics.json"))))
    return runs


def table(runs: List[Run], split: str, results_dir: Path) -> pd.DataFrame:
    """A row for the runs that differ by their seed alone: test metrics, validation, epochs, seconds of training."""
    lines = []
    for run in runs:
        seed, result = run.made_from["settings"]["seed"], run.result
        lines.append(
            {
                "group": repr(without_seed(run.made_from, results_dir)),
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
    n_runs = every.groupby("group", sort=False).size()
    groups = every.drop_duplicates(["group", "seed"]).groupby("group", sort=False)  # of a seed, the first run counts
    first = groups.first()
    shared = first["model"].duplicated(keep=False)
    found = pd.DataFrame({"model": first["model"].where(~shared, first["model"] + ": " + first["folder"])})
    found["seeds"] = [
        f"{n}" if n == all_runs else f"{n} ({all_runs} runs)" for n, all_runs in zip(groups.size(), n_runs)
    ]
    for metric in METRICS:
        found[metric.upper()] = groups[metric.upper()].agg(mean_and_std)
    for column, digits in {"valid HIT@10": 4, "valid NDCG@10": 4, "epochs": 0, "train s": 0}.items():
        found[column] = groups[column].mean().map(f"{{:.{digits}f}}".format)
    return found.reset_index(drop=True)


def main(argv: Optional[List[str]] = None) -> None:
    """Find the runs, test them, print and write the table."""
    epilog = help_of_settings(Settings, "settings (key=value):", ["dataset"])
    selects = "any setting of the model, such as alpha=0.2 or seed=7, selects the runs that have it"
    parser = Parser(__doc__, f"{epilog}\n{selects}")
    parser.add_argument("--masked", action="store_true", help="results with the history masked (NineRec's protocol)")
    arguments = parse_words(parser, argv)
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
    name = file_name("-".join(["table", *selected])) + ("-masked" if arguments.masked else "")
    path = results_dir / final.name / settings.dataset / name
    text = found.to_markdown(index=False, disable_numparse=True) + "\n"
    n_users = len(pd.read_csv(runs[-1].folder / "ranks.csv"))
    history = "masked" if arguments.masked else "unmasked"
    print(f"{settings.dataset}: test, {n_users} users, all items ranked, history {history}, ties at their mean rank")
    print(text, end="")
    write_text(path.with_name(f"{name}.md"), text)
    write_text(path.with_name(f"{name}.csv"), found.to_csv(index=False, lineterminator="\n"))
    print(f"written to {path}.md and .csv")


if __name__ == "__main__":
    run_script(main)
