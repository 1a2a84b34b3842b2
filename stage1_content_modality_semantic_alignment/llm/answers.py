"""The store of raw answers, and the verdict on each (switch S3).

``<datasets_dir>/<D>/pairs/answers.sqlite`` holds every answer that was ever given for a data set, for all strategies:
no question is asked twice. To look inside:

    sqlite3 answers.sqlite 'SELECT model, prompt_version, count(*) FROM answers GROUP BY 1, 2'
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from common.errors import UserError
from stage1_content_modality_semantic_alignment.llm.prompts import Question

# --- verdicts ---

PAIR, NONE, MALFORMED = "pair", "none", "malformed"
CUT_OFF = "cut-off"  # malformed, because the answer reached max_new_tokens
NOT_A_CANDIDATE, IS_THE_TARGET = "not-a-candidate", "is-the-target"
FAILED = "failed"  # the request failed; the next run asks again
VERDICTS = (PAIR, NONE, MALFORMED, CUT_OFF, NOT_A_CANDIDATE, IS_THE_TARGET, FAILED)

# Titles are shown on one line, so a valid answer is one line. An id of 18 digits fits an int64.
_ANSWER = re.compile(r"(\d{1,18})-(.+)", re.ASCII)
_RELEASED_ANSWER = re.compile(r"(\d{1,18})-([^,]+)", re.ASCII)
_ID = re.compile(r"(-1|\d{1,18})(?:\.0)?", re.ASCII)  # of JSON: 7, 7.0 and "7" are the same item
_TAGGED = re.compile(r"\s*<answer>\s*(.*?)\s*</answer>\s*", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)  # many chat models wrap JSON like this
_NO_ITEM = -1

# Reasoning models. The chat template may hold the opening tag, so that an answer has the closing one alone.
_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning)>"
_THINKING = re.compile(rf".*(?:</{_TAG}|\[/THINK\]|<\|channel\|>final<\|message\|>)\s*", re.DOTALL | re.IGNORECASE)
_UNFINISHED_THINKING = re.compile(rf"\s*(?:<{_TAG}|\[THINK\]|<\|channel\|>analysis<\|message\|>)", re.IGNORECASE)
CUT = " [cut off at max_new_tokens]"  # what a selector appends to an answer that has no end


class Verdict(NamedTuple):
    """The verdict on a raw answer.

    Attributes:
        kind: one of `VERDICTS`, by the paper's check.
        item: the id that the answer names, None if it names none.
        released: the id by the released check: any ``id-title`` without blanks before it, the title without a comma.
    """

    kind: str
    item: Optional[int]
    released: Optional[int]

    def accepted(self, answers_checked: bool, n_items: int) -> Optional[int]:
        """The item that is paired with the target, or None.

        Args:
            answers_checked: S3. True: only a candidate. False (released): any id of the item table.
        """
        if answers_checked:
            return self.item if self.kind == PAIR else None
        return self.released if self.released is not None and self.released < n_items else None

    @property
    def refused_by_released(self) -> bool:
        """Whether only the released check refuses the answer."""
        return self.item is not None and self.released is None


def judge(question: Question, answer: Optional[str]) -> Verdict:
    """The verdict on a raw answer, or on None if the request failed. JSON is checked, whatever the server promises.

    The thinking of a reasoning model is left out.
    """
    if answer is None:
        return Verdict(FAILED, None, None)
    text = answer[: -len(CUT)] if answer.endswith(CUT) else answer
    thinking = _THINKING.match(text)
    text = text[thinking.end() :] if thinking else text
    cut_off = answer.endswith(CUT) or bool(_UNFINISHED_THINKING.match(text))
    tagged = _TAGGED.fullmatch(text)
    text = tagged.group(1) if tagged else text
    if question.template.form == "json":
        item = released = _item_from_json(text.strip())
    else:
        item, released = _item_from_text(text.strip(), _ANSWER), _item_from_text(text, _RELEASED_ANSWER)
        if item is None:
            titles = zip(question.candidates, question.candidate_titles)
            item = next((c for c, title in titles if text.strip() == f"{c}-" and not title.strip()), None)
    released = None if released == _NO_ITEM else released
    if item is None:
        return Verdict(CUT_OFF if cut_off else MALFORMED, None, released)
    if item == _NO_ITEM:
        return Verdict(NONE, None, released)
    if item == question.target:
        return Verdict(IS_THE_TARGET, item, released)
    return Verdict(PAIR if item in question.candidates else NOT_A_CANDIDATE, item, released)


def _item_from_text(text: str, pattern: re.Pattern[str]) -> Optional[int]:
    match = pattern.fullmatch(text)
    return int(match.group(1)) if match else (_NO_ITEM if text == "-1" else None)


def _item_from_json(text: str) -> Optional[int]:
    """The value of ``{"similar": id}``, None for any other text."""
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    similar = found.get("similar") if isinstance(found, dict) and len(found) == 1 else None
    number = _ID.fullmatch(str(similar)) if type(similar) in (int, float, str) else None
    return int(number.group(1)) if number else None


# --- the store ---

TABLE = """CREATE TABLE IF NOT EXISTS answers (
    model TEXT NOT NULL,           -- the selector with all that shapes its answers: JSON
    prompt_version TEXT NOT NULL,  -- name and checksum of the template
    content TEXT NOT NULL,         -- SHA-256 of the prompt
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL,          -- raw
    PRIMARY KEY (model, prompt_version, content)
) WITHOUT ROWID"""
BUSY = 60.0  # seconds to wait for another process that writes


class AnswerStore:
    """The raw answers of one selector. Each method is one transaction."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.model = json.dumps(identity, sort_keys=True, ensure_ascii=False)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(str(self.path), timeout=BUSY)) as connection, connection:
                connection.execute(TABLE)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self.path}: the answers cannot be read or written: {error}; free some space, or move the file away "
                "if it is broken. Answers written before are kept"
            ) from error

    def answers(self, questions: Sequence[Question]) -> Dict[Question, str]:
        """The raw answers to those of the questions that were answered."""
        query = "SELECT prompt_version, content, answer FROM answers WHERE model = ?"
        with self._transaction() as connection:
            found = {(version, content): answer for version, content, answer in connection.execute(query, [self.model])}
        keys = {question: self._key(question) for question in questions} if found else {}
        return {question: found[key] for question, key in keys.items() if key in found}

    def keep(self, answers: Mapping[Question, str]) -> None:
        """Add answers; they are on the disk when this returns."""
        rows = [(self.model, *self._key(question), question.prompt, answer) for question, answer in answers.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def forget(self, questions: Sequence[Question]) -> None:
        """Delete the answers to these questions, so that they are asked again."""
        rows = [(self.model, *self._key(question)) for question in questions]
        with self._transaction() as connection:
            connection.executemany("DELETE FROM answers WHERE model = ? AND prompt_version = ? AND content = ?", rows)

    @staticmethod
    def _key(question: Question) -> Tuple[str, str]:
        return question.template.version, hashlib.sha256(question.prompt.encode()).hexdigest()
