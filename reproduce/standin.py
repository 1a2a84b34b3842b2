"""Stand-ins for stage 1's features, from titles alone, for data sets without covers and published features.

Text: mean over tokens and [CLS], side by side, of an encoder without fine-tuning. "Image": the first 1,000 components
of the titles' character n-grams (TF-IDF, of one to three characters). No cover is used, so no number of a model that is
trained on them is one of the paper's. With ``whitened=true`` the text is the mean alone, and the directions of both
have more equal variances, which brings similar titles nearer on Bili_Food (docs/results.md).

    python -m reproduce.standin -d Bili_Food text_model=minilm                    # whitened=true
    python -m reproduce.run bili dataset=Bili_Food features_dir=datasets/{dataset}/standin

The README's Bili_Food table is based on these, with MiniLM (requirements-models.txt).

Reads:  titles of the prepared data set: Chinese ones for the "image", those of title_language for the text
Writes: <datasets_dir>/<D>/standin/<D>_{text,image}_llm_stage1.pth (or whitened/), and a JSON that says what made each
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from typing import List, Optional

import numpy as np

from common.dataset import items_path, load_dataset
from common.errors import UserError
from common.features import features_path, save_features
from common.files import making, recipe
from common.settings import DeviceSettings, parse, setting, shaping
from stage1_content_modality_semantic_alignment import use_finetune_bert

COMPONENTS = 1000  # as many as the logits of Swin-base, the paper's image features
WHITENED_COMPONENTS = 384
SCALE = 10.0  # unit vectors would be small beside the text's


@dataclass
class Settings(DeviceSettings):
    """Settings of the stand-ins."""

    text_model: str = setting("google-bert/bert-base-uncased", "a BERT: name on the hub, folder, minilm, or small")
    title_language: str = setting("en", "which titles the text encoder reads", choices=("cn", "en"))
    max_text_tokens: int = setting(256, "longer titles are cut", minimum=3)
    whitened: bool = setting(False, "divide each principal component by the square root of its standard deviation")


def run(settings: Settings, force: bool = False) -> None:
    """Make both files, unless they are up to date."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    folder = settings.dataset_dir / ("whitened" if settings.whitened else "standin")
    encoder = use_finetune_bert.Settings(
        dataset=settings.dataset,
        datasets_dir=settings.datasets_dir,
        model_path=settings.text_model,
        title_language=settings.title_language,
        max_text_tokens=settings.max_text_tokens,
        pooling="mean" if settings.whitened else "mean+cls",
        device=settings.device,
        precision="fp32",
    )
    whitened = {"whitened": settings.whitened}
    n_grams = {"model": "character n-grams of titles", **whitened}
    titles = {"items": items_path(settings.dataset_dir, settings.dataset)}
    recipes = {
        "text": recipe("text_features", {**shaping(encoder), **whitened}, encoder.input_files()),
        "image": recipe("image_features", n_grams, titles),
    }
    for modality, made_from in recipes.items():
        path = features_path(folder, settings.dataset, modality)
        with making(path.with_suffix(".json"), made_from, force) as needed:
            if needed:
                import torch

                if modality == "text":
                    vectors = use_finetune_bert.encode(encoder, dataset, settings.title_language).numpy()
                else:
                    vectors = components(dataset.titles("cn"))
                vectors = whiten(vectors) if settings.whitened else vectors
                save_features(path, torch.from_numpy(vectors), made_from)
                print(f"written: {path}, {vectors.shape}")


def whiten(vectors: np.ndarray) -> np.ndarray:
    """Principal components (items, WHITENED_COMPONENTS or fewer), each divided by the root of its standard deviation.

    They are scaled so that the mean row is SCALE long.
    """
    left, deviations, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    white = left[:, :WHITENED_COMPONENTS] * np.sqrt(deviations[:WHITENED_COMPONENTS])
    return np.asarray(SCALE * white / np.linalg.norm(white, axis=1).mean())


def components(titles: List[str]) -> np.ndarray:
    """The titles' character n-grams as dense vectors (items, COMPONENTS or fewer), about SCALE long."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    try:
        terms = counted.fit_transform(titles)
    except ValueError as error:
        raise UserError("titles: no two of them have a letter in common, so they give no features") from error
    width = min(COMPONENTS, *terms.shape)
    return np.asarray(SCALE * TruncatedSVD(width, random_state=0).fit_transform(terms))


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and make the stand-ins."""
    command = parse(Settings, __doc__, None, argv)
    run(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
