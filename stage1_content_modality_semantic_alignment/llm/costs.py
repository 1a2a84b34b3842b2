"""What a run with an LLM would take (``--dry-run``): prompts, tokens and, with prices given, the cost."""

from __future__ import annotations

import re
from typing import Any, Callable, Collection, Sequence, Tuple

from stage1_content_modality_semantic_alignment.llm.prompts import Question
from stage1_content_modality_semantic_alignment.llm.settings import NO_LLM, Settings

# Tokens per character without the model's tokenizer: a Chinese one; a digit, hyphen or line end; any other.
# docs/llm.md describes the fit and its error.
PER_HAN, PER_SIGN, PER_OTHER = 0.65, 1.0, 0.22
TEMPLATE_TOKENS = 8  # tokens that a chat template adds
_HAN = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_SIGN = re.compile(r"[0-9\n-]")

CountTokens = Callable[[str], int]


def estimate(text: str) -> int:
    """Tokens by the kinds of characters."""
    han, signs = len(_HAN.findall(text)), len(_SIGN.findall(text))
    return round(PER_HAN * han + PER_SIGN * signs + PER_OTHER * (len(text) - han - signs))


def token_counter(name: str) -> Tuple[CountTokens, str]:
    """A function: text → tokens, and its description. Without the tokenizer ``name`` on this machine, an estimate."""
    try:
        from transformers import AutoTokenizer

        from common.text_encoders import fetch

        tokenizer: Any = fetch(AutoTokenizer, name, "", local_files_only=True)
    except Exception as error:  # no such folder, not in the hub's cache, or one that needs remote code
        why = str(error).split("\n", 1)[0][:80]
        return estimate, (
            f"an ESTIMATE by the kinds of characters (docs/llm.md): the tokenizer {name} is not on this machine, name "
            f"one with tokenizer=FOLDER ({why})"
        )
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), f"the tokenizer {name}"


def print_costs(settings: Settings, questions: Sequence[Question], answered: Collection[Question]) -> None:
    """Print what a run would take that does not ask the ``answered`` questions again."""
    to_ask = [question for question in dict.fromkeys(questions) if question not in answered]
    print(f"questions                    {len(questions):>14,}")
    print(f"distinct prompts             {len(set(questions)):>14,}")
    print(f"answered already             {len(answered):>14,}")
    print(f"prompts to ask               {len(to_ask):>14,}")
    if settings.selector in NO_LLM:
        print(f"selector={settings.selector} needs no LLM: no tokens, no cost")
        return
    most, (count, counted_by) = settings.max_new_tokens, token_counter(settings.tokenizer or settings.llm)
    if settings.selector == "likelihood":
        lengths = [sum(count(q.target_title + title) for title in q.candidate_titles) for q in to_ask]
        most = 0
    else:
        lengths = [count(question.prompt) + TEMPLATE_TOKENS for question in to_ask]
    asked, at_most = sum(lengths), most * len(to_ask)
    form = '{{"similar": {0}}}' if settings.form == "json" else "{0}-{1}"
    answers = (form.format(question.target, question.target_title) for question in to_ask)
    expected = sum(min(count(answer) + 1, most) for answer in answers)  # with the end token
    print(f"prompt tokens                {asked:>14,}   the longest prompt: {max(lengths, default=0):,}")
    print(f"answer tokens, about         {expected:>14,}   if each names an item with a title as long as the target's")
    print(f"answer tokens, at most       {at_most:>14,}   {most} (max_new_tokens) each")
    print(f"tokens counted by {counted_by}")
    if settings.price_prompt is None or settings.price_answer is None:
        print("cost: give price_prompt=P and price_answer=P, the prices of a million tokens")
        return
    about, limit = ((asked * settings.price_prompt + n * settings.price_answer) / 1e6 for n in (expected, at_most))
    print(f"cost, about                  {about:>14,.2f}   at most {limit:,.2f}, without retries")
