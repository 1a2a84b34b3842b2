from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Type

import numpy as np
import pytest
import torch
import transformers
from stage1_helpers import pairs_settings, question_of, read_log
from tiny import make_tiny_dataset, tiny_sequences
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.compute import pick_compute
from common.errors import UserError
from common.named_models import NAMED_MODELS
from importers.settings import Settings as ImporterSettings
from reproduce.doctor import installed_version
from stage1_content_modality_semantic_alignment import llm_driven_sample, prepare_dataset
from stage1_content_modality_semantic_alignment.llm import selectors
from stage1_content_modality_semantic_alignment.llm.answers import CUT, VERDICTS
from stage1_content_modality_semantic_alignment.llm.prompts import Question, make_questions
from stage1_content_modality_semantic_alignment.llm.selectors import HfSelector, LikelihoodSelector, draft
from stage1_content_modality_semantic_alignment.llm.settings import Settings

QUESTION = question_of(9, 7, 3)


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
    elif kind == "gpt2":
        if transformers.__version__ < "4.5":
            pytest.skip("GPT-2's cache was a tuple")
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    elif kind == "mistral":
        model = transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=64, **sizes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.generation_config.temperature = 0.3  # as chat models come; decoding is greedy even so
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    return str(folder)


def selector_of(
    model: str, batch_size: int = 1, max_new_tokens: int = 8, kind: Type[HfSelector] = HfSelector
) -> HfSelector:
    settings = Settings(llm=model, llm_batch_size=batch_size, max_new_tokens=max_new_tokens)
    return kind(settings, pick_compute("cpu", "fp32"))


def tiny_questions() -> List[Question]:
    sequences, titles = [np.array(s) for s in tiny_sequences()], ["abc" * n for n in range(15)]
    return list(
        dict.fromkeys(make_questions(sequences, [len(sequence) - 2 for sequence in sequences], titles, Settings()))
    )


@pytest.mark.parametrize(
    "kind, chat_template",
    [("glm", False), ("glm", True), ("llama", True), ("mistral", True)],  # mistral: a window
)
def test_a_padded_batch_answers_as_single_prompts(tmp_path: Path, kind: str, chat_template: bool) -> None:
    name = save_causal_lm(tmp_path / "lm", kind, chat_template)
    questions = tiny_questions()
    batched = selector_of(name, 4, 12)
    single = selector_of(name, 1, 12)
    answers = {question: answer for batch in batched.answers(questions) for question, answer in batch.items()}
    assert answers == {question: answer for batch in single.answers(questions) for question, answer in batch.items()}
    assert len({len(question.prompt) for question in questions}) > 2 and len(set(answers.values())) > 2


def test_batches_hold_every_question_once_longest_first_and_more_of_the_shorter(tmp_path: Path) -> None:
    selector = selector_of(save_causal_lm(tmp_path / "lm", "llama"), batch_size=2)
    questions = [*(question_of(item, 0) for item in range(1, 6)), question_of(1, *range(2, 40))]
    batches: List[List[Question]] = [list(batch) for batch in selector.answers(questions)]
    assert batches[0][0] == questions[-1] and list(map(len, batches)) == [2, 4]
    assert {question for batch in batches for question in batch} == set(questions)


@pytest.mark.parametrize(
    "kind, change",
    [
        ("llama", lambda tokens: tokens),
        ("gpt2", lambda tokens: tokens),  # has no position beyond its context
        ("llama", lambda tokens: []),
        ("llama", lambda tokens: [token % 40 + 1 for token in tokens]),
        ("llama", lambda tokens: [1, 3, *tokens][: len(tokens)]),
    ],
    ids=["copied", "copied-gpt2", "none", "wrong", "ends"],
)
def test_drafts_change_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: Callable[[List[int]], List[int]]
) -> None:
    questions, most = tiny_questions(), 60
    longest = max(len(letter_tokenizer(False)(question.prompt)["input_ids"]) for question in questions)
    selector = selector_of(save_causal_lm(tmp_path / "lm", kind, context=longest + most), 20)
    selector.model.generation_config.eos_token_id = [1, 3]  # the random weights seldom end an answer
    monkeypatch.setattr(selectors, "draft", lambda *arguments: change(draft(*arguments)))
    read: List[Tuple[int, ...]] = []  # prompts and tokens of each pass
    selector.model.base_model.register_forward_pre_hook(
        lambda _, inputs, named: read.append(tuple([*inputs, *named.values()][0].shape)), with_kwargs=True
    )
    for new in (1, 7, most):
        selector.settings.max_new_tokens = selector.model.generation_config.max_new_tokens = new
        expected = [selector.answer(tokens) for tokens in selector.generate(selector.tokens(questions))]
        read.clear()
        answers = dict(next(selector.answers(questions)))
        assert [answers[question] for question in questions] == expected
        assert len(set(expected)) > 3 or new == 1
    (_, start), rest, *passes = read
    assert start > 100 and rest == (len(questions), longest - start - 1)  # what all begin with is read once
    assert len(questions) > passes[-1][0]  # finished prompts leave
    assert 0 < sum(CUT in answer for answer in expected) < len(questions)
    assert len(passes) < most if change([7]) == [7] else len(passes) == most


