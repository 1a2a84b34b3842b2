"""run_train.sh and run_test.sh: settings reach the right steps, and the whole pipeline runs on tiny data."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from read_only import read_only
from tiny import make_tiny_dataset

from common.errors import UserError
from common.settings import REPOSITORY, shaping
from reproduce import test as test_script
from reproduce import train
from reproduce.pipeline import PIPELINES, STAGE_1, pipeline, route
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage2_sequence_preference_learning import SICSRec_main1

SMALL = ["hidden_size=8", "inner_size=8", "epochs=2", "device=cpu", "sft_content_encoder.epochs=1"]


def bash(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(REPOSITORY / script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def planned(*words: str, model: str = "SICSRec", dataset: str = "ml-100k") -> Dict[str, Any]:
    """Step → its settings, in order."""
    return {step.name: settings for step, settings in train.plan(model, dataset, words)}


@pytest.mark.parametrize(
    ("values", "step", "expected"),
    [
        ({"seed": 7, "alpha": 0.5}, "SICSRec", {"seed": 7, "alpha": 0.5}),
        ({"seed": 7, "alpha": 0.5}, "sft_content_encoder", {"seed": 7}),
        ({"seed": 7, "alpha": 0.5}, "prepare_dataset", {}),
        ({"strategy": "a"}, "llm_driven_sample", {"strategy": "a"}),
        ({"strategy": "a"}, "use_finetune_bert", {"strategy": "a"}),
        ({"epochs": 3}, "sft_content_encoder", {}),  # a plain key that both stages have is that of stage 2
        ({"train_batch_size": 3}, "sft_content_encoder", {}),
        ({"epochs": 3}, "ID_SeqEncoder", {"epochs": 3}),
        ({"sft_content_encoder.epochs": 1, "epochs": 3}, "sft_content_encoder", {"epochs": 1}),
        ({"SICSRec.epochs": 9, "epochs": 3}, "SICSRec", {"epochs": 9}),
        ({"SICSRec.epochs": 9, "epochs": 3}, "ID_SeqEncoder", {"epochs": 3}),
    ],
)
def test_settings_reach_the_steps_that_have_them(values: Dict[str, Any], step: str, expected: Dict[str, Any]) -> None:
    assert route(pipeline("SICSRec"), values)[step] == expected


def test_step_1_has_the_seed_of_the_trial_that_it_is_trained_for() -> None:
    settings = planned("seed=7", "hidden_size=8", "epochs=3", "ID_SeqEncoder.epochs=5", "n_trials=2")["SICSRec"]
    trial = SICSRec_main1.id_settings(dataclasses.replace(settings, seed=settings.search_seed))
    assert (trial.seed, trial.hidden_size, trial.epochs) == (settings.search_seed, 8, 5)
    with pytest.raises(UserError, match="both steps need the same"):
        planned("seed=7", "ID_SeqEncoder.seed=8")


@pytest.mark.parametrize("model", ["SICSRec", "ADRec", "SASRecText"])
def test_printed_settings_give_the_same_plan(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["variant=released", "seed=7", "run=007", "learning_rate=1e-4"][model == "SASRecText" :]
    train.main([model, "D", *words, "--print-config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    again = planned(f"config={tmp_path / 'printed.yaml'}", model=model, dataset="D")
    first = planned(*words, model=model, dataset="D")
    assert {name: shaping(own) for name, own in again.items()} == {name: shaping(own) for name, own in first.items()}
    assert again[model].run == first[model].run == "007"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("alhpa", "unknown setting 'alhpa'; did you mean 'alpha'"),
        ("SICSRek.alpha", "no step 'SICSRek'; did you mean 'SICSRec'"),
        ("SICSRec.alhpa", "has no setting 'alhpa'; did you mean 'alpha'"),
    ],
)
def test_unknown_keys_are_errors(key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        route(pipeline("SICSRec"), {key: 1})


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("SASRec", ["hidden_size=65"], "hidden_size=65 is not a multiple of n_heads=2"),
        ("SICSRec", ["n_heads=3"], "hidden_size=256 is not a multiple of n_heads=3"),
        ("CORE", ["n_heads=3"], "hidden_size=64 is not a multiple"),
        ("SICSRec", ["modalities=[text]", "losses=[i2i]"], "losses"),
        ("SICSRec", ["run=a/b"], "run=a/b: .* the name of a folder"),
        ("SICSRec", ["ID_SeqEncoder.hidden_size=128"], "both steps"),
        ("SICSRec", ["ID_SeqEncoder.seed=7"], "both steps"),
        ("SICSRec", ["n_trials=2", "search_space={alhpa: [1]}"], "search_space: .*'alhpa'; did you mean 'alpha'"),
        ("SICSRec", ["dataset=x"], "second argument"),
        ("SICSRecc", [], "unknown model 'SICSRecc'; did you mean 'SICSRec'"),
        ("ADRec", ["offset_dropout=0.5"], "offset_dropout=0.5 has no effect without item_offsets=true"),
        ("ADRec", ["item_offsets=true", "offset_directions=8"], "offset_directions=8 has no effect without adapter"),
    ],
)
def test_settings_that_do_not_go_together_stop_before_the_first_step(
    model: str, words: List[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.plan(model, "ml-100k", words)


@pytest.mark.parametrize(
    ("words", "skipped"),
    [
        ([], []),
        (["modalities=[text]"], ["use_finetune_swinbase"]),
        (["losses=[]"], ["llm_driven_sample"]),
        (["features_dir=x"], STAGE_1),
        (["pretrain_id=x"], ["ID_SeqEncoder"]),
    ],
)
def test_steps_that_are_not_needed_are_skipped(words: List[str], skipped: List[str]) -> None:
    assert list(planned(*words)) == [name for name in PIPELINES["SICSRec"] if name not in skipped]


def test_both_steps_of_stage_2_have_the_same_sizes() -> None:
    for words, expected in (
        (["SICSRec.n_heads=4"], (256, 4)),
        (["n_heads=3", "SICSRec.hidden_size=300"], (300, 3)),  # the default of step 1, 256, has no third
    ):
        settings = planned(*words)
        for name in ("ID_SeqEncoder", "SICSRec"):
            assert (settings[name].hidden_size, settings[name].n_heads) == expected


def test_config_stands_for_the_settings_of_a_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("momentum: 0.5\nqueue_size: 77\n")
    words = [f"config={own}", "queue_size=8"]
    settings = planned(*words, model="ADRec")["ADRec"]
    assert (settings.momentum, settings.queue_size) == (0.5, 8)  # the command line wins
    for text, message in (
        ("momentun: 0.5", "own.yaml: unknown setting 'momentun'; did you mean 'momentum'"),
        ("momentum: 7", "own.yaml: setting 'momentum' is 7.0; it must be from 0 to 1"),
    ):
        own.write_text(text)
        with pytest.raises(UserError, match=message):
            planned(*words, model="ADRec")
    with pytest.raises(UserError, match="none.yaml: no such settings file"):
        planned("config=none.yaml", model="ADRec")
    monkeypatch.chdir(tmp_path)  # a path of the project is found from any folder
    assert planned("config=adrec/ours.yaml", model="ADRec")["ADRec"].item_offsets


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "covers: no such folder; .* modalities=.text."),
        (["modalities=[text]", "text_model=/none"], "/none: no such"),
    ],
)
def test_covers_and_encoders_are_looked_for_before_an_llm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: List[str], message: str
) -> None:
    make_tiny_dataset(tmp_path, covers=False)
    monkeypatch.setattr(llm_driven_sample, "run", lambda *_: pytest.fail("was asked"))
    steps = train.plan("SICSRec", "Tiny", [f"datasets_dir={tmp_path}", f"data_dir={tmp_path}", *words])
    with pytest.raises(UserError, match=message):
        train.run_plan(steps, force=False)


def test_missing_data_and_features_are_errors_before_the_first_step(tmp_path: Path) -> None:
    folder = f"datasets_dir={tmp_path / 'd'}"
    for dataset, words, message in (
        ("ml100k", [], "no data set 'ml100k' in .*did you mean 'ml-100k'.*data_dir=FOLDER"),
        ("ml-100k", ["features_dir=none"], "none/ml-100k_text_llm_stage1.pth: .*reproduce.standin"),
    ):
        with pytest.raises(UserError, match=message):
            train.run_plan(train.plan("SICSRec", dataset, [folder, *words]), force=False)
    assert not (tmp_path / "d").exists()


def test_from_files_to_a_table_and_again_in_read_only_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tiny_dataset(tmp_path / "source")
    folders = [f"datasets_dir={tmp_path / 'd'}", f"results_dir={tmp_path / 'r'}"]
    words = ["SICSRec", "Tiny", f"data_dir={source}", *folders, f"finetune_dir={tmp_path / 'f'}", *SMALL]
    words += ["selector=tfidf", "strategy=tfidf", "text_model=small", "image_model=small", "tfidf_threshold=0.01"]
    first = bash("run_train.sh", *words)
    assert first.returncode == 0, first.stderr + first.stdout
    with read_only(tmp_path):
        train.main(words)
    second = capsys.readouterr().out
    assert "epoch 1 [" in first.stdout and "epoch 1 [" not in second
    assert all(f" {step}\n" in second for step in PIPELINES["SICSRec"])
    table = bash("run_test.sh", "SICSRec", "Tiny", *folders, "device=cpu")
    assert table.returncode == 0, table.stderr
    rows = [line for line in table.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].split()[0] for row in rows[2:]] == ["ID_SeqEncoder", "SICSRec"]
    home = tmp_path / "r" / "SICSRec" / "Tiny"
    with read_only(tmp_path):
        test_script.main(["SICSRec", "Tiny", *folders, "device=cpu"])
    assert capsys.readouterr().out == table.stdout
    masked = bash("run_test.sh", "SICSRec", "Tiny", *folders, "device=cpu", "alpha=.20", "--masked")
    assert masked.returncode == 0 and "history masked" in masked.stdout
    assert (home / "table-alpha=.20-masked.csv").read_text() != (home / "table.csv").read_text()


def test_errors_are_one_line(tmp_path: Path) -> None:
    for script, words, message in (
        ("run_train.sh", ["SICSRecc"], "did you mean 'SICSRec'"),
        ("run_train.sh", ["alpha=1"], "name MODEL and DATASET before settings"),
        ("run_test.sh", ["SICSRec", "Nothing", f"results_dir={tmp_path}"], "bash run_train.sh SICSRec Nothing"),
        ("run_test.sh", ["SICSRec", "ml-100k", "aplha=1"], "did you mean 'alpha'"),
    ):
        failed = bash(script, *words)
        assert failed.returncode == 1 and message in failed.stderr and failed.stderr.count("\n") == 1


def test_stage_1s_ablations_are_kept_side_by_side_by_their_strategies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tiny_dataset(tmp_path / "source")
    words = [f"data_dir={source}", f"datasets_dir={tmp_path / 'd'}", f"finetune_dir={tmp_path / 'f'}"]
    words += ["text_model=small", "modalities=[text]", f"results_dir={tmp_path / 'r'}"]
    words += ["tfidf_threshold=0.01", "sft_content_encoder.learning_rate=0.1", *SMALL]
    rows = (["selector=tfidf", "strategy=tfidf"], ["selector=random", "strategy=random"], ["losses=[]", "strategy=pre"])
    plans = [train.plan("Content_SeqEncoder", "Tiny", [*words, *row]) for row in rows]
    first = [train.run_plan(steps, force=False) for steps in plans]
    assert len(set(first)) == 3
    capsys.readouterr()
    assert [train.run_plan(steps, force=False) for steps in plans] == first
    assert "written: " not in capsys.readouterr().out
