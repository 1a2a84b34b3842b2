"""Stage 1, step 3: text features of all items, from the fine-tuned BERT.

SICSRec: the [CLS] vector of `last_hidden_state` of each title, at most 256 tokens. Row = zero-based item id.
Ours: pooling=mean, for which sentence encoders were trained, and fields=[category,brand,title], more than the title.

    python stage1_content_modality_semantic_alignment/use_finetune_bert.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/use_finetune_bert.py -d ml-100k model_path=minilm

Reads   <finetune_dir>/<D>/64/<strategy>/bert/, titles of the data set
Writes  <datasets_dir>/<D>/features/<strategy>/<D>_text_llm_stage1.pth, float (items, hidden), and a JSON that says what
        made it; with features_dir=DIR into DIR
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional

from common.dataset import Dataset, items_path, load_dataset
from common.errors import UserError, nearest
from common.features import features_path, save_features
from common.files import making, recipe
from common.item_fields import text_fields, text_files
from common.settings import parse, setting, shaping
from stage1_content_modality_semantic_alignment.exports import ExportSettings
from stage1_content_modality_semantic_alignment.settings import local_model

if TYPE_CHECKING:  # torch is imported where it is needed: it takes seconds
    import torch

CONFIGS = Path(__file__).parent / "configs" / "use_finetune_bert"


@dataclass
class Settings(ExportSettings):
    """Settings of this step."""

    title_language: Optional[str] = setting(
        None,
        "which titles the text encoder reads; null: those that it was fine-tuned on, cn without fine-tuning",
        choices=("cn", "en"),
    )
    max_text_tokens: int = setting(256, "longer texts are cut", minimum=3)
    pooling: str = setting(
        "cls",
        "an item's vector: that of [CLS], or (ours) the mean of its tokens' vectors, or both side by side",
        choices=("cls", "mean", "mean+cls"),
    )
    fields: List[str] = setting(
        ["title"], "text fields of an item, in this order; more than the title are ours", may_be_empty=False
    )

    def language(self) -> str:
        """``title_language`` or its default. Raises `UserError` if the encoder was fine-tuned on another language."""
        if self.model_path is not None:
            return self.title_language or "cn"
        trained: str = self.fine_tuned("bert")["title_language"]
        if self.title_language not in (None, trained):
            raise UserError(
                f"{self.encoders_folder}: fine-tuned on {trained} titles; use title_language={trained}, or leave it out"
            )
        return trained

    def input_files(self) -> Dict[str, Path]:
        """The files that shape the features, by meaning."""
        files = {"items": items_path(self.dataset_dir, self.dataset)}
        if self.fields != ["title"]:
            files.update(text_files(self.dataset_dir, self.dataset))
        return {**files, **local_model("model", self.encoder("bert"))}


def run(settings: Settings, force: bool = False) -> None:
    """Write the text features, unless they are up to date."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    language = settings.language()
    path = features_path(settings.features_folder, settings.dataset, "text")
    made_from = recipe("text_features", {**shaping(settings), "title_language": language}, settings.input_files())
    with making(path.with_suffix(".json"), made_from, force) as needed:
        if not needed:
            return
        features = encode(settings, dataset, language)
        save_features(path, features, made_from)
    print(f"written: {path}, {tuple(features.shape)}")


def encode(settings: Settings, dataset: Dataset, language: str) -> torch.Tensor:
    """The vectors of all items: (n_items, width) float32, row = zero-based item id."""
    import torch

    from common.compute import pick_compute, seed_everything
    from common.text_encoders import load_bert, text_model_path
    from stage1_content_modality_semantic_alignment.inputs import Titles, each_item_once

    texts = texts_of(dataset, language, settings.fields)
    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    model = text_model_path(settings.encoder("bert"), dataset, language, settings.seed)
    bert, tokenizer = load_bert(model, settings.max_text_tokens)
    torch.nn.Module.to(bert, compute.device)

    tokens = Titles(tokenizer, texts, settings.max_text_tokens)
    parts = settings.pooling.split("+")
    features = torch.zeros(dataset.n_items, bert.config.hidden_size * len(parts))
    for items, ids, mask in each_item_once(tokens, settings.export_batch_size, compute, "texts encoded"):
        with torch.inference_mode(), compute.autocast():
            hidden = bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, L, hidden)
            real = mask[..., None].float()  # (B, L, 1)
            vectors = {"cls": hidden[:, 0], "mean": (hidden * real).sum(dim=1) / real.sum(dim=1)}
            features[items] = torch.cat([vectors[part] for part in parts], dim=1).cpu()
    return features


def texts_of(dataset: Dataset, language: str, fields: List[str]) -> List[str]:
    """The fields of each item, by id, with commas between them; empty ones are left out."""
    if fields == ["title"]:
        return dataset.titles(language)
    columns = text_fields(dataset, language)
    for field in fields:
        if field not in columns:
            known = ", ".join(sorted(columns))
            raise UserError(f"fields: {dataset.name} has no '{field}'{nearest(field, columns)}; there are {known}")
    return [", ".join(filter(None, texts)) for texts in zip(*(columns[field] for field in fields))]


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and export."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    run(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
