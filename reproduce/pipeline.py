"""The scripts that each model needs, in their order, and which ``key=value`` goes to which of them."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Type

from common.errors import UserError, nearest
from common.settings import CommonSettings
from reproduce.baseline import find
from reproduce.baselines.settings import SCHEMAS

# step → the module of its script: Settings, CONFIGS (the folder of its YAMLs), and run or train (settings, force)
SCRIPTS = {
    "prepare_dataset": "stage1_content_modality_semantic_alignment.prepare_dataset",
    "llm_driven_sample": "stage1_content_modality_semantic_alignment.llm_driven_sample",
    "sft_content_encoder": "stage1_content_modality_semantic_alignment.sft_content_encoder",
    "use_finetune_bert": "stage1_content_modality_semantic_alignment.use_finetune_bert",
    "use_finetune_swinbase": "stage1_content_modality_semantic_alignment.use_finetune_swinbase",
    "ID_SeqEncoder": "stage2_sequence_preference_learning.id_encoder_main1",
    "Content_SeqEncoder": "stage2_sequence_preference_learning.content_encoder_main1",
    "SICSRec": "stage2_sequence_preference_learning.SICSRec_main1",
    "ADRec": "adrec.main",
    "Scores": "reproduce.scores",
}
STAGE_1 = ("llm_driven_sample", "sft_content_encoder", "use_finetune_bert", "use_finetune_swinbase")
NEEDS_FEATURES = [name for name, schema in SCHEMAS.items() if "modalities" in schema.__dataclass_fields__]
PIPELINES: Dict[str, Tuple[str, ...]] = {
    "SICSRec": ("prepare_dataset", *STAGE_1, "ID_SeqEncoder", "SICSRec"),
    "Content_SeqEncoder": ("prepare_dataset", *STAGE_1, "Content_SeqEncoder"),
    "ID_SeqEncoder": ("prepare_dataset", "ID_SeqEncoder"),
    "ADRec": ("prepare_dataset", "ADRec"),
    "Scores": ("prepare_dataset", "Scores"),
    **{
        baseline: ("prepare_dataset", *(STAGE_1 if baseline in NEEDS_FEATURES else ()), baseline)
        for baseline in SCHEMAS
    },
}
# stage 1's fine-tuning has these settings too: a plain key means stage 2, sft_content_encoder.KEY means stage 1
OF_STAGE_2 = ("epochs", "learning_rate", "train_batch_size", "clip_grad_norm", "log_steps", "temperature")


@dataclass(frozen=True)
class Step:
    """One script. It is imported when its settings are needed."""

    name: str
    model: str = ""  # FILE.py:CLASS of a user's model

    @property
    def script(self) -> Any:
        """The module; for a baseline an object with the same names."""
        if self.name in SCRIPTS:
            return importlib.import_module(SCRIPTS[self.name])
        return find(self.model or self.name)

    @property
    def schema(self) -> Type[CommonSettings]:
        """The dataclass of its settings."""
        schema: Type[CommonSettings] = self.script.Settings
        return schema

    @property
    def keys(self) -> List[str]:
        """The names of its settings, and RecBole's for them."""
        return [*(f.name for f in dataclasses.fields(self.schema)), *self.schema.foreign]


def pipeline(model: str) -> List[Step]:
    """The steps that lead to a model: one of `PIPELINES`, or FILE.py:CLASS (reproduce/own_models.py).

    Raises:
        UserError: no such model.
    """
    if ".py:" in model:
        own = Step(find(model).name, model)
        return [*map(Step, ("prepare_dataset", *(STAGE_1 if "modalities" in own.keys else ()))), own]
    if model not in PIPELINES:
        available = f"available: {', '.join(PIPELINES)}, or FILE.py:CLASS"
        raise UserError(f"unknown model '{model}'{nearest(model, PIPELINES)}; {available}")
    return [Step(name) for name in PIPELINES[model]]


def route(steps: Sequence[Step], values: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Give ``key=value`` to each step that has the key, and ``step.key=value``, which wins, to that step only.

    Args:
        values: plain keys and ``step.key``; a plain key of `OF_STAGE_2` does not reach stage 1.

    Returns:
        Step name → its settings.

    Raises:
        UserError: no step has the key.
    """
    keys = {step.name: step.keys for step in steps}
    routed: Dict[str, Dict[str, Any]] = {name: {} for name in keys}
    for key, value in sorted(values.items(), key=lambda item: "." in item[0]):
        name, dot, inner = key.rpartition(".")
        if not dot:
            receivers = [n for n in keys if key in keys[n] and not (n in STAGE_1 and key in OF_STAGE_2)]
            if not receivers:
                known = {k for step_keys in keys.values() for k in step_keys}
                raise UserError(f"unknown setting '{key}'{nearest(key, known)} (--help says how to list the settings)")
        elif name not in keys:
            raise UserError(f"'{key}': no step '{name}'{nearest(name, keys)}; steps: {', '.join(keys)}")
        elif inner not in keys[name]:
            raise UserError(f"'{key}': step '{name}' has no setting '{inner}'{nearest(inner, keys[name])}")
        else:
            receivers = [name]
        for receiver in receivers:
            routed[receiver][inner] = value
    return routed
