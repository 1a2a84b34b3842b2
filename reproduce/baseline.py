"""Train a baseline on the split of stage 2, by its trainer, loaders and ranking; results in the same form.

    python -m reproduce.baseline SASRec -d Bili_Food
    python -m reproduce.baseline GRU4Rec -d Bili_Food n_trials=20 seed=2025
    python -m reproduce.baseline UniSRec -d Bili_Food features_dir=DIR

RecBole's: GRU4Rec, NARM, SASRec, BERT4Rec, CORE, FEARec, LightSANs, FDSA. Counted: Pop, Markov, ItemKNN.
Ours: NearestContent (nothing is trained), SASRecText, SASRecIDText, UniSRec, Ensemble.
Yours: FILE.py:CLASS (reproduce/own_models.py).
Settings and search space: reproduce/props/<model>/.
A search runs with search_seed and is shared by all seeds; n_trials is its budget, printed with its best.

Reads:  <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter; features where modalities names them
Writes: <results_dir>/<model>/<D>/<run>/ as stage 2 does (docs/stage2.md)
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Type

from common.arguments import Parser
from common.errors import UserError, nearest, run_script
from common.settings import build, parse
from reproduce.baselines.counted import COUNTED
from reproduce.baselines.features import OURS
from reproduce.baselines.neural import NEURAL
from reproduce.baselines.padded import PADDED
from reproduce.baselines.settings import SCHEMAS
from reproduce.own_models import is_own, load_own
from stage2_sequence_preference_learning import content_encoder_main1, id_encoder_main1, models
from stage2_sequence_preference_learning import settings as stage2_settings
from stage2_sequence_preference_learning.search import train_or_search

PROPS = Path(__file__).parent / "props"
MODELS = {**COUNTED, **NEURAL, **PADDED, **OURS}
models.OTHERS.update(MODELS)
stage2_settings.OTHERS.update(SCHEMAS)


def known(name: str) -> str:
    """The name under which a baseline, or FILE.py:CLASS, is known from here on.

    Raises:
        UserError: there is none of that name, or the class bears that of another model.
    """
    if not is_own(name):
        if name not in MODELS:
            raise UserError(f"unknown model '{name}'{nearest(name, MODELS)}; there are {', '.join(MODELS)}")
        return name
    model, settings = load_own(name)
    short = model.__name__
    if short in (*models.MODELS, *MODELS, "ADRec", "Scores"):
        raise UserError(f"{name}: {short} is the name of a model that is here already; give yours another")
    models.OTHERS[short], stage2_settings.OTHERS[short] = model, settings
    return short


@dataclass(frozen=True)
class Baseline:
    """A baseline as a step: what a script of stage 2 offers as a module."""

    model: str

    @property
    def Settings(self) -> Type[Any]:
        """Its settings."""
        return stage2_settings.schema_of(self.model)

    @property
    def source(self) -> Optional[Path]:
        """The file of a user's model."""
        return models.model_class(self.model).source

    @property
    def CONFIGS(self) -> Path:
        """Its YAMLs."""
        return PROPS / self.model

    def run(self, settings: Any, force: bool = False) -> Path:
        """Search if asked to, train, test; returns the run's folder."""
        starts_from = {"complete": with_parts} if self.model == "Ensemble" else {}
        return train_or_search(self.model, settings, force, **starts_from)


def with_parts(settings: Any) -> Any:
    """The ensemble's settings with both checkpoints; a model without one is trained first, as it would be by itself."""
    shared = ["dataset", "datasets_dir", "results_dir", "max_seq_length", "device", "precision", "seed"]
    training = ["train_batch_size", "learning_rate", "clip_grad_norm", "epochs", "stopping_step", "search_seed"]
    ours = {"ID_SeqEncoder": id_encoder_main1, "Content_SeqEncoder": content_encoder_main1}  # with YAMLs of their own
    found = {}
    for kind in ("id", "text"):
        key, part = f"{kind}_checkpoint", getattr(settings, f"{kind}_part")
        if getattr(settings, key) is not None:
            continue
        step: Any = ours.get(part) or Baseline(part)
        names = shared + (["features_dir", "modalities"] if kind == "text" else [])
        values = {name: getattr(settings, name) for name in (names if part in ours else names + training)}
        if part not in ours:
            values["n_trials"] = settings.part_trials
        found[key] = str(step.run(build(step.Settings, values, step.CONFIGS)) / "best.pth")
    return dataclasses.replace(settings, **found)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        parser = Parser(__doc__)
        parser.add_argument("MODEL", help=f"{', '.join(MODELS)}, FILE.py:CLASS; MODEL --help lists its settings")
        parser.print_help()
        return
    step = Baseline(known(words[0]))
    doc = f"{models.model_class(step.model).__doc__}\n\n    python -m reproduce.baseline {words[0]} -d DATASET"
    parsed = parse(step.Settings, doc, step.CONFIGS, words[1:])
    step.run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
