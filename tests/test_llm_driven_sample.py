from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import pytest
import torch
import transformers
from stage1_helpers import run_python
from tiny import make_tiny_dataset, tiny_sequences
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.dataset import load_dataset
from common.device import pick_compute
from common.errors import UserError
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.answer_log import AnswerLog, prompt_key
from stage1_content_modality_semantic_alignment.llm_driven_sample import Settings
from stage1_content_modality_semantic_alignment.pair_selectors import HfSelector, TfidfSelector
from stage1_content_modality_semantic_alignment.pairs import pairs_path, read_pairs, write_rows
from stage1_content_modality_semantic_alignment.questions import (
    IS_THE_TARGET,
    MALFORMED,
    NONE,
    NOT_A_CANDIDATE,
    PAIR,
    Question,
    accepted_item,
    judge,
    make_question,
    make_questions,
)

SEQUENCE = np.array([7, 3, 9, 1, 4])
TITLES = [f"title {item}" for item in range(10)]
QUESTION = Question(9, (7, 3), "title 9", ("title 7", "title 3"))


# --- questions: S1, S2 ---


def test_s1_target_is_the_last_train_item_and_candidates_precede_it() -> None:
    question = make_question(SEQUENCE, TITLES, target_from_train=True, titles_with_ids=True)
    assert question is not None
    assert (question.target, question.candidates) == (9, (7, 3))


def test_s1_released_target_is_the_test_item() -> None:
    question = make_question(SEQUENCE, TITLES, target_from_train=False, titles_with_ids=True)
    assert question is not None
    assert (question.target, question.candidates) == (4, (7, 3, 9, 1))


def test_s1_by_default_no_prompt_shows_a_validation_or_test_item() -> None:
    questions = make_questions([SEQUENCE], TITLES, target_from_train=True, titles_with_ids=True)
    assert "1-title 1" not in questions[0].prompt and "4-title 4" not in questions[0].prompt


def test_s2_ids_and_titles_are_paired() -> None:
    question = make_question(SEQUENCE, TITLES, target_from_train=True, titles_with_ids=True)
    assert question is not None and question.candidate_titles == ("title 7", "title 3")
    assert "9-title 9" in question.prompt and "7-title 7\n3-title 3" in question.prompt


def test_s2_released_titles_come_in_the_order_of_the_ids() -> None:
    question = make_question(SEQUENCE, TITLES, target_from_train=True, titles_with_ids=False)
    assert question is not None and question.candidates == (7, 3)
    assert question.candidate_titles == ("title 3", "title 7")


def test_a_user_without_earlier_items_is_not_asked_about() -> None:
    assert make_questions([np.array([1, 2, 3]), np.array([1, 2, 3, 4])], TITLES, True, True)[0].target == 2
    assert len(make_questions([np.array([1, 2, 3])], TITLES, True, True)) == 0


def test_candidates_are_distinct_without_the_target_and_the_latest_are_kept() -> None:
    sequence = np.array([5, 2, 5, 8, 2, 6, 8, 0, 1])
    question = make_question(sequence, TITLES, True, True)
    assert question is not None and (question.target, question.candidates) == (8, (5, 2, 6))
    question = make_question(sequence, TITLES, True, True, max_candidates=2)
    assert question is not None and question.candidates == (2, 6)


# --- answers: S3 ---


@pytest.mark.parametrize(
    "answer, verdict, checked, released",
    [
        ("7-title 7", PAIR, 7, 7),
        (" 3-anything\n", PAIR, 3, 3),
        ("7-with, a comma", PAIR, 7, None),
        ("-1", NONE, None, None),
        ("", MALFORMED, None, None),
        ("7", MALFORMED, None, None),
        ("title 7", MALFORMED, None, None),
        ("The answer is 7-title 7", MALFORMED, None, None),
        ("7-title 7\nbecause", MALFORMED, None, 7),
        ("９-全角", MALFORMED, None, None),
        ("9" * 5000 + "-x", MALFORMED, None, None),
        ("5-title 5", NOT_A_CANDIDATE, None, 5),
        ("9-title 9", IS_THE_TARGET, None, 9),
        ("10-beyond the items", NOT_A_CANDIDATE, None, None),
    ],
)
def test_s3_verdicts_and_what_is_accepted(answer: str, verdict: str, checked: Any, released: Any) -> None:
    assert judge(QUESTION, answer)[0] == verdict
    assert accepted_item(QUESTION, answer, answers_checked=True, n_items=10) == checked
    assert accepted_item(QUESTION, answer, answers_checked=False, n_items=10) == released


