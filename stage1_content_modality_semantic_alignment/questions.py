"""What the LLM is asked about a user's history, and what counts as an answer (switches S1, S2, S3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from common.dataset import train_part

PROMPT_VERSION = "zh-1"
# The model is a judge of video similarity; it is to answer with one candidate as "id-title", or with -1
# where none is similar; every other form is invalid.
PROMPT = """你是一名视频相似度评判专家。下面给出一个目标视频和若干候选视频，每个视频写作“编号-标题”。
请从候选视频中选出与目标视频最相似的一个，并严格按照“编号-标题”的格式输出它。
如果没有任何候选视频与目标视频相似，请只输出 -1。
其他任何形式的输出均视为无效：不要解释，不要添加任何其他文字。

目标视频：
{target}

候选视频：
{candidates}
"""

PAIR, NONE, MALFORMED = "pair", "none", "malformed"
NOT_A_CANDIDATE, IS_THE_TARGET = "not-a-candidate", "is-the-target"
VERDICTS = (PAIR, NONE, MALFORMED, NOT_A_CANDIDATE, IS_THE_TARGET)

# Titles are shown on one line, so an answer of several lines has another form. 18 digits fit an int64.
_ANSWER = re.compile(r"(\d{1,18})-(.+)", re.ASCII)
_RELEASED_ANSWER = re.compile(r"(\d{1,18})-([^,]+)", re.ASCII)


@dataclass(frozen=True)
class Question:
    """A target, its candidates by item id, and the titles shown for them."""

    target: int
    candidates: Tuple[int, ...]
    target_title: str
    candidate_titles: Tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The question in words."""
        shown = (f"{item}-{title}" for item, title in zip(self.candidates, self.candidate_titles))
        return PROMPT.format(target=f"{self.target}-{self.target_title}", candidates="\n".join(shown))


def one_line(title: str) -> str:
    """A title as the prompt shows it: white space of any kind becomes one blank."""
    return " ".join(title.split())


def make_question(
    sequence: np.ndarray,
    titles: Sequence[str],
    target_from_train: bool,
    titles_with_ids: bool,
    max_candidates: Optional[int] = None,
) -> Optional[Question]:
    """The question about one user, or None where nothing precedes the target.

    Args:
        sequence: the user's items in time order.
        titles: one-line titles by item id.
        target_from_train: S1. True: the target is the last item of the train part. False (released): it is
            the user's very last item, which is the test label.
        titles_with_ids: S2. False (released): ids stand in time order, titles in the order of the ids.
        max_candidates: keep the latest so many; None keeps all, as the paper does.
    """
    *earlier, target = (train_part(sequence) if target_from_train else sequence).tolist() or [-1]
    candidates = list(dict.fromkeys(item for item in earlier if item != target))
    if max_candidates is not None:
        candidates = candidates[-max_candidates:]
    if not candidates:
        return None
    titled = candidates if titles_with_ids else sorted(candidates)
    return Question(target, tuple(candidates), titles[target], tuple(titles[item] for item in titled))


def make_questions(
    sequences: Sequence[np.ndarray],
    titles: Sequence[str],
    target_from_train: bool,
    titles_with_ids: bool,
    max_candidates: Optional[int] = None,
) -> List[Question]:
    """`make_question` for every user that has candidates, in the order of the users."""
    shown = [one_line(title) for title in titles]
    made = (make_question(s, shown, target_from_train, titles_with_ids, max_candidates) for s in sequences)
    return [question for question in made if question is not None]


def judge(question: Question, answer: str) -> Tuple[str, Optional[int]]:
    """One of `VERDICTS`, and the id that the answer names (None where it names none)."""
    text = answer.strip()
    if text == "-1":
        return NONE, None
    match = _ANSWER.fullmatch(text)
    if match is None:
        return MALFORMED, None
    item = int(match.group(1))
    if item == question.target:
        return IS_THE_TARGET, item
    return (PAIR if item in question.candidates else NOT_A_CANDIDATE), item


def accepted_item(question: Question, answer: str, answers_checked: bool, n_items: int) -> Optional[int]:
    """The item that an answer pairs with the target, or None.

    Args:
        answers_checked: S3. True: only one of the candidates. False (released): whatever looks like
            ``id-title`` without a comma; an id beyond the item table has no title and is left out even so.
    """
    if answers_checked:
        verdict, item = judge(question, answer)
        return item if verdict == PAIR else None
    match = _RELEASED_ANSWER.fullmatch(answer.strip())
    if match is None or int(match.group(1)) >= n_items:
        return None
    return int(match.group(1))