def test_the_chat_template_is_used_where_there_is_one(tmp_path: Path) -> None:
    with_template = selector_of(save_causal_lm(tmp_path / "a", "llama", True))
    without = selector_of(save_causal_lm(tmp_path / "b", "llama", False))
    assert with_template.text(QUESTION) == f"a: {QUESTION.prompt} b:"
    assert without.text(QUESTION) == QUESTION.prompt


def test_a_run_with_a_local_llm_logs_each_prompt_and_marks_answers_without_an_end(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    name = save_causal_lm(tmp_path / "some-chat-model", "llama", True)
    settings = pairs_settings(tmp_path, selector="hf", llm=name, precision="fp32", max_new_tokens=8)
    with pytest.raises(UserError, match="no answer makes a pair"):  # a model of random weights
        llm_driven_sample.run(settings)
    logged = read_log(home / "pairs" / "paper")
    assert all(entry["verdict"] in VERDICTS and entry["prompt"] for entry in logged)
    cut_off = [entry["answer"] for entry in logged if entry["verdict"] == "cut-off"]
    assert cut_off and all(answer.endswith("[cut off at max_new_tokens]") for answer in cut_off)


def test_malformed_answers_of_a_local_llm_in_a_row_stop_the_run(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path)
    name = save_causal_lm(tmp_path / "lm", "llama")
    changes = {"selector": "hf", "llm": name, "max_new_tokens": 8, "llm_batch_size": 2, "stop_after_failures": 3}
    with pytest.raises(UserError, match="^3 answers in a row .*raise max_new_tokens.*same command"):
        llm_driven_sample.run(pairs_settings(tmp_path, **changes))
    with closing(sqlite3.connect(tmp_path / "Tiny" / "pairs" / "answers.sqlite")) as store:
        assert store.execute("SELECT count(*) FROM answers").fetchone() == (4,)  # two batches


def test_a_prompt_beyond_the_context_names_the_fix(tmp_path: Path) -> None:
    selector = selector_of(save_causal_lm(tmp_path / "lm", "llama", context=64))
    with pytest.raises(UserError, match="max_candidates"):
        list(selector.answers([QUESTION]))


def test_a_model_that_cannot_be_had_is_one_error_with_the_fix(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path)
    with pytest.raises(UserError, match="selector=tfidf"):
        llm_driven_sample.run(pairs_settings(tmp_path, selector="hf", llm=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_comes_with_a_model_runs_only_if_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(save_causal_lm(tmp_path / "lm", "llama"))
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="homemade", auto_map={"AutoConfig": "home.Made", "AutoModelForCausalLM": "home.Made"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "home.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise OSError('no model in here')\n")
    selector = HfSelector(Settings(llm=str(folder), trust_remote_code=trusted), pick_compute("cpu", "fp32"))
    with pytest.raises(UserError, match="cannot be loaded"):
        selector.model  # noqa: B018
    assert (tmp_path / "ran").exists() == trusted
    assert Settings().trust_remote_code is False


def test_likelihood_picks_the_title_that_gains_most_from_the_target(tmp_path: Path) -> None:
    name = save_causal_lm(tmp_path / "lm", "llama")
    selector, single = (selector_of(name, size, kind=LikelihoodSelector) for size in (3, 1))
    questions = [question_of(item, *(other for other in range(9) if other % 4 != item % 4)) for item in range(9)]
    questions += [question_of(1, 1), question_of(30, 1)]
    answers = {question: answer for batch in selector.answers(questions) for question, answer in batch.items()}

    @torch.inference_mode()
    def log_likelihood(before: str, title: str) -> float:
        ids = selector.tokenizer(f"{before}\n{title}", return_tensors="pt")["input_ids"]
        logs = selector.model(input_ids=ids).logits[0, :-1].log_softmax(dim=1)
        return float(logs.gather(1, ids[0, 1:, None])[-len(title) :].sum())

    for question in questions:
        gains = [
            log_likelihood(question.target_title, title) - log_likelihood("", title)
            for title in question.candidate_titles
        ]
        best = int(np.argmax(gains))
        assert answers[question] == (question.answer(best) if gains[best] > 0 else "-1")
    assert len(set(answers.values())) > 2 and "-1" in answers.values()
    assert answers == {question: answer for batch in single.answers(questions) for question, answer in batch.items()}


@pytest.mark.skipif(
    not (installed_version(NAMED_MODELS["smollm2"].package) and installed_version("gguf")),
    reason="requirements-models.txt is not installed",
)
def test_smollm2_answers_about_ml_100k(tmp_path: Path) -> None:
    prepare_dataset.run(ImporterSettings(dataset="ml-100k", datasets_dir=str(tmp_path), draw_covers=False))
    values: Dict[str, Any] = {"dataset": "ml-100k", "selector": "hf", "llm": "smollm2", "prompt": "en", "sample": 20}
    short: Dict[str, Any] = {"max_candidates": 2, "max_new_tokens": 24, "precision": "fp32"}
    with pytest.raises(UserError, match="no answer makes a pair"):  # a weak judge: it lists several items
        llm_driven_sample.run(pairs_settings(tmp_path, **values, **short))
    logged = read_log(tmp_path / "ml-100k" / "pairs" / "paper")
    shown = [
        any(entry["answer"].startswith(f"{i}-") for i in (entry["target"], *entry["candidates"])) for entry in logged
    ]
    assert len(shown) == 20 and sum(shown) > 15
