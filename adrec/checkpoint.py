"""What a run's folder holds of a trained ADRec: best.pth, and BERT's tokenizer and config in text_encoder/."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from adrec.encoders import TextEncoder
from adrec.model import TABLE, Encoders
from adrec.settings import ADRecSettings
from common.checkpoints import load_checkpoint, load_weights
from common.compute import Compute
from common.dataset import Dataset
from common.errors import UserError
from common.files import checksum
from common.item_fields import text_files
from common.run import Run
from common.splits import SplitSettings
from common.text_encoders import ENCODER_FIX, fetch, load_bert, text_model_path

TEXT_ENCODER = "text_encoder"
DENSE = "sequence.layers.0.dense_1.weight"  # (inner_size, d)


def load_text_encoder(settings: ADRecSettings, dataset: Dataset, run: Run) -> Tuple[BertModel, PreTrainedTokenizerBase]:
    """BERT and its tokenizer. Tokenizer and config are copied to the run's folder, for use on another machine."""
    of_settings = (settings.text_model, dataset, settings.title_language, settings.seed)
    path = run.processes.agree(text_model_path(*of_settings) if run.processes.first else "")
    bert, tokenizer = load_bert(path, settings.max_text_tokens)
    if run.processes.first:
        tokenizer.save_pretrained(run.folder / TEXT_ENCODER)
        bert.config.save_pretrained(run.folder / TEXT_ENCODER)
    return bert, tokenizer


@dataclass
class Loaded:
    """Trained encoders, their settings, their tokenizer, and checksums of what they were trained on."""

    path: Path
    encoders: Encoders
    settings: ADRecSettings
    tokenizer: PreTrainedTokenizerBase
    trained_on: Mapping[str, str]

    def check_data(self, dataset: Dataset, *names: str) -> None:
        """Raise a `UserError` if files of the data set, by meaning, are not those of the training, if it says them."""
        here = {**SplitSettings.input_files(self.settings), **text_files(dataset.folder, dataset.name)}
        for name in names if self.trained_on else ():
            now = checksum(here[name]) if name in here else None
            if self.trained_on.get(name) != now:
                where = here.get(name, dataset.folder)
                raise UserError(f"{self.path}: trained on other {name} than {where}; train again, or set datasets_dir")


def read_checkpoint(checkpoint: Path, dataset: str) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """A checkpoint's weights and what it says of itself: model, data set, settings, inputs.

    A bare state dict, such as the authors' ``checkpoint_<N>_epoch.pkl``, says nothing: it counts as trained on this
    data set with ``variant=released``, and its shapes give the sizes. A prefix of all names (``module.``) is dropped.

    Raises:
        UserError: it is not of ADRec, or its weights have other names.
    """
    content = load_checkpoint(checkpoint)
    content = content if isinstance(content, dict) else {}
    weights, about = content.get("state_dict", content), content.get("about", {})
    prefix = next((name[: -len(DENSE)] for name in map(str, weights) if name.endswith(DENSE)), None)
    if not about and prefix is not None:
        weights = {name[len(prefix) :]: weight for name, weight in weights.items() if name.startswith(prefix)}
        settings: Dict[str, Any] = {"variant": "released", "inner_size": len(weights[DENSE])}
        for key, stack in (("plm_layer", "text.layers."), ("n_layers", "sequence.layers.")):
            settings[key] = len({name.split(".")[2] for name in weights if name.startswith(stack)})
        about = {"model": "ADRec", "dataset": dataset, "settings": settings, "inputs": {}}
    if about.get("model") != "ADRec":
        named = f"begin with {', '.join(map(str, list(weights)[:3]))}; those of ADRec are {TABLE}, …, {DENSE}, …"
        raise UserError(f"{checkpoint}: not a checkpoint of ADRec: its weights {named}")
    if about["dataset"] != dataset:
        raise UserError(f"{checkpoint}: trained on {about['dataset']}, not on {dataset}; use -d {about['dataset']}")
    return weights, about


def load_encoders(checkpoint: Path, dataset: str, datasets_dir: str, compute: Compute) -> Loaded:
    """Rebuild the trained encoders from a checkpoint and the text_encoder/ beside it, else the default text model.

    Raises:
        UserError: a file is missing or does not fit.
    """
    weights, about = read_checkpoint(checkpoint, dataset)
    known = {f.name for f in dataclasses.fields(ADRecSettings)}
    own = {key: value for key, value in about["settings"].items() if key in known}
    settings = ADRecSettings(**{**own, "dataset": dataset, "datasets_dir": datasets_dir})
    folder = checkpoint.parent / TEXT_ENCODER
    source = str(folder) if folder.is_dir() or about["inputs"] else settings.text_model
    config = fetch(BertConfig, source, ENCODER_FIX)
    config.num_hidden_layers = settings.plm_layer
    text = TextEncoder(BertModel(config, add_pooling_layer=False), settings.plm_layer)
    encoders = Encoders(text, settings, len(weights.get("offsets.weight", ())))
    load_weights(encoders, weights, checkpoint)
    tokenizer = fetch(AutoTokenizer, source, ENCODER_FIX)
    return Loaded(checkpoint, encoders.to(compute.device).eval(), settings, tokenizer, about["inputs"])
