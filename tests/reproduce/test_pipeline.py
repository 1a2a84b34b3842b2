"""run_train.sh and run_test.sh: settings reach the right steps, and the whole way runs on tiny data."""

import os
import subprocess
import sys

import pytest
from tiny import make_tiny_dataset

from common.errors import UserError
from common.files import checksum, write_json, write_text
from common.settings import REPOSITORY
from reproduce import test as test_script
from reproduce import train
from reproduce.steps import pipeline, route

SMALL = ["hidden_size=8", "inner_size=8", "epochs=2", "device=cpu", "sft_content_encoder.epochs=1"]


def bash(script, *words, **environment):
    return subprocess.run(
        ["bash", str(REPOSITORY / script), *words],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def names(planned):
    return [step.name for step, _ in planned]


def test_plain_keys_reach_every_step_that_knows_them():
    routed = route(pipeline("SICSRec"), {"seed": 7, "alpha": 0.5})
    assert routed["SICSRec"] == {"seed": 7, "alpha": 0.5}
    assert routed["sft_content_encoder"] == {"seed": 7}
    assert routed["recbole_process"] == {}


def test_epochs_are_stage_2s_unless_named():
    routed = route(pipeline("SICSRec"), {"epochs": 3, "sft_content_encoder.epochs": 1, "ID_SeqEncoder.epochs": 9})
    assert [routed[s]["epochs"] for s in ("sft_content_encoder", "ID_SeqEncoder", "SICSRec")] == [1, 9, 3]
    assert "epochs" not in route(pipeline("SICSRec"), {"epochs": 3})["sft_content_encoder"]


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("SASRec", ["hidden_size=65"], "hidden_size=65 is not a multiple of n_heads=2"),
        ("SICSRec", ["n_heads=3"], "hidden_size=256 is not a multiple of n_heads=3"),
        ("CORE", ["n_heads=3"], "embedding_size=64 is not a multiple"),
        ("SICSRec", ["modalities=[text]", "losses=[i2i]"], "none of them can be taken"),
        ("SICSRec", ["targets=all"], "'targets' is 'all'; it must be last, every"),
        ("SICSRec", ["run=a/b"], "run=a/b: is not the name of a folder"),
        ("ADRec", ["run=../b"], "is not the name of a folder"),
        ("ADRec", ["offset_dropout=0.5"], "offset_dropout=0.5 has no effect without item_offsets=true"),
        ("ADRec", ["train_text=false", "text_learning_rate=0.1"], "no effect without train_text=true"),
    ],
)
def test_values_that_do_not_go_together_stop_before_the_first_step(model, words, message):
    with pytest.raises(UserError, match=message):
        train.plan(model, "ml-100k", words)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("alhpa", "unknown setting 'alhpa'; did you mean 'alpha'"),
        ("SICSRek.alpha", "no step 'SICSRek'; did you mean 'SICSRec'"),
        ("SICSRec.alhpa", "has no setting 'alhpa'; did you mean 'alpha'"),
    ],
)
def test_unknown_keys_are_refused(key, message):
    with pytest.raises(UserError, match=message):
        route(pipeline("SICSRec"), {key: 1})


def test_steps_that_are_not_needed_are_left_out():
    all_steps = names(train.plan("SICSRec", "ml-100k", []))
    assert all_steps == [step.name for step in pipeline("SICSRec")]
    text_only = names(train.plan("SICSRec", "ml-100k", ["modalities=[text]"]))
    assert "use_finetune_swinbase" not in text_only and "use_finetune_bert" in text_only
    with_features = names(train.plan("SICSRec", "ml-100k", ["features_dir=x"]))
    assert with_features == ["prepare_dataset", "recbole_process", "ID_SeqEncoder", "SICSRec"]
    assert "ID_SeqEncoder" not in names(train.plan("SICSRec", "ml-100k", ["pretrain_id=x"]))
    assert names(train.plan("ID_SeqEncoder", "ml-100k", [])) == ["prepare_dataset", "recbole_process", "ID_SeqEncoder"]


def test_both_steps_share_their_width():
    planned = {step.name: settings for step, settings in train.plan("SICSRec", "ml-100k", ["SICSRec.n_heads=4"])}
    assert planned["ID_SeqEncoder"].n_heads == planned["SICSRec"].n_heads == 4
    words = ["n_heads=3", "SICSRec.hidden_size=300"]  # 256, step 1's by itself, has no third
    both = train.plan("SICSRec", "ml-100k", words)[-2:]
    assert [(settings.hidden_size, settings.n_heads) for _, settings in both] == 2 * [(300, 3)]


