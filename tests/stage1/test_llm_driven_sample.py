from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import pytest
from stage1_helpers import pairs_settings, question_of, read_log
from test_hf_selector import save_causal_lm
from tiny import make_tiny_dataset, tiny_sequences

from common.dataset import load_dataset
from common.errors import UserError
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.llm.answers import AnswerStore
from stage1_content_modality_semantic_alignment.llm.costs import token_counter
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, read_pairs, write_rows
from stage1_content_modality_semantic_alignment.llm.prompts import Question, all_questions, load_template
from stage1_content_modality_semantic_alignment.llm.selectors import Answers, Selector, TfidfSelector
from stage1_content_modality_semantic_alignment.llm.settings import Settings

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


@pytest.mark.parametrize("threshold, answer", [(0.1, "4-spicy noodle soup"), (0.9, "-1")])
def test_tfidf_picks_the_most_similar_title_above_the_threshold_and_the_first_of_equals(
    threshold: float, answer: str
) -> None:
    titles = ["spicy noodles", "street dance", "spicy noodle soup", "qqq", "spicy noodle soup"]
    question = Question(0, (1, 4, 2), titles[0], (titles[1], titles[4], titles[2]), load_template(Settings()))
    assert TfidfSelector(titles, threshold).choose(question) == answer


# --- a run with tfidf ---


def test_a_run_writes_pairs_titles_log_and_summary_and_is_then_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_tiny_dataset(tmp_path)
    llm_driven_sample.run(pairs_settings(tmp_path))
    folder = home / "pairs" / "paper"
    dataset = load_dataset(home, "Tiny")
    pairs = read_pairs(pairs_path(folder, "id"), dataset.n_items)
    for kind, titles in (("cn", dataset.titles_cn), ("en", dataset.titles_en)):
        with open(pairs_path(folder, kind), encoding="utf-8", newline="") as file:
            assert [tuple(row) for row in csv.reader(file)] == [(titles[a], titles[b]) for a, b in pairs]
    summary = json.loads((folder / "summary.json").read_text())["summary"]
    sequences = tiny_sequences()
    asked = {tuple(sequence[:-2]) for sequence in sequences if len(sequence) > 3}
    assert summary["users"] == len(sequences) and summary["verdict pair"] == summary["pairs"] == len(pairs) > 0
    assert summary["distinct prompts"] == len(asked) == len(read_log(folder))
    for target, similar in pairs:
        assert any(target == s[-3] and similar in s[:-3] for s in sequences)
    llm_driven_sample.run(pairs_settings(tmp_path))
    assert "up to date" in capsys.readouterr().out


