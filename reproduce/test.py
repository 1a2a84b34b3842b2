"""Test what was trained: every run of a model on a data set, as a table of mean ± std over seeds.

    bash run_test.sh                                the quickstart: SICSRec on ml-100k
    bash run_test.sh SICSRec Bili_Food              all runs, those of the ID encoder above them
    bash run_test.sh SICSRec Bili_Food alpha=0.2    only runs with this setting

A run is tested once, with its best epoch on validation; the result stays in its metrics.json.
Writes <results_dir>/<model>/<dataset>/table.{md,csv}; of some runs table-seed-7.*, with --masked table-masked.*
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from adrec import test_main as adrec_test
from adrec.settings import SWITCHES as ADREC_SWITCHES
from common.device import Compute, pick_compute
from common.errors import UserError, nearest, run_script
from common.features import MODALITIES
from common.files import read_json, read_text, write_text
from common.processes import Processes
from common.settings import PrecisionSettings, as_dict, build, help_of_settings, setting, split_overrides, typed
from reproduce import scores
from reproduce.formats import aligned, name_part
from reproduce.lineage import OTHER_SCHEMAS, lineage_of_run, schema_of
from reproduce.steps import ID, pipeline
from reproduce.train import command_line, read_command_line
from stage2_sequence_preference_learning.evaluation import test_run
from stage2_sequence_preference_learning.settings import CHECKPOINTS, NOT_SHAPING
from stage2_sequence_preference_learning.settings import SWITCHES as STAGE2_SWITCHES

SWITCHES = (*STAGE2_SWITCHES, *ADREC_SWITCHES)
METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")
MASKED = "the metrics with the history masked (NineRec's protocol)"
UNTOLD = ("dataset", "seed", "variant", "precision", "modalities")  # told elsewhere, or alike in all rows


@dataclass
class Settings(PrecisionSettings):
    """Where runs lie; any setting of the model may be given too, and picks the runs that have it."""

    results_dir: str = setting("results", "where runs lie")


@dataclass
class Run:
    """A trained run: its folder, recipe and results."""

    folder: Path
    made_from: Dict[str, Any]
    result: Dict[str, Any]

    def label(self) -> str:
        """Model, variant, and what differs from the model's defaults."""
        settings, schema = self.made_from["settings"], schema_of(self.result["model"])
        defaults = {**as_dict(schema()), "processes": 1}
        switched = settings.get("variant") == "paper"
        told = [settings["variant"]] if "variant" in settings else []
        if "modalities" in settings and settings["modalities"] != defaults["modalities"]:
            told.append("+".join(settings["modalities"]))
        for key, value in settings.items():
            usual = switched if key in SWITCHES else defaults.get(key)
            if key not in (*UNTOLD, *CHECKPOINTS) and value != usual:
                told.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
        for source in {
            Path(entry["path"]).parent for name, entry in self.made_from["inputs"].items() if name in MODALITIES
        }:
            name = re.sub(r"-seed\d+$", "", source.name)
            if name != settings.get("dataset"):
                told.append(f"features of {name}/")
        if self.result["model"] == "SICSRec" and "id_encoder" not in self.made_from["inputs"]:
            told.append("pretrain_id=none")
        return self.result["model"] + (f" ({', '.join(told)})" if told else "")

    def kind(self) -> str:
        """What runs that differ by their seed alone have in common."""
        return repr(lineage_of_run(self.result["model"], self.folder, self.made_from))


def find_runs(results_dir: str, model: str, dataset: str, wanted: Dict[str, Any]) -> List[Run]:
    """Finished runs whose settings are as wanted, in the order of their names; what a run does not tell, is default.

    Raises:
        UserError: a setting that the model does not have, or a value that it does not admit.
    """
    folder = Path(results_dir) / model / dataset
    wanted = typed(schema_of(model), wanted, "command line")  # 007 is a word, and 7 what it says
    runs = []
    for path in sorted(folder.glob("*/metrics.json")):
        run = Run(path.parent, read_json(path.parent / "made.json"), read_json(path))
        settings = {**as_dict(schema_of(model)()), **run.made_from["settings"]}
        if all(settings[key] == value for key, value in wanted.items()):
            runs.append(run)
    return runs


