"""What a run of the LLM would take (``--dry-run``): prompts, tokens and, with prices given, the cost. Asks nobody."""

from __future__ import annotations

import re
from typing import Any, Callable, List, Mapping, Optional, Protocol, Sequence, Tuple

from stage1_content_modality_semantic_alignment.pair_selectors import NO_LLM
from stage1_content_modality_semantic_alignment.questions import JSON, Question

# Tokens of a character, where the model's tokenizer is not at hand: a Chinese one; a digit, hyphen or line end; any
# other. docs/llm.md says what they were fitted to, and how far off they are.
PER_HAN, PER_SIGN, PER_OTHER = 0.65, 1.0, 0.22
TEMPLATE_TOKENS = 8  # what a chat template adds
_HAN = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_SIGN = re.compile(r"[0-9\n-]")

Counter = Callable[[str], int]


class Costs(Protocol):
    """The settings that are read here."""

    selector: str
    llm: str
    tokenizer: Optional[str]
    max_new_tokens: int
    price_prompt: Optional[float]
    price_answer: Optional[float]


def estimate(text: str) -> int:
    """Tokens by the kinds of characters."""
    han, signs = len(_HAN.findall(text)), len(_SIGN.findall(text))
    return round(PER_HAN * han + PER_SIGN * signs + PER_OTHER * (len(text) - han - signs))


def token_counter(name: str) -> Tuple[Counter, str]:
    """A function: text → tokens, and what it counts by: the tokenizer ``name`` if it is on this machine."""
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception as error:  # no such folder, not in the hub's cache, or one that needs remote code: an estimate
        why = str(error).split("\n", 1)[0][:80]
        return estimate, (
            f"an ESTIMATE by the kinds of characters (docs/llm.md): the tokenizer {name} is not on this machine, name "
            f"one with tokenizer=FOLDER ({why})"
        )
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), f"the tokenizer {name}"


def describe_costs(settings: Costs, questions: Sequence[Question], answered: Mapping[Question, str]) -> List[str]:
    """The lines to print."""
    distinct = list(dict.fromkeys(questions))
    to_ask = [question for question in distinct if question not in answered]
    lines = [
        f"questions                    {len(questions):>14,}",
        f"distinct prompts             {len(distinct):>14,}",
        f"answered already             {len(answered):>14,}",
        f"prompts to ask               {len(to_ask):>14,}",
    ]
    if settings.selector in NO_LLM:
        return [*lines, f"selector={settings.selector} needs no LLM: no tokens, no cost"]
    count, counted_by = token_counter(settings.tokenizer or settings.llm)
    lengths = [count(question.prompt) + TEMPLATE_TOKENS for question in to_ask]
    asked, at_most = sum(lengths), settings.max_new_tokens * len(to_ask)
    expected = sum(map(min, map(answer_tokens(count), to_ask), [settings.max_new_tokens] * len(to_ask)))
    lines += [
        f"prompt tokens                {asked:>14,}   the longest prompt: {max(lengths, default=0):,}",
        f"answer tokens, about         {expected:>14,}   if each names an item with a title as long as the target's",
        f"answer tokens, at most       {at_most:>14,}   {settings.max_new_tokens} (max_new_tokens) each",
        f"tokens counted by {counted_by}",
    ]
    if settings.price_prompt is None or settings.price_answer is None:
        return [*lines, "cost: give price_prompt=P and price_answer=P, a million tokens each"]
    cost = [(asked * settings.price_prompt + n * settings.price_answer) / 1e6 for n in (expected, at_most)]
    return [*lines, f"cost, about                  {cost[0]:>14,.2f}   at most {cost[1]:,.2f}, without retries"]


def answer_tokens(count: Counter) -> Callable[[Question], int]:
    """A function: question → tokens of an answer in the form asked for, its end token included."""

    def expected(question: Question) -> int:
        if question.template.form == JSON:
            return count(f'{{"similar": {question.target}}}') + 1
        return count(f"{question.target}-{question.target_title}") + 1

    return expected


def print_costs(settings: Costs, questions: Sequence[Question], answered: Mapping[Question, str]) -> None:
    """Print what a run with these settings would take."""
    print("\n".join(describe_costs(settings, questions, answered)))
