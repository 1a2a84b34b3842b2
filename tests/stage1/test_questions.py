from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional, Sequence, Set

import numpy as np
import pytest

from common.errors import UserError
from stage1_content_modality_semantic_alignment.llm.answers import (
    CUT_OFF,
    FAILED,
    IS_THE_TARGET,
    MALFORMED,
    NONE,
    NOT_A_CANDIDATE,
    PAIR,
    Verdict,
    judge,
)
from stage1_content_modality_semantic_alignment.llm.prompts import Question, load_template, make_questions
from stage1_content_modality_semantic_alignment.llm.selectors import RandomSelector, Selector, TfidfSelector
from stage1_content_modality_semantic_alignment.llm.settings import Settings

SEQUENCE = np.array([7, 3, 9, 1, 4])
TITLES = [f"title {item}" for item in range(10)]
ZH = load_template(Settings())
QUESTION = Question(9, (7, 3), "title 9", ("title 7", "title 3"), ZH)


def questions_of(sequences: Sequence[np.ndarray], titles: Sequence[str], settings: Settings) -> List[Question]:
    """The questions of leave one out."""
    return make_questions(sequences, [len(sequence) - 2 for sequence in sequences], titles, settings)


def question_of(sequence: np.ndarray, **changes: Any) -> Question:
    """The one question about one user."""
    (question,) = questions_of([sequence], TITLES, Settings(**changes))
    return question


# --- questions: S1, S2 ---


def test_s1_target_is_the_last_train_item_and_candidates_precede_it() -> None:
    paper, released = question_of(SEQUENCE), question_of(SEQUENCE, target_from_train=False)
    assert (paper.target, paper.candidates) == (9, (7, 3))
    assert (released.target, released.candidates) == (4, (7, 3, 9, 1))  # the test item


@pytest.mark.parametrize("targets", ["last", "every"])
@pytest.mark.parametrize("candidates", ["history", "co-occurrence"])
def test_s1_by_default_no_prompt_shows_a_validation_or_test_item(targets: str, candidates: str) -> None:
    others = [np.array([3, 7, 9, 2, 5]), np.array([7, 9, 3, 6, 8])]
    settings = Settings(targets=targets, candidates=candidates)
    for question in questions_of([SEQUENCE, *others], TITLES, settings):
        assert not {1, 4, 2, 5, 6, 8} & {question.target, *question.candidates}


def test_s2_ids_and_titles_are_paired() -> None:
    paper, released = question_of(SEQUENCE), question_of(SEQUENCE, titles_with_ids=False)
    assert paper.candidate_titles == ("title 7", "title 3")
    assert "9-title 9" in paper.prompt and "7-title 7\n3-title 3" in paper.prompt
    assert released.candidates == (7, 3) and released.candidate_titles == ("title 3", "title 7")  # in id order


def test_a_user_without_earlier_items_is_not_asked_about() -> None:
    histories = [np.array([1, 2, 3]), np.array([1, 2, 3, 4]), np.array([1])]
    for targets in ("last", "every", "3"):
        (question,) = questions_of(histories, TITLES, Settings(targets=targets))
        assert question.target == 2


def test_candidates_are_distinct_without_the_target_and_the_latest_are_kept() -> None:
    sequence = np.array([5, 2, 5, 8, 2, 6, 8, 0, 1])
    assert question_of(sequence).candidates == (5, 2, 6)
    assert question_of(sequence, max_candidates=2).candidates == (2, 6)


# --- targets, candidates, templates ---

LONG = np.array([5, 2, 5, 6, 0, 1])  # train part: 5 2 5 6


@pytest.mark.parametrize(
    "targets, asked",
    [
        ("last", [(6, (5, 2))]),
        ("2", [(5, (2,)), (6, (5, 2))]),
        ("every", [(2, (5,)), (5, (2,)), (6, (5, 2))]),
        ("99", [(2, (5,)), (5, (2,)), (6, (5, 2))]),
    ],
)
def test_targets(targets: str, asked: List[Any]) -> None:
    questions = questions_of([LONG], TITLES, Settings(targets=targets))
    assert [(question.target, question.candidates) for question in questions] == asked


@pytest.mark.parametrize("targets", ["0", "-1", "first", "1.5", ""])
def test_targets_of_another_form_are_one_error(targets: str) -> None:
    with pytest.raises(UserError, match="last, every, or a number"):
        Settings(targets=targets).check()


