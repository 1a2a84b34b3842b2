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


@pytest.mark.parametrize(
    ("words", "pairs", "folder"),
    [
        (["selector=tfidf"], "paper", "paper-seed7"),  # the pairs are the same whatever the seed
        (["selector=tfidf", "losses=[t2t]"], "paper", "paper-t2t-seed7"),
        (["selector=random"], "paper-seed7", "paper-seed7"),
        (["selector=random", "strategy=mine"], "mine-seed7", "mine-seed7"),
        (["selector=tfidf", "sample=5"], "paper-seed7", "paper-seed7"),
        (["losses=[]"], None, "pretrained-seed7"),
    ],
)
def test_what_another_seed_makes_lies_beside(words: Any, pairs: Any, folder: str) -> None:
    planned = {step.name: settings for step, settings in train.plan("SICSRec", "Bili_Food", [*words, "seed=7"])}
    assert ("llm_driven_sample" in planned) == (pairs is not None)
    assert pairs is None or strategy_of(planned["llm_driven_sample"]) == pairs
    exports = [planned[name] for name in ("use_finetune_bert", "use_finetune_swinbase")]
    assert {planned["sft_content_encoder"].finetuned_dir, *(e.finetuned_dir for e in exports)} == {
        Path("finetune_llm/Bili_Food/64") / folder
    }
    assert {Path(s.features_dir) for s in [*exports, planned["SICSRec"]]} == {Path("datasets/Bili_Food") / folder}


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


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["modalities=[text]"], "paper-text"),
        (["modalities=[image]", "losses=[i2i]"], "paper-i2i-image"),
        (["modalities=[text]", "losses=[]", "seed=7"], "pretrained-text-seed7"),
        (["modalities=[image,text]"], "paper"),
        (["sft_content_encoder.modalities=[text]", "SICSRec.modalities=[text]"], "paper-text"),
        (["SICSRec.modalities=[text]"], "paper"),  # stage 2 alone: the encoders are still tuned on both
    ],
)
def test_one_modality_alone_is_in_the_names(words: Any, folder: str) -> None:
    planned = {step.name: settings for step, settings in train.plan("SICSRec", "ml-100k", words)}
    tuned = [planned[name] for name in planned if name in ("sft_content_encoder", *EXPORTS)]
    assert {settings.finetuned_dir for settings in tuned} == {Path("finetune_llm/ml-100k/64") / folder}
    read = None if folder == "paper" else f"datasets/ml-100k/{folder}"
    assert {planned[name].features_dir for name in (*EXPORTS, "SICSRec") if name in planned} == {read}


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


@pytest.mark.parametrize(
    ("words", "made", "folders"),
    [
        (("variant=paper", "variant=released"), (4, 4), (".", "released")),
        (("modalities=[text,image]", "modalities=[text]"), (4, 2), (".", "paper-text")),  # from the same pairs
    ],
)
def test_changing_variant_or_modalities_to_and_fro_makes_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Any, made: Any, folders: Any
) -> None:
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
