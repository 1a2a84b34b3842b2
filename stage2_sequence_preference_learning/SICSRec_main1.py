"""Step 2 of stage 2: train SICSRec from the ID encoder of step 1, which is trained first if need be.

    python stage2_sequence_preference_learning/SICSRec_main1.py -d Bili_Food
    python stage2_sequence_preference_learning/SICSRec_main1.py -d Bili_Food n_trials=10   # searches α

Reads:  <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
        <D>_text_llm_stage1.pth and <D>_image_llm_stage1.pth, as far as modalities names them
        pretrain_id=FILE, an ID encoder of ours or a published one, if it is not to be trained here
Writes: <results_dir>/SICSRec/<D>/<run>/ with best.pth, last.pth, metrics.json, ranks.csv,
        settings.yaml, train.log and TensorBoard's curves; a search: see search.py
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, List, Mapping, Optional

from common.errors import UserError, run_script
from common.settings import build, parse, typed
from stage2_sequence_preference_learning import id_encoder_main1
from stage2_sequence_preference_learning.search import train_or_search
from stage2_sequence_preference_learning.settings import PROPS, SICSRecSettings, StageSettings
from stage2_sequence_preference_learning.spine import features_of

Settings = SICSRecSettings
CONFIGS = PROPS / "SICSRec"


def id_settings(settings: Settings, overrides: Optional[Mapping[str, Any]] = None) -> id_encoder_main1.Settings:
    """Step 1's settings: its own YAML and ``overrides`` for how to train, step 2's values for what both share (S7).

    Raises:
        UserError: an override of what both share.
    """
    shared = {f.name: getattr(settings, f.name) for f in fields(StageSettings) if f.name != "run"}
    own = typed(id_encoder_main1.Settings, overrides or {}, "command line")
    for key, value in own.items():
        if value != shared.get(key, value):
            told = f"both steps share it, and SICSRec has {key}={shared[key]}"
            raise UserError(f"ID_SeqEncoder.{key}={value}: {told}; {key}=VALUE is for both")
    return build(id_encoder_main1.Settings, {**own, **shared}, id_encoder_main1.CONFIGS)


def run(settings: Settings, force: bool = False, step_1: Optional[id_encoder_main1.Settings] = None) -> Path:
    """Train both steps, or go on, or skip; returns the folder of step 2's run.

    Args:
        step_1: settings of the ID encoder, whose seed is left to that of step 2; None: by its own YAML.
    """

    def with_id_encoder(of_seed: Settings) -> Settings:
        if of_seed.pretrain_id is not None:
            return of_seed
        features_of(of_seed)  # a missing file stops here, not after step 1
        own = id_settings(of_seed) if step_1 is None else replace(step_1, seed=of_seed.seed)
        if step_1 is None:
            told = f"epochs={own.epochs}, by its own YAML"
            print(f"step 1 first: ID_SeqEncoder, {told}; pretrain_id=FILE takes a trained one")
        return replace(of_seed, pretrain_id=str(id_encoder_main1.run(own) / "best.pth"))

    return train_or_search("SICSRec", settings, force, with_id_encoder)


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and train."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
