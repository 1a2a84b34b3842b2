"""What a run's folder holds of a trained ADRec: best.pth, and BERT's tokenizer and config in text_encoder/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Dict, Mapping

import transformers

from adrec.data import Tokens, cached_tokens, item_texts
from adrec.model import Encoders, make_encoders
from adrec.settings import SWITCHES, ADRecSettings
from adrec.text_encoder import TextEncoder
from common.checkpoints import load_checkpoint, load_weights
from common.dataset import Dataset
from common.device import Compute
from common.errors import UserError
from common.runs import best_run
from common.settings import resolve_switches
from common.text_encoders import ENCODER_CURE, fetch

TEXT_ENCODER = "text_encoder"


CHECKPOINT = (("--checkpoint",), {"type": Path, "metavar": "FILE", "help": "a run's best.pth"})


def asked_for(arguments: Any, results_dir: str, dataset: str) -> Path:
    """``--checkpoint``, or that of ADRec's run on the data set that is best on validation."""
    chosen: Path = arguments.checkpoint or best_run(results_dir, "ADRec", dataset, "ndcg@10")
    return chosen


@dataclass
class Loaded:
    """Trained encoders, their settings, their tokenizer, and checksums of what they were trained on."""

    encoders: Encoders
    settings: ADRecSettings
    tokenizer: Any
    trained_on: Mapping[str, str]

    @property
    def padding(self) -> Dict[str, Any]:
        """``padded_to`` and ``pad`` of what runs the encoders (A2)."""
        return padding_of(self.settings, self.tokenizer)

    def tokens_of(self, dataset: Dataset) -> Tokens:
        """The tokens of a data set's items."""
        texts = item_texts(dataset, self.settings, self.tokenizer)
        return cached_tokens(texts, self.tokenizer, self.settings.max_text_tokens, dataset.folder)


def padding_of(settings: ADRecSettings, tokenizer: Any, vocabulary: Any = None) -> Dict[str, Any]:
    """A2 released runs padding too: how far texts are padded, and with which row of the embedding table."""
    if settings.mean_over_real:
        return {}
    pad = int(tokenizer.pad_token_id)
    return {
        "padded_to": settings.max_text_tokens,
        "pad": pad if vocabulary is None else int(vocabulary.searchsorted(pad)),
    }


def save_text_encoder(bert: transformers.BertModel, tokenizer: Any, run_dir: Path) -> None:
    """Tokenizer and config, so that best.pth can be used where the BERT it began from is not at hand."""
    tokenizer.save_pretrained(run_dir / TEXT_ENCODER)
    bert.config.save_pretrained(run_dir / TEXT_ENCODER)


def load_encoders(checkpoint: Path, dataset: str, datasets_dir: str, compute: Compute) -> Loaded:
    """Rebuild the trained encoders from a run's best.pth and the text_encoder/ beside it.

    Raises:
        UserError: a file is missing or does not fit.
    """
    content = load_checkpoint(checkpoint)
    if not isinstance(content, dict) or "state_dict" not in content or not isinstance(content.get("about"), str):
        raise UserError(f"{checkpoint}: is no best.pth of ADRec; train with adrec/main.py")
    about = json.loads(content["about"])
    if about["dataset"] != dataset:
        cure = f"say -d {about['dataset']}"
        raise UserError(f"{checkpoint}: was trained on {about['dataset']}, not on {dataset}; {cure}")
    known = {f.name for f in dataclass_fields(ADRecSettings)}
    own = {k: v for k, v in about["settings"].items() if k in known and k != "precision"}
    settings = ADRecSettings(**{**own, "dataset": dataset, "datasets_dir": datasets_dir})
    resolve_switches(settings, SWITCHES)
    folder = str(checkpoint.parent / TEXT_ENCODER)
    config = fetch(transformers.BertConfig, folder, ENCODER_CURE)
    config.num_hidden_layers = settings.plm_layer
    text = TextEncoder(transformers.BertModel(config, add_pooling_layer=False), settings.plm_layer)
    weights = content["state_dict"]
    encoders = make_encoders(text, settings, len(weights.get("offsets.weight", ())))
    load_weights(encoders, weights, checkpoint)
    tokenizer = fetch(transformers.AutoTokenizer, folder, ENCODER_CURE)
    return Loaded(encoders.to(compute.device).eval(), settings, tokenizer, about.get("inputs", {}))
