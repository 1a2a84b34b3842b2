"""Stage 1, step 3: text features of all items, from the fine-tuned BERT.

SICSRec: the [CLS] vector of `last_hidden_state` of each title, at most 256 tokens. Row = zero-based item id.
Ours: pooling=mean, for which sentence encoders were trained, and fields=[category,brand,title], more than the title.

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
from common.dataset import Dataset, items_path, load_dataset
from common.device import Compute
from common.errors import UserError, nearest, run_script
from common.item_fields import text_fields, text_files
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


def cls_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The first token's vector: (B, L, hidden) and a mask (B, L) → (B, hidden)."""
    return hidden[:, 0].float()


def mean_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over real tokens: (B, L, hidden) and a mask (B, L) → (B, hidden)."""
    real = mask[..., None].float()
    return (hidden.float() * real).sum(dim=1) / real.sum(dim=1)


POOLINGS = {"cls": (cls_of,), "mean": (mean_of,), "mean+cls": (mean_of, cls_of)}


@dataclass
class Settings(ExportSettings):
    """Settings of this step."""

    title_language: str = setting("cn", "which titles the text encoder reads", choices=("cn", "en"))
    max_text_tokens: int = setting(256, "longer texts are cut", minimum=3)
    pooling: str = setting(
        "cls",
        "an item's vector: that of [CLS], or (ours) the mean of its tokens', or both side by side",
        choices=tuple(POOLINGS),
    )
    fields: List[str] = setting(
        ["title"], "text fields of an item, in their order; more than the title are ours", may_be_empty=False
    )


def texts_of(dataset: Dataset, language: str, fields: List[str]) -> List[str]:
    """The fields of each item, by id, with commas between them; empty ones are left out.

    Raises:
        UserError: the data set has no such field.
    """
    if fields == ["title"]:
        return dataset.titles(language)
    columns = text_fields(dataset, language)
    for field in fields:
        if field not in columns:
            known = ", ".join(sorted(columns))
            raise UserError(f"fields: {dataset.name} has no '{field}'{nearest(field, columns)}; there are {known}")
    return [", ".join(filter(None, texts)) for texts in zip(*(columns[field] for field in fields))]


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
        texts = Titles(tokenizer, texts_of(dataset, language, settings.fields), settings.max_text_tokens)

        def pooled(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, hidden)
            return torch.cat([pool(hidden, mask) for pool in POOLINGS[settings.pooling]], dim=1)

        vectors = encode_all(pooled, texts, settings.export_batch_size, compute)
        return Features(list(range(dataset.n_items)), vectors, missing=[])

    shaping = {
        "model": settings.model_path or "fine-tuned",
        "title_language": language,
        "max_text_tokens": settings.max_text_tokens,
    }
    if settings.pooling != "cls":  # the paper's features were named before there were others
        shaping["pooling"] = settings.pooling
    inputs = {"items": items_path(dataset.folder, dataset.name), **text_encoders.model_inputs("model", path)}
    if settings.fields != ["title"]:
        shaping["fields"] = settings.fields
        inputs.update(text_files(dataset.folder, dataset.name))
    export_features(settings, dataset, "text", shaping, inputs, encode, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
