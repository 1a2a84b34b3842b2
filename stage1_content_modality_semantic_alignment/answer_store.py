"""Every answer that was ever given for a data set, in one SQLite file: what is there is never asked again.

``<datasets_dir>/<D>/pairs/answers.sqlite`` serves all strategies: a changed filter, a second run and a killed one
find their answers by who was asked, the version of the prompt and its content. To look inside:

    sqlite3 answers.sqlite 'SELECT model, prompt_version, count(*) FROM answers GROUP BY 1, 2'
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Sequence, Tuple

from common.errors import UserError
from stage1_content_modality_semantic_alignment.questions import Question

TABLE = """CREATE TABLE IF NOT EXISTS answers (
    model TEXT NOT NULL,           -- who was asked, with all that shapes the answers: JSON
    prompt_version TEXT NOT NULL,  -- name and checksum of the template
    content TEXT NOT NULL,         -- SHA-256 of the prompt
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL,          -- as it came
    PRIMARY KEY (model, prompt_version, content)
) WITHOUT ROWID"""
BUSY = 60.0  # seconds to wait for another run that writes


class AnswerStore:
    """The answers of one selector. Each `keep` is one transaction: on the disk whole, or not at all."""

    def __init__(self, path: Path, asked_of: Mapping[str, Any]) -> None:
        self.path = path
        self.model = json.dumps(asked_of, sort_keys=True, ensure_ascii=False)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction. Raises `UserError` for whatever SQLite complains of."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(str(self.path), timeout=BUSY)) as connection, connection:
                connection.execute(TABLE)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self.path}: the answers cannot be read or written: {error}; what was written before is kept. Make "
                "room, or move the file away if it is broken"
            ) from error

    def answers(self, questions: Sequence[Question]) -> Dict[Question, str]:
        """Those of the questions that were answered."""
        query = "SELECT prompt_version, content, answer FROM answers WHERE model = ?"
        with self._open() as connection:
            found = {(version, content): answer for version, content, answer in connection.execute(query, [self.model])}
        keys = {question: self._key(question) for question in questions} if found else {}
        return {question: found[key] for question, key in keys.items() if key in found}

    def keep(self, answers: Mapping[Question, str]) -> None:
        """Add answers, and wait until they are on the disk."""
        rows = [(self.model, *self._key(question), question.prompt, answer) for question, answer in answers.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def forget(self, questions: Sequence[Question]) -> None:
        """Drop the answers to these questions, so that they are asked again."""
        rows = [(self.model, *self._key(question)) for question in questions]
        with self._open() as connection:
            connection.executemany("DELETE FROM answers WHERE model = ? AND prompt_version = ? AND content = ?", rows)

    @staticmethod
    def _key(question: Question) -> Tuple[str, str]:
        content = hashlib.sha256(question.prompt.encode()).hexdigest()
        return question.template.version, content