def test_from_files_to_table_and_again(tmp_path):
    source = make_tiny_dataset(tmp_path / "source")
    folders = [f"datasets_dir={tmp_path / 'd'}", f"results_dir={tmp_path / 'r'}"]
    words = ["SICSRec", "Tiny", f"data_dir={source}", *folders, f"finetune_dir={tmp_path / 'f'}", *SMALL]
    words += ["selector=tfidf", "text_model=small", "image_model=small", "tfidf_threshold=0.01"]
    first = bash("run_train.sh", *words)
    assert first.returncode == 0, first.stderr + first.stdout
    second = bash("run_train.sh", *words)
    assert second.returncode == 0, second.stderr
    assert "epoch 0" in first.stdout and "epoch 0" not in second.stdout
    for step in pipeline("SICSRec"):
        assert f" {step.name}\n" in second.stdout
    table = bash("run_test.sh", "SICSRec", "Tiny", *folders, "device=cpu")
    assert table.returncode == 0, table.stderr
    rows = [line for line in table.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].split()[0] for row in rows[2:]] == ["ID_SeqEncoder", "SICSRec"]
    home = tmp_path / "r" / "SICSRec" / "Tiny"
    masked = bash("run_test.sh", "SICSRec", "Tiny", *folders, "device=cpu", "alpha=.20", "--masked")
    assert masked.returncode == 0 and "history masked" in masked.stdout and (home / "table.csv").is_file()
    assert (home / "table-alpha-.20-masked.csv").read_text() != (home / "table.csv").read_text()
    wrong = bash("run_test.sh", "SICSRec", "Tiny", *folders, "aplha=1")
    assert wrong.returncode == 1 and "did you mean 'alpha'" in wrong.stderr


def test_errors_are_one_line_and_leave_nothing(tmp_path):
    for words, message in (
        (["SICSRecc"], "did you mean 'SICSRec'"),
        (["alpha=1"], "name MODEL and DATASET before settings"),
        (["SICSRec", "ml-100k", "dataset=x"], "second argument"),
        (["SICSRec", "Nothing", f"datasets_dir={tmp_path / 'd'}"], "data_dir"),
    ):
        failed = bash("run_train.sh", *words)
        assert failed.returncode == 1 and message in failed.stderr and "Traceback" not in failed.stderr
    told = bash("run_test.sh", "--help").stdout
    assert "--masked" in told and "llm_driven_sample" not in told
    nothing = bash("run_test.sh", "SICSRec", "Nothing", f"results_dir={tmp_path}")
    assert nothing.returncode == 1 and "train with: bash run_train.sh SICSRec Nothing" in nothing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "covers: no such folder; .* modalities=.text."),
        (["modalities=[text]", "text_model=/none"], "/none: no such"),
    ],
)
def test_covers_and_encoders_are_looked_for_before_an_llm_is_asked(tmp_path, monkeypatch, words, message):
    make_tiny_dataset(tmp_path / "d", covers=False)
    monkeypatch.setattr(train.llm_driven_sample, "run", lambda *_: pytest.fail("was asked"))
    planned = train.plan("SICSRec", "Tiny", [f"datasets_dir={tmp_path / 'd'}", f"data_dir={tmp_path / 'd'}", *words])
    with pytest.raises(UserError, match=message):
        train.run_plan(planned, force=False)


def test_what_both_steps_share_is_told_to_both(tmp_path):
    words = [f"datasets_dir={tmp_path}", "hidden_size=64"]
    for word in ("ID_SeqEncoder.hidden_size=128", "ID_SeqEncoder.seed=7"):
        with pytest.raises(UserError, match="ID_SeqEncoder.* both steps share it"):
            train.plan("SICSRec", "Tiny", [*words, word])
    planned = {step.name: settings for step, settings in train.plan("SICSRec", "Tiny", words)}
    assert [planned[name].hidden_size for name in ("ID_SeqEncoder", "SICSRec")] == [64, 64]


def test_features_go_where_stage_2_looks(tmp_path):
    words = [f"datasets_dir={tmp_path}", "modalities=[text]", f"use_finetune_bert.features_dir={tmp_path / 'own'}"]
    assert train.plan("SICSRec", "Tiny", words)[-1][1].features_dir == str(tmp_path / "own")
    with pytest.raises(UserError, match="text and image features go into one folder"):
        train.plan("SICSRec", "Tiny", [words[0], words[2]])


def run_of(folder, seed, **settings):
    encoder = folder / f"id{seed}" / "best.pth"
    write_text(encoder, str(seed))
    write_json(encoder.with_name("made.json"), {"settings": {"seed": seed}, "inputs": {}})
    write_json(encoder.with_name("metrics.json"), {"model": "ID_SeqEncoder"})
    started_from = {"id_encoder": {"path": str(encoder), "sha256": checksum(encoder)}}
    made = {"settings": {"seed": seed, "variant": "paper", **settings}, "inputs": started_from}
    metrics = dict.fromkeys(test_script.METRICS, seed / 10)
    result = {
        "model": "SICSRec",
        "test": metrics,
        "valid": {"hit@10": 0.5, "ndcg@10": 0.25},
        "epochs": 4,
        "seconds": 2.0,
    }
    return test_script.Run(folder, made, result)


def test_table_takes_mean_and_deviation_over_seeds(tmp_path):
    runs = [run_of(tmp_path, seed, processes=1) for seed in (1, 3)]
    runs += [run_of(tmp_path, 2, alpha=0.1 + 0.2, processes=1), run_of(tmp_path, 2, processes=2)]
    rows = test_script.table(runs, "test")
    assert [row[0] for row in rows[1:]] == [f"SICSRec (paper{told})" for told in ("", ", alpha=0.3", ", processes=2")]
    assert rows[1][1:3] == ["2", "0.2000 ± 0.1414"]  # of 0.1 and 0.3: √(2 · 0.1² / (2 − 1))
    assert rows[2][1:3] == ["1", "0.2000"] and rows[2][-4:] == ["0.5000", "0.2500", "4", "2"]
    again = test_script.table([*runs[:2], run_of(tmp_path, 3, processes=1)], "test")  # a seed run under another name
    assert again[1][1:3] == ["2 (3 runs)", "0.2000 ± 0.1414"]
