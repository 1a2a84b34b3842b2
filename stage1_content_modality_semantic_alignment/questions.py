"""What the LLM is asked about users' histories (switches S1 and S2).

A question shows a target and its candidates in the words of a template: a file of prompts/, or your own, with the
places ``{target}`` and ``{candidates}``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
from scipy.sparse import csr_matrix

from common.dataset import train_part
from common.errors import UserError
from common.files import read_text

PROMPTS = Path(__file__).parent / "prompts"
SHIPPED = ("zh", "en")
PLACES = ("{target}", "{candidates}")
TEXT, JSON = "text", "json"  # forms of an answer: id-title, or {"similar": id}
HISTORY, CO_OCCURRENCE = "history", "co-occurrence"
COMPANIONS = 20  # candidates by co-occurrence, where max_candidates sets no other number

_PLACE = re.compile("|".join(map(re.escape, PLACES)))


@dataclass(frozen=True)
class Template:
    """The words of a prompt, and the form in which they ask for the answer."""

    name: str
    words: str
    form: str

    @property
    def version(self) -> str:
        """Its name and the head of its SHA-256: another wording or form is another version, and is asked anew."""
        return f"{self.name}-{hashlib.sha256(self.words.encode()).hexdigest()[:8]}"


def load_template(prompt: str, form: str) -> Template:
    """``prompt`` is ``zh``, ``en`` (prompts/<prompt>[-json].txt) or a file of the user's.

    Raises:
        UserError: no such file, or it lacks a place.
    """
    shipped = f"{prompt}-json" if form == JSON else prompt
    path = PROMPTS / f"{shipped}.txt" if prompt in SHIPPED else Path(prompt)
    words = read_text(path)
    for place in PLACES:
        if place not in words:
            raise UserError(f"{path}: lacks the place {place}; prompts/zh.txt and en.txt show how a template looks")
    # one file of the user's may serve both forms; of those shipped, the name tells the form
    name = f"{path.stem}:json" if form == JSON and prompt not in SHIPPED else path.stem
    return Template(name, words, form)


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
        """The question in words."""
        shown = (f"{item}-{title}" for item, title in zip(self.candidates, self.candidate_titles))
        said = {"{target}": f"{self.target}-{self.target_title}", "{candidates}": "\n".join(shown)}
        return _PLACE.sub(lambda place: said[place.group()], self.template.words)


@dataclass(frozen=True)
class Plan:
    """Which questions are asked: the settings of the same names."""

    target_from_train: bool = True  # S1. False (released): the last target is the user's last item, the test label
    titles_with_ids: bool = True  # S2. False (released): ids in the order of the candidates, titles in that of the ids
    targets: str = "last"
    candidates: str = HISTORY
    max_candidates: Optional[int] = None


def one_line(title: str) -> str:
    """A title as the prompt shows it: white space of any kind becomes one blank."""
    return " ".join(title.split())


def target_count(targets: str, length: int) -> int:
    """How many of a history's latest items are targets.

    Raises:
        UserError: neither ``last`` nor ``every`` nor a count.
    """
    if targets in ("last", "every"):
        return min(1, length) if targets == "last" else length
    if not re.fullmatch("[1-9][0-9]{0,8}", targets):
        raise UserError(f"setting 'targets' is '{targets}'; it must be last, every, or how many items of each user")
    return min(int(targets), length)


def companions(parts: Sequence[np.ndarray], n_items: int, most: int) -> Callable[[int], List[int]]:
    """A function: item → the ``most`` items that stand in most histories with it; of equals, the lower id first."""
    users = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    items = np.concatenate([*parts, np.empty(0, dtype=np.int64)]).astype(np.int64)
    seen = csr_matrix((np.ones(len(items), dtype=np.int64), (users, items)), shape=(len(parts), n_items))
    seen.data[:] = 1  # a history that holds an item twice counts once
    seen_by = seen.T.tocsr()  # (n_items, users)

    @cache
    def of(item: int) -> List[int]:
        together = (seen_by[item] @ seen).toarray().ravel()  # (n_items,): histories that hold both
        together[item] = 0
        order = np.lexsort((np.arange(n_items), -together))[:most]
        return [int(other) for other in order if together[other]]

    return of


def make_questions(
    sequences: Sequence[np.ndarray], titles: Sequence[str], template: Template, plan: Plan
) -> List[List[Question]]:
    """The questions about each user, oldest target first; none where a target has no candidates.

    A target's candidates are the distinct items before it, the latest ``max_candidates`` of them in time order; or,
    by co-occurrence, the items that stand in most histories with it, most frequent first. Both see the
    train part alone (S1).
    """
    shown = [one_line(title) for title in titles]
    parts = [train_part(sequence) if plan.target_from_train else sequence for sequence in sequences]
    if plan.candidates == CO_OCCURRENCE:
        near = companions(parts, len(titles), plan.max_candidates or COMPANIONS)

    def question(history: List[int], target: int) -> Question:
        if plan.candidates == CO_OCCURRENCE:
            candidates = near(target)
        else:
            candidates = list(dict.fromkeys(item for item in history if item != target))
            candidates = candidates[-plan.max_candidates :] if plan.max_candidates else candidates
        titled = candidates if plan.titles_with_ids else sorted(candidates)
        return Question(target, tuple(candidates), shown[target], tuple(shown[item] for item in titled), template)

    def of_user(items: List[int]) -> List[Question]:
        first = len(items) - target_count(plan.targets, len(items))
        made = (question(items[:place], items[place]) for place in range(first, len(items)))
        return [one for one in made if one.candidates]

    return [of_user(part.tolist()) for part in parts]
