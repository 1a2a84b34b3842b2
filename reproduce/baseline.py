"""Train a baseline, or a model of your own, on the splits, training loop and ranking of stage 2.

    python -m reproduce.baseline SASRec -d Bili_Food
    python -m reproduce.baseline GRU4Rec -d Bili_Food n_trials=20 seed=2025     # searches its search_space
    python -m reproduce.baseline UniSRec -d Bili_Food features_dir=DIR
    python -m reproduce.baseline mine.py:MyRec -d Bili_Food                     # reproduce/own_models.py

RecBole's networks: GRU4Rec, NARM, SASRec, BERT4Rec, CORE, FEARec, LightSANs, FDSA. Counted: Pop, Markov, ItemKNN.
On IDs: eSASRec. On stage 1's features: NearestContent, SASRecText, SASRecIDText, UniSRec, AlphaFuse, Ensemble.

Reads:  the prepared data set, reproduce/props/<model>/default.yaml; features, where the model has modalities
Writes: <results_dir>/<model>/<D>/<run>/ (common/run.py lists the files); a search: see stage 2's search.py
"""

from __future__ import annotations

from common.start import run_script

import dataclasses
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Type

from common.errors import UserError, nearest
from common.run import BEST, Run
from common.settings import Parser, build, parse
from common.splits import KEYS
from reproduce.baselines.settings import SCHEMAS, EnsembleSettings, RankingSettings
from stage2_sequence_preference_learning import content_encoder_main1, id_encoder_main1
from stage2_sequence_preference_learning.settings import SearchSettings

if TYPE_CHECKING:  # torch is imported after the settings are checked
    from stage2_sequence_preference_learning.data import EvalLoader
    from stage2_sequence_preference_learning.ranking_model import RankingModel

PROPS = Path(__file__).parent / "props"


@dataclass(frozen=True)
class Baseline:
    """A baseline with the names that the module of a script has: Settings, CONFIGS, train."""

    name: str
    Settings: Type[RankingSettings]
    own: Optional[Type[RankingModel]] = None  # the class of a user's model

    @property
    def CONFIGS(self) -> Path:
        """The folder of its YAML."""
        return PROPS / self.name

    def models(self) -> Mapping[str, Type[RankingModel]]:
        """All models by name, for `load_model`."""
        from reproduce.baselines.ensemble import MODELS

        return {**MODELS, self.name: self.own} if self.own else MODELS

    def train(self, settings: RankingSettings, force: bool = False) -> Path:
        """Train and test, unless the run is up to date; with ``n_trials`` search first. Returns the run's folder."""
        if isinstance(settings, SearchSettings) and settings.n_trials:
            from stage2_sequence_preference_learning.search import search

            settings = search(self.name, settings, self.train, force)
        if isinstance(settings, EnsembleSettings):
            settings = with_parts(settings)
        with Run(self.name, settings, settings.input_files(), force) as run:
            if run.finished:
                return run.folder
            from common.training import fit, test
            from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits

            data = load_splits(settings)
            model = self.models()[self.name](settings, data).to(run.compute.device)
            valid = EvalLoader(data.valid, data.n_items, run.processes)
            if any(parameter.requires_grad for parameter in model.parameters()):
                train_rows = TrainLoader(data.train, settings.train_batch_size, settings.seed, run.processes)
                fit(model, train_rows, valid, settings, run)
            else:
                choose(model, valid, settings, run)
            test(model, EvalLoader(data.test, data.n_items, run.processes), run)
        return run.folder


def find(name: str) -> Baseline:
    """The baseline of that name, or the user's model FILE.py:CLASS.

    Raises:
        UserError: there is none, or CLASS is the name of another model.
    """
    if ".py:" in name:
        from reproduce.own_models import load_own

        model, settings = load_own(name)
        return Baseline(model.__name__, settings, model)
    if name not in SCHEMAS:
        available = f"available: {', '.join(SCHEMAS)}, FILE.py:CLASS"
        raise UserError(f"unknown model '{name}'{nearest(name, SCHEMAS)}; {available}")
    return Baseline(name, SCHEMAS[name])


def choose(model: RankingModel, valid: EvalLoader, settings: RankingSettings, run: Run) -> None:
    """Validate each option of a model without trained parameters; keep the best one, of equal ones the first."""
    from common.checkpoints import save_checkpoint
    from common.training import count_parameters, validate

    metric, started = settings.valid_metric, time.perf_counter()
    best: Dict[str, Any] = {}
    for option in model.options:
        model.choose(option)
        found = validate(model, valid, run, settings)
        logging.info(f"option {option:g}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        if not best or found[metric] > best["valid"][metric]:
            best = {"valid": found, "best_epoch": 0, "epochs": 0}
            if run.processes.first:
                content = {"state_dict": model.weights_to_use(), "epoch": 0, "about": run.about}
                save_checkpoint(run.folder / BEST, content)
    cost = {"seconds": round(time.perf_counter() - started, 2), "parameters": count_parameters(model)}
    if run.processes.first:
        run.write_metrics({**best, **cost, "operations_per_epoch": None})
    run.processes.agree(None)


def with_parts(settings: EnsembleSettings) -> EnsembleSettings:
    """The ensemble's settings with both checkpoints. A part that has none is trained, unless its run is up to date."""
    shared = ["dataset", "datasets_dir", "results_dir", "max_seq_length", "device", "precision", "seed", *KEYS]
    training = ["train_batch_size", "learning_rate", "clip_grad_norm", "epochs", "stopping_step", "search_seed"]
    of_features = ["modalities", "strategy", "features_dir"]
    scripts: Dict[str, Any] = {"ID_SeqEncoder": id_encoder_main1, "Content_SeqEncoder": content_encoder_main1}
    found: Dict[str, Any] = {}
    for key, part in (("id_checkpoint", settings.id_part), ("text_checkpoint", settings.text_part)):
        if key in settings.checkpoints():
            continue
        names = shared + (of_features if key == "text_checkpoint" else []) + ([] if part in scripts else training)
        values = {name: getattr(settings, name) for name in names}
        if part not in scripts:
            values["n_trials"] = settings.part_trials
        step = scripts.get(part) or find(part)
        found[key] = str(step.train(build(step.Settings, values, step.CONFIGS)) / BEST)
    return dataclasses.replace(settings, **found)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        parser = Parser(__doc__)
        parser.add_argument("MODEL", help=f"{', '.join(SCHEMAS)}, FILE.py:CLASS; MODEL --help lists its settings")
        parser.print_help()
        return
    baseline = find(words[0])
    doc = f"{baseline.Settings.__doc__}\n\n    python -m reproduce.baseline {words[0]} -d DATASET"
    command = parse(baseline.Settings, doc, baseline.CONFIGS, words[1:])
    baseline.train(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
