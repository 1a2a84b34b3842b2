"""What users of the authors' scripts type, and the keys of their YAMLs: read with the same meaning, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import pytest

from common.errors import UserError
from common.settings import as_dict, build, split_overrides
from reproduce import train
from stage2_sequence_preference_learning import SICSRec_main1, content_encoder_main1, id_encoder_main1
from stage2_sequence_preference_learning.settings import RECBOLE, SICSRecSettings

RELEASED = """
n_layers: 1
n_heads: 4
hidden_size: 64
inner_size: 32
hidden_dropout_prob: 0.1
attn_dropout_prob: 0.2
item_dropout: 0.3
lamba: 0.02
hidden_act: 'relu'
layer_norm_eps: 1e-8
initializer_range: 0.01
learning_rate: 1e-2
stopping_step: 3
train_batch_size: 99
seed: 7
valid_metric: NDCG@5
MAX_ITEM_LIST_LENGTH: 40
loss_type: 'CE'
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
load_col: {inter: [user_id, item_id_list, item_id]}
alias_of_item_id: [item_id_list]
benchmark_filename: ['train', 'valid', 'test']
eval_batch_size: 2048
metrics: ["Hit", "NDCG"]
topk: [5, 10]
eval_args: {split: {LS: valid_and_test}, order: TO, mode: full, group_by: null}
train_neg_sample_args:
gpu_id: 0
"""


def test_a_released_yaml_means_the_same_here(tmp_path: Path) -> None:
    (tmp_path / "released.yaml").write_text(RELEASED, encoding="utf-8")
    s = build(SICSRecSettings, {}, config_file=tmp_path / "released.yaml")
    assert (s.n_layers, s.n_heads, s.hidden_size, s.inner_size) == (1, 4, 64, 32)
    assert (s.hidden_dropout_prob, s.attn_dropout_prob, s.item_dropout, s.lamba) == (0.1, 0.2, 0.3, 0.02)
    assert (s.hidden_act, s.layer_norm_eps, s.initializer_range, s.learning_rate) == ("relu", 1e-8, 0.01, 0.01)
    assert (s.stopping_step, s.train_batch_size, s.seed, s.valid_metric) == (3, 99, 7, "ndcg@5")
    assert s.max_seq_length == 40


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("loss_type=BPR", "cross entropy"),
        ("train_neg_sample_args={distribution: uniform}", "n_negatives"),
        ("metrics=[Hit, Recall]", "metrics.json has HIT and NDCG"),
        ("topk=[20]", "@5 and @10"),
        ("eval_args={mode: uni100}", "all items are ranked"),
        ("eval_args={split: {RS: [0.8, 0.1, 0.1]}}", "leave one out"),
        ("load_col={inter: [user_id, item_id, rating]}", "recbole_process.py writes"),
        ("gpu_id=1", "use device=cuda:N"),
        ("checkpoint_dir=saved", "use results_dir"),
        ("data_path=dataset", "use datasets_dir"),
        ("learner=sgd", "Adam"),
        ("model=SICSRec", "script"),
    ],
)
def test_a_key_of_recbole_with_another_meaning_is_refused_with_the_reason(word: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"remove use_gpu=False .*; {word.partition('=')[0]}=.*\(.*{reason}"):
        build(SICSRecSettings, split_overrides(["use_gpu=false", word]))


def test_a_setting_by_both_names_is_refused() -> None:
    with pytest.raises(UserError, match="'max_seq_length' is given twice, also by another name"):
        build(SICSRecSettings, split_overrides(["max_seq_length=9", "MAX_ITEM_LIST_LENGTH=8"]))


def test_recbole_names_are_no_names_of_settings_and_reach_the_steps_of_run_train() -> None:
    assert not set(RECBOLE) & set(as_dict(SICSRecSettings()))
    steps = {step.name: settings for step, settings in train.plan("SICSRec", "ml-100k", ["MAX_ITEM_LIST_LENGTH=9"])}
    models: Any = [steps["ID_SeqEncoder"], steps["SICSRec"]]
    assert [settings.max_seq_length for settings in models] == [9, 9]


@pytest.mark.parametrize(
    ("script", "words", "found"),
    [
        (id_encoder_main1, ["-m", "ID_SeqEncoder", "-d", "D"], ("D", 0, None)),
        (content_encoder_main1, ["-m", "Content_SeqEncoder", "-d", "D", "--n_trials", "4"], ("D", 4, None)),
        (SICSRec_main1, ["-m", "SICSRec", "-d", "D", "-pretrain_id", "a.pth", "--n_trials=10"], ("D", 10, "a.pth")),
    ],
)
def test_the_authors_command_lines_work(
    script: Any, words: List[str], found: Tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: List[Any] = []
    monkeypatch.setattr(script, "train", lambda settings, force: given.append(settings))
    script.main(words)
    (settings,) = given
    values = vars(settings)
    assert (settings.dataset, values.get("n_trials", 0), values.get("pretrain_id")) == found


@pytest.mark.parametrize("script", [id_encoder_main1, content_encoder_main1, SICSRec_main1])
def test_another_model_is_refused(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["-m", "SASRec", "-d", "D"])
    assert caught.value.code == 2 and "invalid choice: 'SASRec'" in capsys.readouterr().err
