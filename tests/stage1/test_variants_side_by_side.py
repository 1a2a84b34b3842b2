"""Variants and named strategies have folders of their own, so that one does not replace the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stage1_helpers import make_tiny_run
from tiny import N_ITEMS

from common.features import features_dir, features_path, load_features
from stage1_content_modality_semantic_alignment import sft_content_encoder, use_finetune_bert
from stage1_content_modality_semantic_alignment.settings import pairs_dir
from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings
from stage2_sequence_preference_learning.settings import ContentSettings


@pytest.mark.parametrize(
    ("variant", "strategy", "name"),
    [("paper", None, "paper"), ("released", None, "released"), ("released", "tfidf", "tfidf")],
)
def test_every_step_finds_what_the_one_before_wrote(variant: str, strategy: str, name: str) -> None:
    tuned = Settings(dataset="D", variant=variant, strategy=strategy)
    exported = use_finetune_bert.Settings(dataset="D", variant=variant, strategy=strategy)
    assert tuned.pairs_file == Path("datasets/D/pairs") / name / "item_pairs_id.txt"
    assert tuned.encoders_folder == exported.encoders_folder == Path("finetune_llm/D/64") / name
    read = ContentSettings(dataset="D", variant=variant, strategy=strategy)
    assert exported.features_folder == read.features_folder == Path("datasets/D/features") / name
    read.features_dir = exported.features_dir = "other"
    assert exported.features_folder == read.features_folder == Path("other")


def test_one_variant_leaves_the_other_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_tiny_run(tmp_path, modalities=["text"])
    for variant in ("paper", "released"):
        shutil.copytree(run.pairs_file.parent, pairs_dir(run.dataset_dir, variant))
    shared = [
        "-d",
        "Tiny",
        f"datasets_dir={run.datasets_dir}",
        f"finetune_dir={run.finetune_dir}",
        "max_text_tokens=40",
    ]
    tuning = [f"text_model={run.text_model}", "modalities=[text]", "epochs=1", "title_language=en", "learning_rate=0.1"]

    def both_steps(variant: str) -> str:
        sft_content_encoder.main([*shared, *tuning, f"variant={variant}"])
        use_finetune_bert.main([*shared, f"variant={variant}"])
        return capsys.readouterr().out

    assert all("written: " in both_steps(variant) for variant in ("paper", "released"))
    for variant in ("paper", "released"):
        assert both_steps(variant).count("is up to date") == 2
    paper, released = (
        load_features(features_path(features_dir(run.dataset_dir, variant), "Tiny", "text"), N_ITEMS)
        for variant in ("paper", "released")
    )
    assert not paper.equal(released)