# --- pair files: S4 ---


def test_s4_titles_with_commas_quotes_and_line_breaks_survive(tmp_path: Path) -> None:
    rows = [('a, "b"', "c\nd"), ("x\r\ny", ""), ("\r", "，")]
    write_rows(tmp_path / "pairs.txt", rows)
    with open(tmp_path / "pairs.txt", encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == rows


def test_published_id_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("26,21\n118,117\n")
    assert read_pairs(tmp_path / "pairs.txt", 200) == [(26, 21), (118, 117)]


@pytest.mark.parametrize(
    "content, fault", [("1,2\n3,x\n", ":2: '3,x'"), ("1,2\n\n3,99\n", ":3: 3,99"), ("1,2,3\n", ":1:"), ("", "no pairs")]
)
def test_a_faulty_id_file_is_named_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "pairs.txt").write_text(content)
    with pytest.raises(UserError, match=fault):
        read_pairs(tmp_path / "pairs.txt", 10)


# --- tfidf ---


def test_tfidf_picks_the_most_similar_title_and_the_first_of_equals() -> None:
    titles = ["spicy noodles", "street dance", "spicy noodle soup", "qqq", "spicy noodle soup"]
    selector = TfidfSelector(titles, threshold=0.1)
    assert selector.answer([Question(0, (1, 4, 2), titles[0], (titles[1], titles[4], titles[2]))]) == ["4-" + titles[4]]


def test_tfidf_answers_none_below_the_threshold() -> None:
    selector = TfidfSelector(["abc", "xyz", "abd"], threshold=0.9)
    assert selector.answer([Question(0, (1, 2), "abc", ("xyz", "abd"))]) == ["-1"]


# --- a run with tfidf ---


def tiny_settings(folder: Path, **changes: Any) -> Settings:
    values: Dict[str, Any] = {"dataset": "Tiny", "datasets_dir": str(folder), "selector": "tfidf", "device": "cpu"}
    return Settings(**{**values, **changes})


