"""Questions about users' histories (switches S1 and S2), and the words in which an LLM is asked.

A question shows a target and its candidates in the words of a template: a file of ``prompts/``, or your own, with the
placeholders ``{target}`` and ``{candidates}``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from common.dataset import train_part
from common.errors import UserError
from common.files import read_text

PROMPTS = Path(__file__).parents[1] / "prompts"
SHIPPED = ("zh", "en")
TEXT, JSON = "text", "json"  # forms of an answer: id-title, or {"similar": id}
HISTORY, CO_OCCURRENCE = "history", "co-occurrence"
COMPANIONS = 20  # default of max_candidates for co-occurrence

_PLACEHOLDER = re.compile(r"\{target\}|\{candidates\}")


@dataclass(frozen=True)
class Template:
    """The words of a prompt, and the form of the answer that they ask for."""

    name: str
    words: str
    form: str

    @property
    def version(self) -> str:
        """Name and the first digits of the SHA-256: answers to other words or in another form are not reused."""
        return f"{self.name}-{hashlib.sha256(self.words.encode()).hexdigest()[:8]}"


def load_template(prompt: str, form: str) -> Template:
    """``prompt`` is ``zh``, ``en`` (``prompts/<prompt>[-json].txt``) or a file of the user.

    Raises:
        UserError: no such file, or a placeholder is missing.
    """
    shipped = prompt in SHIPPED
    path = PROMPTS / f"{prompt}{'-json' if form == JSON else ''}.txt" if shipped else Path(prompt)
    words = read_text(path)
    for place in ("{target}", "{candidates}"):
        if place not in words:
            raise UserError(f"{path}: lacks the placeholder {place}; see {PROMPTS.name}/zh.txt for an example")
    # a user's file may serve both forms; a shipped file's name already says the form
    return Template(f"{path.stem}:json" if form == JSON and not shipped else path.stem, words, form)


@dataclass(frozen=True)
class Question:
    """A target, its candidates by item id, and the titles shown for them."""

    target: int
    candidates: Tuple[int, ...]
    target_title: str
    candidate_titles: Tuple[str, ...]
    template: Template

    @property
    def prompt(self) -> str:
        """The template, filled in."""
        shown = "\n".join(f"{item}-{title}" for item, title in zip(self.candidates, self.candidate_titles))
        parts = {"{target}": f"{self.target}-{self.target_title}", "{candidates}": shown}
        return _PLACEHOLDER.sub(lambda found: parts[found.group()], self.template.words)


@dataclass(frozen=True)
class Plan:
    """Which questions are asked: the settings of the same names."""

    target_from_train: bool = True  # S1. False (released): the last target is the user's last item, the test label
    titles_with_ids: bool = True  # S2. False (released): ids in the order of the candidates, titles in id order
    targets: str = "last"
    candidates: str = HISTORY
    max_candidates: Optional[int] = None


def one_line(title: str) -> str:
    """A title as the prompt shows it: each run of white space becomes one space."""
    return " ".join(title.split())


def target_count(targets: str, length: int) -> int:
    """How many of the latest items of a history are targets.

    Raises:
        UserError: ``targets`` is not ``last``, ``every`` or a number.
    """
    if targets in ("last", "every"):
        return min(1, length) if targets == "last" else length
    if not re.fullmatch("[1-9][0-9]{0,8}", targets):
        raise UserError(f"setting 'targets' is '{targets}'; it must be last, every, or how many items of each user")
    return min(int(targets), length)


def companions(parts: Sequence[np.ndarray], n_items: int, most: int) -> Callable[[int], List[int]]:
    """A function: item → the ``most`` items that share most histories with it, ties by the lower id."""
    from scipy.sparse import csr_matrix

    users = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    items = np.concatenate([*parts, np.empty(0, dtype=np.int64)]).astype(np.int64)
    seen = csr_matrix((np.ones(len(items), dtype=np.int64), (users, items)), shape=(len(parts), n_items))
    seen.data[:] = 1  # an item that occurs twice in a history counts once
    seen_by = seen.T.tocsr()  # (n_items, users)

    @cache
    def of(item: int) -> List[int]:
        together = (seen_by[item] @ seen).toarray().ravel()  # (n_items,): histories with both
        together[item] = 0
        order = np.lexsort((np.arange(n_items), -together))[:most]
        return [int(other) for other in order if together[other]]

    return of


def make_questions(
    sequences: Sequence[np.ndarray], titles: Sequence[str], template: Template, plan: Plan
) -> List[Question]:
    """The questions user by user, oldest target first; a target without candidates gives none.

    The candidates of a target are the distinct items before it, the latest ``max_candidates`` of them in order of
    time; or, for co-occurrence, the items that share most histories with it. Both use the train part only (S1).
    """
    shown = [one_line(title) for title in titles]
    parts = [train_part(sequence) if plan.target_from_train else sequence for sequence in sequences]
    if plan.candidates == CO_OCCURRENCE:
        companions_of = companions(parts, len(titles), plan.max_candidates or COMPANIONS)
    questions = []
    for part in parts:
        history: List[int] = part.tolist()
        for place in range(len(history) - target_count(plan.targets, len(history)), len(history)):
            target = history[place]
            if plan.candidates == CO_OCCURRENCE:
                candidates = companions_of(target)
            else:
                earlier = list(dict.fromkeys(item for item in history[:place] if item != target))
                candidates = earlier[-plan.max_candidates :] if plan.max_candidates else earlier
            if candidates:
                titled = candidates if plan.titles_with_ids else sorted(candidates)
                candidate_titles = tuple(shown[item] for item in titled)
                questions.append(Question(target, tuple(candidates), shown[target], candidate_titles, template))
    return questions
