"""What a variant, a seed or one modality alone makes in stage 1 lies beside the rest: none undoes another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from stage1_helpers import make_tiny_run
from tiny import make_tiny_dataset

from common.errors import UserError
from common.features import features_path, load_features
from reproduce import train
from reproduce.pipeline import STAGE_1
from stage1_content_modality_semantic_alignment import sft_content_encoder, use_finetune_bert
from stage1_content_modality_semantic_alignment.paths import strategy_of
from stage2_sequence_preference_learning.settings import ContentSettings, features_folder

EXPORTS = ("use_finetune_bert", "use_finetune_swinbase")


def strategies(*words: str, dataset: str = "Bili_Food") -> Dict[str, str]:
    planned = train.plan("SICSRec", dataset, words)
    return {step.name: strategy_of(settings) for step, settings in planned if hasattr(settings, "strategy")}


@pytest.mark.parametrize(
    ("dataset", "words", "expected"),
    [
        ("Bili_Food", (), "paper"),
        ("ml-100k", ("variant=released",), "released"),
        ("Bili_Food", ("selector=tfidf", "strategy=tfidf"), "tfidf"),
        ("Bili_Food", ("variant=released", "strategy=published"), "published"),
    ],
)
def test_every_step_works_on_the_pairs_that_the_first_one_chose(dataset: str, words: Any, expected: str) -> None:
    assert set(strategies(*words, dataset=dataset).values()) == {expected}


def test_a_script_by_itself_looks_where_the_one_before_wrote() -> None:
    assert strategy_of(sft_content_encoder.Settings(dataset="ml-100k")) == "paper"
    exported = use_finetune_bert.Settings(dataset="ml-100k", variant="released", finetune_dir="f")
    assert exported.finetuned_dir == Path("f/ml-100k/64/released")


def test_stage_2_reads_the_features_of_its_variant_or_those_that_lie_there(tmp_path: Path) -> None:
    home = tmp_path / "D"
    paper, released = (
        ContentSettings(dataset="D", datasets_dir=str(tmp_path), variant=v) for v in ("paper", "released")
    )
    assert features_folder(paper) == features_folder(released) == home  # published ones, say
    (home / "released").mkdir(parents=True)
    assert (features_folder(paper), features_folder(released)) == (home, home / "released")
    released.features_dir = "elsewhere"
    assert features_folder(released) == Path("elsewhere")


def test_where_the_yaml_says_one_modality_scripts_by_themselves_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_tiny_run(tmp_path, modalities=["text"], epochs=1)
    (tmp_path / "configs").mkdir()
    keys = ("title_language", "max_text_tokens", "epochs", "learning_rate", "text_model", "modalities")
    yaml = "".join(f"{key}: {getattr(run, key)}\n" for key in keys)
    (tmp_path / "configs" / "Tiny.yaml").write_text(yaml)
    monkeypatch.setattr(sft_content_encoder, "CONFIGS", tmp_path / "configs")
    shared = [f"{key}={getattr(run, key)}" for key in ("datasets_dir", "finetune_dir", "strategy", "device")]
    sft_content_encoder.main(["-d", "Tiny", *shared])
    use_finetune_bert.main(["-d", "Tiny", *shared, "title_language=en", "max_text_tokens=40"])
    assert (tmp_path / "finetune_llm" / "Tiny" / "64" / "hand-text" / "bert").is_dir()
    assert features_path(run.dataset_dir, "Tiny", "text").is_file()  # beside the data, where stage 2 looks
    with pytest.raises(UserError, match="hand: holds no fine-tuned bert; .*correct strategy, modalities"):
        use_finetune_bert.main(["-d", "Tiny", *shared, "title_language=en", "modalities=[text,image]"])
    usual = [word for word in shared if not word.startswith("strategy")]
    planned = train.plan("SICSRec", "Tiny", [*usual, "modalities=[text]"])  # as the YAMLs say: the usual place
    assert {settings.features_dir for _, settings in planned if hasattr(settings, "features_dir")} == {None}


def test_changing_the_variant_to_and_fro_makes_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, made, folders = ("variant=paper", "variant=released"), (4, 4), (".", "released")
    source = make_tiny_dataset(tmp_path / "source")
    shared = [f"data_dir={source}", f"datasets_dir={tmp_path / 'd'}", f"finetune_dir={tmp_path / 'f'}", "device=cpu"]
    shared += ["selector=tfidf", "tfidf_threshold=0.01", "text_model=small", "image_model=small"]
    shared += ["sft_content_encoder.epochs=1", "sft_content_encoder.learning_rate=0.1"]

    def run_stage_1(word: str) -> str:
        planned = train.plan("SICSRec", "Tiny", [*shared, word])
        train.run_plan([one for one in planned if one[0].name in ("prepare_dataset", *STAGE_1)], force=False)
        return capsys.readouterr().out

    assert tuple(run_stage_1(word).count("written: ") for word in words) == made
    for word in words:
        assert "written: " not in run_stage_1(word)
    home = tmp_path / "d" / "Tiny"
    one, other = (load_features(features_path(home / name, "Tiny", "text"), 15) for name in folders)
    assert one.shape == other.shape and not one.equal(other)
