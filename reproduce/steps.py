"""The steps of each model's pipeline, in order, and which setting goes to which step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Type

from adrec import main as adrec_main
from common.errors import UserError, nearest
from reproduce import scores
from reproduce.baseline import MODELS, Baseline, known
from reproduce.own_models import is_own
from stage1_content_modality_semantic_alignment import (
    llm_driven_sample,
    prepare_dataset,
    sft_content_encoder,
    use_finetune_bert,
    use_finetune_swinbase,
)
from stage2_sequence_preference_learning import SICSRec_main1, content_encoder_main1, id_encoder_main1, recbole_process


@dataclass(frozen=True)
class Step:
    """One script: its name, its settings, the folder of its YAMLs."""

    name: str
    script: Any
    needs_features: bool = False  # left out where features_dir points to finished ones
    modality: str = ""  # left out where the modality is not in use

    @property
    def schema(self) -> Type[Any]:
        """The dataclass of its settings."""
        schema: Type[Any] = self.script.Settings
        return schema

    @property
    def configs(self) -> Path:
        """Where its YAML per data set lies."""
        folder: Path = self.script.CONFIGS
        return folder

    @property
    def source(self) -> Optional[Path]:
        """The file of a user's model."""
        return getattr(self.script, "source", None)

    @property
    def keys(self) -> List[str]:
        """Its settings' names."""
        return [f.name for f in dataclasses.fields(self.schema)]


PREPARE = Step("prepare_dataset", prepare_dataset)
STAGE_1 = (
    Step("llm_driven_sample", llm_driven_sample, True),
    Step("sft_content_encoder", sft_content_encoder, True),
    Step("use_finetune_bert", use_finetune_bert, True, "text"),
    Step("use_finetune_swinbase", use_finetune_swinbase, True, "image"),
)
INTER = Step("recbole_process", recbole_process)
ID = Step("ID_SeqEncoder", id_encoder_main1)


def _baseline_pipeline(name: str) -> Sequence[Step]:
    final = Step(name, Baseline(name))
    return (PREPARE, *(STAGE_1 if "modalities" in final.keys else ()), INTER, final)


PIPELINES: Dict[str, Sequence[Step]] = {
    "SICSRec": (PREPARE, *STAGE_1, INTER, ID, Step("SICSRec", SICSRec_main1)),
    "Content_SeqEncoder": (PREPARE, *STAGE_1, INTER, Step("Content_SeqEncoder", content_encoder_main1)),
    "ID_SeqEncoder": (PREPARE, INTER, ID),
    "ADRec": (PREPARE, Step("ADRec", adrec_main)),
    "Scores": (PREPARE, INTER, Step("Scores", scores)),
    **{name: _baseline_pipeline(name) for name in MODELS},
}


def pipeline(model: str) -> Sequence[Step]:
    """The steps that lead to a model, or to that of FILE.py:CLASS.

    Raises:
        UserError: no such model.
    """
    if is_own(model):
        return _baseline_pipeline(known(model))
    if model not in PIPELINES:
        there = f"there are {', '.join(PIPELINES)}, and FILE.py:CLASS"
        raise UserError(f"unknown model '{model}'{nearest(model, PIPELINES)}; {there}")
    return PIPELINES[model]


# keys that stage 1's fine-tuning has too, for something else: plain ones are meant for stage 2
OF_STAGE_2 = ("epochs", "learning_rate", "temperature")


def route(steps: Sequence[Step], values: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Give ``key=value`` to every step that knows the key, and ``step.key=value`` to that step alone.

    A plain key of `OF_STAGE_2` leaves stage 1 as it is.

    Raises:
        UserError: no step knows the key.
    """
    routed: Dict[str, Dict[str, Any]] = {step.name: {} for step in steps}
    by_name = {step.name: step for step in steps}
    for key, value in values.items():
        if "." in key:
            continue
        takers = [step.name for step in steps if key in step.keys and not (key in OF_STAGE_2 and step in STAGE_1)]
        if not takers:
            known = {k for step in steps for k in step.keys}
            raise UserError(f"unknown setting '{key}'{nearest(key, known)} (--help lists all settings)")
        for name in takers:
            routed[name][key] = value
    for key, value in values.items():  # the narrower one wins
        name, dot, inner = key.partition(".")
        if not dot:
            continue
        if name not in by_name:
            raise UserError(f"'{key}': no step '{name}'{nearest(name, by_name)}; there are {', '.join(by_name)}")
        if inner not in by_name[name].keys:
            raise UserError(f"'{key}': step '{name}' has no setting '{inner}'{nearest(inner, by_name[name].keys)}")
        routed[name][inner] = value
    return routed