def test_all(runs: List[Run], datasets_dir: str, compute: Compute) -> None:
    """Test the runs that have not been tested."""
    for run in runs:
        if run.result["model"] in OTHER_SCHEMAS:
            module = adrec_test if run.result["model"] == "ADRec" else scores
            run.result = module.test_run(run.folder, datasets_dir, compute)
        else:
            run.result = test_run(run.folder, datasets_dir, compute, Processes())


def mean_and_deviation(values: List[float]) -> str:
    """Over seeds; of one value there is no deviation."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def table(runs: List[Run], split: str) -> List[List[str]]:
    """Header and one row per kind of run: label, seeds, test metrics, validation, seconds of training."""
    kinds: Dict[str, List[Run]] = {}
    for run in runs:
        kinds.setdefault(run.kind(), []).append(run)
    rows = [["model", "seeds", *(m.upper() for m in METRICS), "valid HIT@10", "valid NDCG@10", "epochs", "train s"]]
    labels = [group[0].label() for group in kinds.values()]
    for label, alike in zip(labels, kinds.values()):
        group = list({run.made_from["settings"]["seed"]: run for run in reversed(alike)}.values())[::-1]
        valid = [statistics.fmean(run.result["valid"][m] for run in group) for m in ("hit@10", "ndcg@10")]
        epochs = statistics.fmean(run.result["epochs"] for run in group)
        seconds = statistics.fmean(run.result["seconds"] for run in group)
        again = f" ({len(alike)} runs)" if len(alike) > len(group) else ""  # of a seed, the first counts
        row = [
            label if labels.count(label) == 1 else f"{label}: {group[0].folder.name}",
            f"{len(group)}{again}",
            *(mean_and_deviation([run.result[split][m] for run in group]) for m in METRICS),
        ]
        rows.append([*row, *(f"{value:.4f}" for value in valid), f"{epochs:.0f}", f"{seconds:.0f}"])
    return rows


def main(argv: Optional[List[str]] = None) -> None:
    """Find the runs, test them, print and write the table."""
    parser = command_line(__doc__)
    picking = "any setting that shapes a run's numbers, such as alpha=0.2 or seed=7, picks the runs that have it"
    parser.epilog = help_of_settings(Settings, "settings (key=value):", ["dataset"]) + f"\n{picking}"
    parser.add_argument("--masked", action="store_true", help=MASKED)
    arguments = read_command_line(parser, argv)
    steps, dataset = pipeline(arguments.model), arguments.dataset
    model = steps[-1].name
    trained = dict.fromkeys([ID.name, model] if ID in steps else [model])
    values = split_overrides(arguments.overrides)
    own = {k: v for k, v in values.items() if k in as_dict(Settings())}
    wanted = {k: v for k, v in values.items() if k not in own}
    known = {*(set(as_dict(schema_of(model)())) - set(NOT_SHAPING)), *as_dict(Settings())}
    for key in wanted:
        if key not in known:
            if key == "masked":
                raise UserError("--masked, without a value, prints the metrics with the history masked")
            raise UserError(
                f"'{key}' neither picks runs nor says where they lie{nearest(key, known)} "
                f"(run_test.sh takes {', '.join(sorted(known))})"
            )
    settings = build(Settings, {**own, "dataset": dataset})
    compute = pick_compute(settings.device, settings.precision)
    runs = []
    for name in trained:
        has = {k: v for k, v in wanted.items() if k in as_dict(schema_of(name)())}
        runs += find_runs(settings.results_dir, name, dataset, has)
    if not any(run.result["model"] == model for run in runs):
        raise UserError(
            f"no trained run of {model} on {dataset} in {settings.results_dir}; "
            f"train with: bash run_train.sh {arguments.model} {dataset}"
        )
    test_all(runs, settings.datasets_dir, compute)
    rows = table(runs, "test_masked" if arguments.masked else "test")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    folder = Path(settings.results_dir) / model / dataset
    name = f"table{''.join(f'-{name_part(key, str(value))}' for key, value in wanted.items())}"
    name += "-masked" if arguments.masked else ""
    write_text(folder / f"{name}.csv", text.getvalue())
    write_text(folder / f"{name}.md", aligned(rows))
    n_users = len(read_text(runs[-1].folder / "ranks.csv").splitlines()) - 1
    history = "masked" if arguments.masked else "unmasked"
    print(f"{dataset}: test, {n_users} users, all items ranked, history {history}, ties at their mean rank")
    print(aligned(rows), end="")
    print(f"written to {folder}/{name}.md and .csv")


if __name__ == "__main__":
    run_script(main)