def test_released_reaches_the_files_of_its_own_strategy(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    settings = pairs_settings(tmp_path, variant="released", tfidf_threshold=0.0)
    assert not any((settings.target_from_train, settings.titles_with_ids, settings.answers_checked))
    llm_driven_sample.run(settings)
    logged = read_log(home / "pairs" / "released")
    assert {entry["target"] for entry in logged} == {sequence[-1] for sequence in tiny_sequences()}


def test_s3_released_refuses_titles_with_a_comma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_tiny_dataset(tmp_path)
    for language, checked in (("cn", False), ("en", True)):
        chosen = pairs_settings(tmp_path, strategy=language, title_language=language, answers_checked=checked)
        llm_driven_sample.run(chosen)
        summary = json.loads((home / "pairs" / language / "summary.json").read_text())["summary"]
        assert summary["pairs"] == summary["verdict pair"] > 0
        assert summary.get("refused by S3 released") == (None if checked else 0)
    capsys.readouterr()
    refused = pairs_settings(tmp_path, strategy="none", title_language="en", answers_checked=False)
    with pytest.raises(UserError, match="pairs/none/answers.jsonl: no answer makes a pair; .*answers_checked=true"):
        llm_driven_sample.run(refused)  # all English titles have a comma, the Chinese ones a full-width one at most
    assert f"refused by S3 released       {summary['pairs']:>8}\n" in capsys.readouterr().out
    assert [path.name for path in (home / "pairs" / "none").glob("[!.]*")] == ["answers.jsonl"]


def test_both_ways_and_merged_duplicates_with_their_counts(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    plain: Dict[str, Any] = {"targets": "every", "tfidf_threshold": 0.0}
    llm_driven_sample.run(pairs_settings(tmp_path, strategy="plain", **plain))
    llm_driven_sample.run(pairs_settings(tmp_path, strategy="merged", both_ways=True, merge_duplicates=True, **plain))
    once = read_pairs(pairs_path(home / "pairs" / "plain", "id"), 15)
    twice = [way for a, b in once for way in ((a, b), (b, a))]
    merged = read_pairs(pairs_path(home / "pairs" / "merged", "id"), 15)
    assert merged == list(dict.fromkeys(twice)) and len(merged) < len(twice)
    rows = pairs_path(home / "pairs" / "merged", "count").read_text().splitlines()
    assert rows == [f"{a},{b},{twice.count((a, b))}" for a, b in merged]
    rows = pairs_path(home / "pairs" / "plain", "count").read_text().splitlines()
    assert rows == [f"{a},{b},{once.count((a, b))}" for a, b in dict.fromkeys(once)]


def test_limit_and_sample_count_distinct_prompts_and_a_larger_sample_holds_a_smaller(tmp_path: Path) -> None:
    dataset = load_dataset(make_tiny_dataset(tmp_path), "Tiny")

    def asked(**changes: Any) -> List[Question]:
        chosen = all_questions(pairs_settings(tmp_path, targets="every", **changes), dataset)
        return list(dict.fromkeys(chosen))

    whole = asked()
    assert asked(limit=5) == whole[:5]
    assert len(asked(sample=5)) == 5 and set(asked(sample=5)) < set(asked(sample=9)) < set(whole)
    assert asked(sample=5, seed=7) != asked(sample=5) != whole[:5]
    assert asked(sample=9, limit=4) == asked(sample=9)[:4]


def test_english_prompts_show_english_titles(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path)
    llm_driven_sample.run(pairs_settings(tmp_path, prompt="en"))
    assert all("street" in e["prompt"] or e["prompt"].isascii() for e in read_log(home / "pairs" / "paper"))
    llm_driven_sample.run(pairs_settings(tmp_path, prompt="en", title_language="cn"))
    assert not any(entry["prompt"].isascii() for entry in read_log(home / "pairs" / "paper"))


# --- the store of answers ---


class CountingSelector(Selector):
    def __init__(self, model: str = "a") -> None:
        super().__init__(selector="counting", model=model)
        self.asked: List[Question] = []

    def answers(self, questions: Sequence[Question]) -> Answers:
        for question in questions:
            self.asked.append(question)
            yield {question: f"{question.candidates[0]}-x"}


def ask(questions: Sequence[Question], selector: CountingSelector, path: Path) -> Mapping[Question, str]:
    return llm_driven_sample.ask(questions, selector, AnswerStore(path, selector.identity))


SIX = [question_of(100 + n, n) for n in range(6)]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    first, second = CountingSelector(), CountingSelector()
    answers = ask([*SIX[:3], *SIX[:3]], first, tmp_path / "store")
    assert list(answers.values()) == ["0-x", "1-x", "2-x"] and first.asked == SIX[:3]
    assert ask(SIX, second, tmp_path / "store") == ask(SIX, CountingSelector(), tmp_path / "other")
    assert second.asked == SIX[3:]


def test_answers_of_another_model_or_wording_are_not_taken(tmp_path: Path) -> None:
    ask(SIX[:2], CountingSelector(), tmp_path / "store")
    other = CountingSelector("b")
    ask(SIX[:2], other, tmp_path / "store")
    assert other.asked == SIX[:2]
    in_json = [question_of(100, 0, form="json")]
    selector = CountingSelector()
    ask(in_json, selector, tmp_path / "store")
    assert selector.asked == in_json
    store = AnswerStore(tmp_path / "store", selector.identity)
    store.forget(SIX[:1])
    assert set(store.answers([*SIX, *in_json])) == {SIX[1], *in_json}


def test_a_changed_filter_and_force_ask_what_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_dataset(tmp_path)
    asked: List[Question] = []
    choose = TfidfSelector.choose

    def noted(self: TfidfSelector, question: Question) -> str:
        asked.append(question)
        return choose(self, question)

    monkeypatch.setattr(TfidfSelector, "choose", noted)
    llm_driven_sample.run(pairs_settings(tmp_path, targets="2"))
    first = len(asked)
    llm_driven_sample.run(pairs_settings(tmp_path, targets="every"))
    assert first < len(asked) == len(set(asked))  # nothing twice
    asked.clear()
    llm_driven_sample.run(pairs_settings(tmp_path, targets="2", strategy="elsewhere", both_ways=True))
    assert not asked
    llm_driven_sample.run(pairs_settings(tmp_path, targets="2"), force=True)
    assert len(asked) == first


def test_a_broken_store_is_one_error_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no database" * 200)
    with pytest.raises(UserError, match="store: .*not a database.*move the file away"):
        AnswerStore(tmp_path / "store", {}).answers(SIX)


# --- a dry run ---


def test_a_dry_run_counts_and_prices_and_writes_no_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_tiny_dataset(tmp_path)
    words = ["-d", "Tiny", f"datasets_dir={tmp_path}", "selector=openai", "targets=every", "max_new_tokens=10"]
    llm_driven_sample.main([*words, "--dry-run"])
    said = capsys.readouterr().out
    settings = pairs_settings(tmp_path, selector="openai", targets="every")
    prompts = set(all_questions(settings, load_dataset(home, "Tiny")))
    assert f"prompts to ask               {len(prompts):>14,}\n" in said
    assert "ESTIMATE" in said and f"at most       {10 * len(prompts):>14,}" in said and "cost: give price" in said
    llm_driven_sample.main([*words, "--dry-run", "price_prompt=0", "price_answer=1e6"])
    assert f"at most {10 * len(prompts):,}.00" in capsys.readouterr().out
    assert not (home / "pairs" / "paper").exists()


def test_a_dry_run_counts_what_is_answered_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_dataset(tmp_path)
    llm_driven_sample.run(pairs_settings(tmp_path))
    capsys.readouterr()
    llm_driven_sample.run(pairs_settings(tmp_path), dry_run=True)
    said = capsys.readouterr().out
    assert "prompts to ask                            0\n" in said and "no cost" in said


def test_tokens_are_counted_by_a_tokenizer_that_is_here_and_estimated_else(tmp_path: Path) -> None:
    save_causal_lm(tmp_path / "lm", "llama")  # its tokens are letters
    count, counted_by = token_counter(str(tmp_path / "lm"))
    assert count("abc-12") == 6 and counted_by == f"the tokenizer {tmp_path / 'lm'}"
    count, counted_by = token_counter(str(tmp_path / "nowhere"))
    assert counted_by.startswith("an ESTIMATE")
    assert count("麻辣面" * 100) == 195 and count("12-\n") == 4 and count("street dance") == 3