def read_log(folder: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_pairs_titles_log_and_summary_and_then_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_tiny_dataset(tmp_path)
    llm_driven_sample.run(tiny_settings(tmp_path))
    folder = home / "pairs" / "tfidf"
    dataset = load_dataset(home, "Tiny")
    pairs = read_pairs(pairs_path(folder, "id"), dataset.n_items)
    for kind, titles in (("cn", dataset.titles_cn), ("en", dataset.titles_en)):
        with open(pairs_path(folder, kind), encoding="utf-8", newline="") as file:
            assert [tuple(row) for row in csv.reader(file)] == [(titles[a], titles[b]) for a, b in pairs]
    summary = json.loads((folder / "summary.json").read_text())["summary"]
    sequences = tiny_sequences()
    asked = {tuple(sequence[:-2]) for sequence in sequences if len(sequence) > 3}
    assert summary["users"] == len(sequences) and summary["verdict pair"] == summary["pairs written"] == len(pairs) > 0
    assert summary["distinct prompts"] == len(asked) == len(read_log(folder))
    for target, similar in pairs:
        assert any(target == s[-3] and similar in s[:-3] for s in sequences)
    llm_driven_sample.run(tiny_settings(tmp_path))
    assert "stands" in capsys.readouterr().out


@pytest.mark.parametrize("switch", ["target_from_train", "titles_with_ids", "answers_checked"])
def test_variant_released_sets_each_switch_and_each_can_be_set_alone(switch: str) -> None:
    paper, released = Settings(), Settings(variant="released")
    assert paper.switch(getattr(paper, switch)) and not released.switch(getattr(released, switch))
    setattr(paper, switch, False)
    assert not paper.switch(getattr(paper, switch))


def test_s1_s2_s3_released_reach_the_files(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    llm_driven_sample.run(tiny_settings(tmp_path, variant="released", strategy="r", tfidf_threshold=0.0))
    logged = read_log(home / "pairs" / "r")
    assert {entry["target"] for entry in logged} == {sequence[-1] for sequence in tiny_sequences()}


# --- the log ---


class CountingSelector:
    identity = {"selector": "counting"}

    def __init__(self) -> None:
        self.asked: List[List[Question]] = []

    def batches(self, questions: Sequence[Question]) -> List[List[Question]]:
        return [list(questions[start : start + 2]) for start in range(0, len(questions), 2)]

    def answer(self, batch: Sequence[Question]) -> List[str]:
        self.asked.append(list(batch))
        return [f"{question.candidates[0]}-x" for question in batch]


def questions_of(count: int) -> List[Question]:
    return [Question(100 + n, (n,), "t", (f"title {n}",)) for n in range(count)]


def test_identical_prompts_are_asked_once(tmp_path: Path) -> None:
    selector = CountingSelector()
    questions = [*questions_of(3), *questions_of(3)]
    answers = llm_driven_sample.ask(questions, selector, AnswerLog(tmp_path / "log"))
    assert answers == ["0-x", "1-x", "2-x"] * 2 and sum(map(len, selector.asked)) == 3


def test_a_resumed_run_asks_only_batches_that_lack_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = llm_driven_sample.ask(questions_of(6), CountingSelector(), AnswerLog(path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while the fourth was written
    selector = CountingSelector()
    assert llm_driven_sample.ask(questions_of(6), selector, AnswerLog(path)) == whole
    assert selector.asked == [questions_of(6)[2:4], questions_of(6)[4:6]]  # in the company they had
    assert path.read_bytes().splitlines(keepends=True) == lines


def test_answers_of_another_model_or_prompt_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "log"
    llm_driven_sample.ask(questions_of(2), CountingSelector(), AnswerLog(path))
    other = CountingSelector()
    other.identity = {"selector": "counting", "model": "other"}
    llm_driven_sample.ask(questions_of(2), other, AnswerLog(path))
    assert len(other.asked) == 1
    assert prompt_key("a", {"m": 1}) != prompt_key("b", {"m": 1})


def test_a_broken_line_inside_the_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    llm_driven_sample.ask(questions_of(2), CountingSelector(), AnswerLog(path))
    path.write_bytes(b"{nonsense\n" + path.read_bytes())
    with pytest.raises(UserError, match="log:1"):
        AnswerLog(path)


def test_killed_and_started_again_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        make_tiny_dataset(tmp_path / name)
    code = f"""
import os, signal
from stage1_content_modality_semantic_alignment import llm_driven_sample, pair_selectors
from stage1_content_modality_semantic_alignment.answer_log import AnswerLog
pair_selectors.TfidfSelector.batches = lambda self, questions: [[question] for question in questions]
append = AnswerLog.append
def append_then_die(self, entries):
    if len(self.answers) == 3:
        with open(self.path, "ab") as out:
            out.write(b'{{"key": "cut')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, entries)
AnswerLog.append = append_then_die
llm_driven_sample.main(["-d", "Tiny", "datasets_dir={tmp_path / "killed"}", "selector=tfidf"])
"""
    assert run_python(code).returncode == -signal.SIGKILL
    files = {}
    for name in ("whole", "killed"):
        llm_driven_sample.run(tiny_settings(tmp_path / name))
        folder = tmp_path / name / "Tiny" / "pairs" / "tfidf"
        files[name] = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
        assert len(files[name]) == 3
        files[name]["log"] = (folder / "answers.jsonl").read_bytes()
    assert files["whole"] == files["killed"]


# --- hf ---


def letter_tokenizer(chat_template: bool) -> PreTrainedTokenizerFast:
    letters = sorted(set("0123456789- abcdefghijklmnopqrstuvwxyz,"))
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<end>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")
    if chat_template:
        fast.chat_template = "a: {{ messages[0]['content'] }} {% if add_generation_prompt %}b:{% endif %}"
    return fast


def save_causal_lm(folder: Path, kind: str, chat_template: bool = False, context: int = 2048) -> str:
    tokenizer = letter_tokenizer(chat_template)
    tokenizer.save_pretrained(folder)
    sizes: Dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "pad_token_id": 1,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    if kind == "glm":
        if not hasattr(transformers, "GlmForCausalLM"):
            pytest.skip("GLM came with transformers 4.46")
        model: Any = transformers.GlmForCausalLM(transformers.GlmConfig(head_dim=16, **sizes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.generation_config.temperature = 0.3  # as chat models come; decoding is greedy even so
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    return str(folder)


CPU = pick_compute("cpu", "fp32")


@pytest.mark.parametrize("kind, chat_template", [("glm", False), ("glm", True), ("llama", True)])
def test_a_left_padded_batch_answers_as_single_prompts(tmp_path: Path, kind: str, chat_template: bool) -> None:
    name = save_causal_lm(tmp_path / "lm", kind, chat_template)
    questions = make_questions([np.array(s) for s in tiny_sequences()], ["abc" * n for n in range(15)], True, True)
    batched = HfSelector(name, CPU, batch_size=4, max_new_tokens=12)
    single = HfSelector(name, CPU, batch_size=1, max_new_tokens=12)
    unique = list(dict.fromkeys(questions))
    answers = {q: a for batch in batched.batches(unique) for q, a in zip(batch, batched.answer(batch))}
    assert answers == {q: single.answer([q])[0] for q in unique}
    assert len({len(batched._tokens([q])[0]) for q in unique}) > 2 and len(set(answers.values())) > 2


def test_batches_hold_every_question_once_longest_first(tmp_path: Path) -> None:
    selector = HfSelector(save_causal_lm(tmp_path / "lm", "llama"), CPU, batch_size=2, max_new_tokens=4)
    questions = questions_of(5) + [Question(1, (2, 3), "long title", ("a", "b"))]
    batches = selector.batches(questions)
    assert batches[0][0] == questions[-1] and sorted(map(len, batches)) == [2, 2, 2]
    assert {q for batch in batches for q in batch} == set(questions)


def test_the_chat_template_is_used_where_there_is_one(tmp_path: Path) -> None:
    with_template = HfSelector(save_causal_lm(tmp_path / "a", "llama", True), CPU, 1, 4)
    without = HfSelector(save_causal_lm(tmp_path / "b", "llama", False), CPU, 1, 4)
    assert with_template._text(QUESTION) == f"a: {QUESTION.prompt} b:"
    assert without._text(QUESTION) == QUESTION.prompt


def test_a_run_with_a_local_llm_logs_each_prompt_and_skips_itself_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_tiny_dataset(tmp_path)
    name = save_causal_lm(tmp_path / "some-chat-model", "llama", True)
    settings = tiny_settings(tmp_path, selector="hf", llm=name, precision="fp32", max_new_tokens=8)
    llm_driven_sample.run(settings)
    logged = read_log(home / "pairs" / "some-chat-model")
    assert all(entry["verdict"] in llm_driven_sample.VERDICTS and entry["prompt"] for entry in logged)
    llm_driven_sample.run(settings)
    assert "stands" in capsys.readouterr().out


def test_a_prompt_beyond_the_context_names_the_cure(tmp_path: Path) -> None:
    selector = HfSelector(save_causal_lm(tmp_path / "lm", "llama", context=64), CPU, 1, 8)
    with pytest.raises(UserError, match="max_candidates"):
        selector.answer([QUESTION])


def test_a_model_that_cannot_be_had_is_one_error_with_the_cure(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path)
    with pytest.raises(UserError, match="selector=tfidf"):
        llm_driven_sample.run(tiny_settings(tmp_path, selector="hf", llm=str(tmp_path / "nowhere")))


def test_remote_code_needs_the_explicit_setting(tmp_path: Path) -> None:
    assert Settings().trust_remote_code is False
    folder = Path(save_causal_lm(tmp_path / "lm", "llama"))
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="homemade", auto_map={"AutoConfig": "home.Made", "AutoModelForCausalLM": "home.Made"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "home.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Made: pass\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        HfSelector(str(folder), CPU, 1, 4).model  # noqa: B018
    assert not (tmp_path / "ran").exists()
