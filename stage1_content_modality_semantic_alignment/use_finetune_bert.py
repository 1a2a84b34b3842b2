"""Stage 1, step 3: text features of all items, from the fine-tuned BERT.

SICSRec: the [CLS] vector of `last_hidden_state` of each title, at most 256 tokens. Row = zero-based item id.

    python stage1_content_modality_semantic_alignment/use_finetune_bert.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/use_finetune_bert.py -d ml-100k model_path=small

Reads   <finetune_dir>/<D>/64/<strategy>/bert/, titles of the data set
Writes  <datasets_dir>/<D>/[released/]<D>_text_llm_stage1.pth, float (items, hidden), and a JSON that says what made it;
        with features_dir=DIR into DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import torch

from common import text_encoders
from common.dataset import items_path, load_dataset
from common.device import Compute
from common.errors import UserError, run_script
from common.settings import parse, setting
from stage1_content_modality_semantic_alignment.feature_export import (
    ExportSettings,
    Features,
    encode_all,
    export_features,
    finetuned_encoder,
    finetuned_on,
)
from stage1_content_modality_semantic_alignment.item_inputs import Titles

CONFIGS = Path(__file__).parent / "configs" / "use_finetune_bert"


@dataclass
class Settings(ExportSettings):
    """Settings of this step."""

    title_language: str = setting("cn", "which titles the text encoder reads", choices=("cn", "en"))
    max_text_tokens: int = setting(256, "longer titles are cut", minimum=3)


def run(settings: Settings, force: bool = False) -> None:
    """Do the step, or say that its output stands. Raises `UserError` for bad input."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    language = settings.title_language
    if settings.model_path is None:
        path = str(finetuned_encoder(settings, "bert"))
        trained = finetuned_on(settings)["title_language"]
        if trained != language:
            raise UserError(f"{path}: fine-tuned on {trained} titles; export them too, with title_language={trained}")
    else:
        path = text_encoders.text_model_path(settings.model_path, dataset, language, settings.seed)

    def encode(compute: Compute) -> Features:
        bert, tokenizer = text_encoders.load_bert(path, settings.max_text_tokens)
        torch.nn.Module.to(bert, compute.device)
        titles = Titles(tokenizer, text_encoders.titles_in(dataset, language), settings.max_text_tokens)

        def cls_vectors(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, hidden)
            return hidden[:, 0]

        vectors = encode_all(cls_vectors, titles, settings.export_batch_size, compute)
        return Features(list(range(dataset.n_items)), vectors, missing=[])

    shaping = {
        "model": settings.model_path or "fine-tuned",
        "title_language": language,
        "max_text_tokens": settings.max_text_tokens,
    }
    inputs = {"items": items_path(dataset.folder, dataset.name), **text_encoders.model_inputs("model", path)}
    export_features(settings, dataset, "text", shaping, inputs, encode, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
