"""What counts as an answer (switch S3). Servers that promise JSON of a schema are checked here all the same."""

from __future__ import annotations

import json
import re
from typing import Optional, Tuple

from stage1_content_modality_semantic_alignment.questions import JSON, Question

PAIR, NONE, MALFORMED = "pair", "none", "malformed"
NOT_A_CANDIDATE, IS_THE_TARGET = "not-a-candidate", "is-the-target"
FAILED = "failed"  # no answer came: the request is asked again by the next run
VERDICTS = (PAIR, NONE, MALFORMED, NOT_A_CANDIDATE, IS_THE_TARGET)

# Titles are shown on one line, so an answer of several lines has another form. 18 digits fit an int64.
_ANSWER = re.compile(r"(\d{1,18})-(.+)", re.ASCII)
_RELEASED_ANSWER = re.compile(r"(\d{1,18})-([^,]+)", re.ASCII)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)  # many chat models wrap JSON so
_NO_ITEM = -1

SCHEMA = {
    "type": "object",
    "properties": {"similar": {"type": "integer"}},
    "required": ["similar"],
    "additionalProperties": False,
}


def _from_json(text: str) -> Optional[int]:
    """The value of ``{"similar": id}``, or None where the text is anything else."""
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    similar = found.get("similar") if isinstance(found, dict) and len(found) == 1 else None
    in_range = type(similar) is int and _NO_ITEM <= similar < 10**18
    return similar if in_range else None


def _named_item(question: Question, answer: str, pattern: re.Pattern[str]) -> Optional[int]:
    """The id that an answer names, -1 for "none is similar", or None where it has not the form asked for."""
    text = answer.strip()
    if question.template.form == JSON:
        return _from_json(text)
    match = pattern.fullmatch(text)
    return int(match.group(1)) if match else (_NO_ITEM if text == "-1" else None)


def judge(question: Question, answer: str) -> Tuple[str, Optional[int]]:
    """One of `VERDICTS`, and the id that the answer names (None where it names none)."""
    item = _named_item(question, answer, _ANSWER)
    if item is None:
        return MALFORMED, None
    if item == _NO_ITEM:
        return NONE, None
    if item == question.target:
        return IS_THE_TARGET, item
    return (PAIR if item in question.candidates else NOT_A_CANDIDATE), item


def accepted_item(question: Question, answer: str, answers_checked: bool, n_items: int) -> Optional[int]:
    """The item that an answer pairs with the target, or None.

    Args:
        answers_checked: S3. True: only one of the candidates. False (released): whatever has the form of an
            answer (without a comma); an id beyond the item table has no title and is left out even so.
    """
    if answers_checked:
        verdict, item = judge(question, answer)
        return item if verdict == PAIR else None
    item = _named_item(question, answer, _RELEASED_ANSWER)
    return item if item is not None and 0 <= item < n_items else None


def refused_for_a_comma(question: Question, answer: str) -> bool:
    """Whether the released check (S3) refuses an answer of the form asked for, because its title has a comma."""
    return (
        _named_item(question, answer, _ANSWER) is not None and _named_item(question, answer, _RELEASED_ANSWER) is None
    )


def log_line(question: Question, answer: Optional[str], error: Optional[str]) -> str:
    """A line of answers.jsonl. Its verdict is the strict one, whatever S3 then accepts; ``error``: why none came."""
    verdict, item = (FAILED, None) if answer is None else judge(question, answer)
    entry = {
        "target": question.target,
        "candidates": list(question.candidates),
        "prompt": question.prompt,
        "answer": answer,
        "verdict": verdict,
        "item": item,
    }
    return json.dumps(entry if error is None else {**entry, "error": error}, ensure_ascii=False) + "\n"
