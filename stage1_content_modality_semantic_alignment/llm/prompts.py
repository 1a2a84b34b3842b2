"""Questions about users' histories (switches S1, S2, S13 and S19), and the words in which an LLM is asked.

A question shows a target and its candidates in the words of a template: a file of ``prompts/``, or your own, with the
placeholders ``{target}`` and ``{candidates}``, and ``{example}`` for the form of an answer (switch S13).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Callable, Iterable, List, Sequence, Tuple

import numpy as np

from common.dataset import Dataset
from common.errors import UserError
from common.files import read_text
from common.splits import split_dataset
from stage1_content_modality_semantic_alignment.llm.settings import Settings

PROMPTS = Path(__file__).parents[1] / "prompts"
SHIPPED = ("zh", "en")
COMPANIONS = 20  # default of max_candidates for co-occurrence

_PLACEHOLDER = re.compile(r"\{target\}|\{candidates\}")


@dataclass(frozen=True)
class Template:
    """The words of a prompt, and the form of answer that they ask for."""

    name: str
    words: str
    form: str  # text: id-title, or json: {"similar": id}
    separator: str  # between candidates

    @property
    def version(self) -> str:
        """Name and the first digits of the SHA-256: answers to other words or in another form are not reused."""
        return f"{self.name}-{hashlib.sha256(self.words.encode()).hexdigest()[:8]}"


def load_template(settings: Settings) -> Template:
    """The template of ``prompt``: ``zh``, ``en`` (``prompts/<prompt>[-json].txt``) or a file of the user.

    Switches: S13 released puts the id 3 into ``{example}``, as in the authors' prompt; S19 released separates the
    candidates by a comma in place of a line break.
    """
    prompt, form = settings.prompt, settings.form
    shipped = prompt in SHIPPED
    path = PROMPTS / f"{prompt}{'-json' if form == 'json' else ''}.txt" if shipped else Path(prompt)
    words = read_text(path)
    for place in ("{target}", "{candidates}"):
        if place not in words:
            raise UserError(f"{path}: lacks the placeholder {place}; see {PROMPTS.name}/zh.txt for an example")
    chinese = prompt == "zh" if shipped else settings.language == "cn"
    number, title = ("编号", "标题") if chinese else ("id", "title")
    number = number if settings.example_without_id else "3"
    words = words.replace("{example}", f'{{"similar": {number}}}' if form == "json" else f"{number}-{title}")
    # a user's file may serve both forms; a shipped file's name already says the form
    name = f"{path.stem}:json" if form == "json" and not shipped else path.stem
    return Template(name, words, form, settings.candidate_separator or "")


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
        shown = self.template.separator.join(
            f"{item}-{title}" for item, title in zip(self.candidates, self.candidate_titles)
        )
        parts = {"{target}": f"{self.target}-{self.target_title}", "{candidates}": shown}
        return _PLACEHOLDER.sub(lambda found: parts[found.group()], self.template.words)

    def answer(self, place: int) -> str:
        """The candidate at this place as ``id-title``, the form of an answer as text."""
        return f"{self.candidates[place]}-{self.candidate_titles[place]}"


def one_line(title: str) -> str:
    """A title on one line: each run of white space becomes one space."""
    return " ".join(title.split())


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
    sequences: Iterable[np.ndarray], n_train: Sequence[int], titles: Sequence[str], settings: Settings
) -> List[Question]:
    """The questions user by user, oldest target first; a target without candidates gives none.

    The candidates of a target are the distinct items before it, the latest ``max_candidates`` of them in order of
    time; or, for co-occurrence, the items that share most histories with it.

    Switches: S1 released takes the whole history, so that the last target is the test item, in place of the train
    part; S2 released shows the titles in id order beside ids in the order of the candidates; S19 released keeps the
    white space of titles.

    Args:
        n_train: length of each user's train part.
    """
    shown = [one_line(title) for title in titles] if settings.fold_titles else list(titles)
    template = load_template(settings)
    most = settings.max_candidates
    parts = [s[:n] if settings.target_from_train else s for s, n in zip(sequences, n_train)]
    if settings.candidates == "co-occurrence":
        companions_of = companions(parts, len(titles), most or COMPANIONS)
    questions = []
    for part in parts:
        history: List[int] = part.tolist()
        targets = int({"last": 1, "every": len(history)}.get(settings.targets, settings.targets))
        for place in range(max(0, len(history) - targets), len(history)):
            target = history[place]
            if settings.candidates == "co-occurrence":
                candidates = companions_of(target)
            else:
                earlier = list(dict.fromkeys(item for item in history[:place] if item != target))
                candidates = earlier[-most:] if most else earlier
            if candidates:
                titled = candidates if settings.titles_with_ids else sorted(candidates)
                candidate_titles = tuple(shown[item] for item in titled)
                questions.append(Question(target, tuple(candidates), shown[target], candidate_titles, template))
    return questions


def all_questions(settings: Settings, dataset: Dataset) -> List[Question]:
    """The questions about all users, except those that ``sample`` and ``limit`` leave out.

    Both count distinct prompts. A larger sample contains a smaller one.
    """
    n_train = split_dataset(dataset, settings).n_train.tolist()
    questions = make_questions(dataset.sequences, n_train, dataset.titles(settings.language), settings)
    if not questions:
        raise UserError(f"{dataset.folder}: no user has an item before the target: the histories are too short")
    distinct = list(dict.fromkeys(questions))
    if settings.sample is not None:
        drawn = np.random.default_rng(settings.seed).permutation(len(distinct))[: settings.sample]
        distinct = [distinct[place] for place in np.sort(drawn)]
    wanted = set(distinct[: settings.limit])
    return [question for question in questions if question in wanted]