def test_candidates_by_co_occurrence_are_the_most_frequent_companions_lower_ids_first() -> None:
    tail = [8, 9]  # validation and test
    sequences = [np.array(part + tail) for part in ([1, 2, 3], [3, 1], [4, 2, 2, 1], [5, 1, 3], [0])]
    questions = questions_of(sequences, TITLES, Settings(candidates="co-occurrence"))
    assert [question.target for question in questions] == [3, 1, 1, 3]
    # with 1: item 3 in three histories, 2 in two (twice in one counts once), 4 and 5 in one each
    assert questions[1].candidates == (3, 2, 4, 5) and questions[1] == questions[2]
    two = questions_of(sequences, TITLES, Settings(candidates="co-occurrence", max_candidates=2))
    assert two[1].candidates == (3, 2) and len(two) == 4


@pytest.mark.parametrize("prompt", ["zh", "en"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_shipped_templates_show_target_and_candidates_and_ask_for_their_form(prompt: str, form: str) -> None:
    template = load_template(Settings(prompt=prompt, answer_form=form))
    asked = Question(9, (7,), "a {candidates} b", ("c {target} d",), template).prompt
    assert "9-a {candidates} b\n" in asked and asked.endswith("7-c {target} d\n")  # titles are not filled in
    assert ('{"similar": -1}' in asked) == (form == "json") and template.version.startswith(template.name + "-")


def test_another_wording_or_form_of_answer_is_another_version(tmp_path: Path) -> None:
    versions: Set[str] = set()
    for words in ("{target} {candidates}", "{target}: {candidates}"):
        (tmp_path / "own.txt").write_text(words)
        own = [Settings(prompt=str(tmp_path / "own.txt"), answer_form=form) for form in ("text", "json")]
        versions.update(load_template(settings).version for settings in own)
    assert len(versions) == 4


@pytest.mark.parametrize("words, fault", [("{target}", "lacks the placeholder {candidates}"), (None, "cannot be read")])
def test_a_faulty_template_is_one_error(tmp_path: Path, words: Optional[str], fault: str) -> None:
    if words is not None:
        (tmp_path / "own.txt").write_text(words)
    with pytest.raises(UserError, match=fault):
        load_template(Settings(prompt=str(tmp_path / "own.txt")))


# --- the text of the prompt: S13, S19 ---


@pytest.mark.parametrize(
    "prompt, form, paper, released",
    [
        ("zh", "text", "“编号-标题”的格式", "“3-标题”的格式"),
        ("en", "text", 'in the form "id-title".', 'in the form "3-title".'),
        ("zh", "json", '{"similar": 编号}。', '{"similar": 3}。'),
        ("en", "json", '{"similar": id}.', '{"similar": 3}.'),
    ],
)
def test_s13_the_example_is_an_answer_in_released_alone(prompt: str, form: str, paper: str, released: str) -> None:
    plain, theirs = (
        load_template(Settings(prompt=prompt, answer_form=form, example_without_id=value)) for value in (True, False)
    )
    assert plain.words.count(paper) == theirs.words.count(released) == 1
    assert theirs.words == plain.words.replace(paper, released) and plain.version != theirs.version
    assert not any("3" in line for line in plain.words.splitlines())


def test_s13_the_example_in_paper_makes_no_pair_where_a_model_repeats_it() -> None:
    for form, example in (("text", "编号-标题"), ("json", '{"similar": 编号}')):
        template = load_template(Settings(answer_form=form))
        assert example in template.words
        assert judge(Question(9, (7, 3), "title 9", ("title 7", "title 3"), template), example).kind == MALFORMED


def test_s19_a_file_and_two_settings_give_one_paragraph_with_its_white_space(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Like {example}. Target: {target}. Candidates: {candidates}")
    titles = {9: "fried  rice ", 7: " a\tb", 3: "c"}
    shown = [titles.get(item, "") for item in range(10)]

    def prompt_of(**changes: Any) -> str:
        (question,) = questions_of([SEQUENCE], shown, Settings(prompt=str(own), title_language="en", **changes))
        return question.prompt

    assert prompt_of() == "Like id-title. Target: 9-fried rice. Candidates: 7-a b\n3-c"
    theirs = "Like 3-title. Target: 4-. Candidates: 7- a\tb, 3-c, 9-fried  rice , 1-"
    assert prompt_of(variant="released", titles_with_ids=True) == theirs
    assert prompt_of(candidate_separator=", ", fold_titles=False) == (
        "Like id-title. Target: 9-fried  rice . Candidates: 7- a\tb, 3-c"
    )
    assert prompt_of(candidate_separator=" | ") == "Like id-title. Target: 9-fried rice. Candidates: 7-a b | 3-c"


def test_s19_tfidf_answers_whatever_the_white_space_of_titles() -> None:
    titles = ["spicy  noodles", "street dance", "spicy noodles\n", "", ""]
    (question,) = questions_of([np.array([1, 2, 0, 3, 4])], titles, Settings(fold_titles=False))
    assert judge(question, TfidfSelector(titles, 0.1).choose(question)).item == 2


# --- answers: S3 ---


@pytest.mark.parametrize(
    "answer, verdict, checked, released",
    [
        ("7-title 7", PAIR, 7, 7),
        (" 3-anything\n", PAIR, 3, None),
        ("3-anything\n", PAIR, 3, 3),
        ("7- ", MALFORMED, None, 7),
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
    found = judge(QUESTION, answer)
    assert found.kind == verdict
    assert (found.accepted(True, n_items=10), found.accepted(False, n_items=10)) == (checked, released)
    assert found.refused_by_released == (checked is not None and released is None)


@pytest.mark.parametrize(
    "answer, verdict, item",
    [
        ('{"similar": 7}', PAIR, 7),
        ('```json\n{"similar": 3}\n```', PAIR, 3),
        (' {"similar": -1} ', NONE, None),
        ('{"similar": 9}', IS_THE_TARGET, 9),
        ('{"similar": 5}', NOT_A_CANDIDATE, 5),
        ('{"similar": "7"}', PAIR, 7),
        ('{"similar": 7.0}', PAIR, 7),
        ('{"similar": 7.5}', MALFORMED, None),
        ('{"similar": [7]}', MALFORMED, None),
        ('{"similar": NaN}', MALFORMED, None),
        ('{"similar": true}', MALFORMED, None),
        ('{"similar": -2}', MALFORMED, None),
        ('{"similar": 7, "why": "x"}', MALFORMED, None),
        ('{"similar": 7', MALFORMED, None),
        ("7-title 7", MALFORMED, None),
        ("[" * 100_000, MALFORMED, None),
        ("9" * 5000, MALFORMED, None),
    ],
)
def test_answers_in_json_are_checked(answer: str, verdict: str, item: Any) -> None:
    question = Question(9, (7, 3), "title 9", ("title 7", "title 3"), load_template(Settings(answer_form="json")))
    found = judge(question, answer)
    assert (found.kind, found.item) == (verdict, item)
    assert found.accepted(True, 10) == (item if verdict == PAIR else None)
    assert found.accepted(False, 10) == item  # S3 released: whatever has the form


BLANK_TITLES = ["", " ", "\u3000", "\n"]


@pytest.mark.parametrize("title", BLANK_TITLES)
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("selector", [RandomSelector(1), TfidfSelector([*BLANK_TITLES, "title"], 0.0)])
def test_a_candidate_with_a_blank_title_can_be_the_answer(title: str, fold: bool, selector: Selector) -> None:
    titles = ["title", title, "title"]
    (question,) = questions_of([np.array([1, 0, 0, 2])], titles, Settings(fold_titles=fold, max_candidates=2))[:1]
    question = replace(question, candidates=(1,), candidate_titles=question.candidate_titles[:1])
    answer = selector.choose(question)
    assert (judge(question, answer).kind, judge(question, answer).item) == (PAIR, 1)
    assert judge(replace(question, candidate_titles=("title",)), "1-").kind == MALFORMED


@pytest.mark.parametrize(
    "before, after",
    [
        ("<THINK>It is 3-x</Think>", ""),
        ("<seed:think>hm</seed:think>\n\n", ""),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>", ""),
        ("<answer>", "</answer>"),
        ("<think>hm</think>\n<Answer>\n", "\n</Answer>\n"),
    ],
)
@pytest.mark.parametrize("form, answer", [("text", "7-title 7"), ("json", '{"similar": 7}')])
def test_marks_of_thinking_and_of_the_answer_are_left_out(before: str, after: str, form: str, answer: str) -> None:
    template = load_template(Settings(answer_form=form))
    question = Question(9, (7, 3), "title 9", ("title 7", "title 3"), template)
    assert judge(question, before + answer + after) == Verdict(PAIR, 7, 7)


@pytest.mark.parametrize("start", ["<Think>", "<seed:think>", "<|channel|>analysis<|message|>"])
def test_thinking_that_does_not_end_is_cut_off(start: str) -> None:
    assert judge(QUESTION, f"{start}It is 7-title 7").kind == CUT_OFF


def test_a_failed_request_makes_no_pair() -> None:
    found = judge(QUESTION, None)
    assert (found.kind, found.accepted(True, 10), found.accepted(False, 10)) == (FAILED, None, None)
