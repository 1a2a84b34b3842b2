"""What ``variant=released`` makes in stage 1 lies beside what ``variant=paper`` makes: neither undoes the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from tiny import make_tiny_dataset

from common.features import features_path, load_features
from reproduce import train
from stage1_content_modality_semantic_alignment import sft_content_encoder, use_finetune_bert
from stage2_sequence_preference_learning.settings import ContentSettings, features_folder

STAGE_1 = slice(0, 5)


def strategies(*words: str, dataset: str = "Bili_Food") -> Dict[str, str]:
    planned = train.plan("SICSRec", dataset, words)
    return {step.name: settings.strategy_name for step, settings in planned if hasattr(settings, "strategy")}


@pytest.mark.parametrize(
    ("dataset", "words", "expected"),
    [
        ("Bili_Food", (), "glm-4-9b-chat-hf"),
        ("Bili_Food", ("variant=released",), "glm-4-9b-chat-hf-released"),
        ("ml-100k", (), "tfidf"),
        ("ml-100k", ("variant=released",), "tfidf-released"),
        ("Bili_Food", ("selector=tfidf",), "tfidf"),
        ("Bili_Food", ("llm=/models/other",), "other"),
        ("Bili_Food", ("variant=released", "strategy=published"), "published"),
    ],
)
def test_every_step_works_on_the_pairs_that_the_first_one_chose(dataset: str, words: Any, expected: str) -> None:
    assert set(strategies(*words, dataset=dataset).values()) == {expected}


@pytest.mark.parametrize(
    ("words", "pairs", "folder"),
    [
        (["selector=tfidf"], "tfidf", "tfidf-seed7"),  # the pairs are the same whatever the seed
        (["selector=tfidf", "losses=[t2t]"], "tfidf", "tfidf-t2t-seed7"),
        (["selector=random"], "random-seed7", "random-seed7"),
        (["selector=random", "strategy=mine"], "mine-seed7", "mine-seed7"),
        (["selector=tfidf", "sample=5"], "tfidf-seed7", "tfidf-seed7"),
        (["losses=[]"], None, "pretrained-seed7"),
    ],
)
def test_what_another_seed_makes_lies_beside(words: Any, pairs: Any, folder: str) -> None:
    planned = {step.name: settings for step, settings in train.plan("SICSRec", "Bili_Food", [*words, "seed=7"])}
    assert ("llm_driven_sample" in planned) == (pairs is not None)
    assert pairs is None or planned["llm_driven_sample"].strategy_name == pairs
    exports = [planned[name] for name in ("use_finetune_bert", "use_finetune_swinbase")]
    assert {planned["sft_content_encoder"].finetuned_dir, *(e.finetuned_dir for e in exports)} == {
        Path("finetune_llm/Bili_Food/64") / folder
    }
    assert {Path(s.features_dir) for s in [*exports, planned["SICSRec"]]} == {Path("datasets/Bili_Food") / folder}


def test_a_script_by_itself_looks_where_the_one_before_wrote() -> None:
    assert sft_content_encoder.Settings(dataset="ml-100k").strategy_name == "tfidf"
    exported = use_finetune_bert.Settings(dataset="ml-100k", variant="released", finetune_dir="f")
    assert exported.finetuned_dir == Path("f/ml-100k/64/tfidf-released")


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


def test_changing_the_variant_to_and_fro_makes_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tiny_dataset(tmp_path / "source")
    words = [f"data_dir={source}", f"datasets_dir={tmp_path / 'd'}", f"finetune_dir={tmp_path / 'f'}", "device=cpu"]
    words += ["selector=tfidf", "tfidf_threshold=0.01", "text_model=small", "image_model=small"]
    words += ["sft_content_encoder.epochs=1", "sft_content_encoder.learning_rate=0.1"]

    def run_stage_1(variant: str) -> str:
        train.run_plan(train.plan("SICSRec", "Tiny", [*words, f"variant={variant}"])[STAGE_1], force=False)
        return capsys.readouterr().out

    for variant in ("paper", "released"):
        assert run_stage_1(variant).count("written: ") == 4
    for variant in ("paper", "released"):
        printed = run_stage_1(variant)
        assert "written: " not in printed and printed.count("stands, made from the same") == 4
    home = tmp_path / "d" / "Tiny"
    paper, released = (
        load_features(features_path(home / name, "Tiny", "text"), 15) for name in ("tfidf", "tfidf-released")
    )
    assert paper.shape == released.shape and not paper.equal(released)
