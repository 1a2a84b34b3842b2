"""The append-only log of prompts and answers: what a killed run has asked is not asked again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

from common.errors import UserError


def prompt_key(prompt: str, asked_of: Mapping[str, Any]) -> str:
    """Names a prompt together with the model and the decoding settings that it is put to."""
    content = json.dumps({"prompt": prompt, "asked_of": asked_of}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerLog:
    """A JSONL file, one entry a line, each with a ``key`` and an ``answer``.

    Opening drops a last line that a kill has cut short. Entries of other models or settings may stand
    in the same file: they have other keys.

    Raises:
        UserError: a line before the last is no entry; names file and line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: Dict[str, str] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.answers[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.path}:{number}: not an entry of this log; delete the line, or the file"
                ) from error
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write entries and wait until they are on the disk."""
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        try:
            with open(self.path, "ab") as out:
                out.write(text.encode())
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        self.answers.update({entry["key"]: entry["answer"] for entry in entries})
