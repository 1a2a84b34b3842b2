"""Prompts, tokens and minutes of llm_driven_sample.py with GLM-4-9B on the papers' data sets: estimates (docs/llm.md).

    python -m benchmarks.llm_cost datasets_dir=datasets                      the table
    python -m benchmarks.llm_cost datasets_dir=datasets ranks=qwen.tiktoken  how far the estimate of tokens is off

Prompts of data sets that are there (``measured_on``) are made and their tokens estimated by the kinds of characters;
those of the others are scaled from them by the published counts of users and interactions. Minutes follow from the
tokens and from the arithmetic and bandwidth of a GPU, with the efficiencies below: nothing is run.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from common.dataset import load_dataset
from common.errors import run_script
from common.settings import ComputeSettings, parse, setting
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.prompt_costs import TEMPLATE_TOKENS, answer_tokens, estimate
from stage1_content_modality_semantic_alignment.questions import Question

PUBLISHED = {  # users, interactions
    "Bili_Food": (6549, 39740),
    "Bili_Dance": (10715, 83392),
    "Bili_Movie": (16525, 115576),
    "Bili_Cartoon": (30300, 215443),
}
PARAMETERS, WEIGHT_BYTES = 9.4e9, 18.8e9  # GLM-4-9B in half precision
IN_FLIGHT, BATCH = 16, 8  # prompts decoded together: requests_in_flight behind vLLM, llm_batch_size with transformers
READ_SHARE, COMPUTE_SHARE = 0.6, 0.4  # of a GPU's peak that decoding and reading prompts reach: assumed
LONGEST = 1.5  # tokens of the longest answer of a batch, by the mean: assumed; the batch waits for it
# The qwen.tiktoken ranks' own splitting of text into words
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Gpu:
    """Peaks, in operations and bytes a second."""

    name: str
    operations: float
    bandwidth: float

    def minutes(self, prompt_tokens: float, answer_tokens: float, together: int, waiting: float = 1.0) -> float:
        """Prompts cost arithmetic, answers a reading of all weights for each step of ``together`` prompts."""
        reading = prompt_tokens * 2 * PARAMETERS / (self.operations * COMPUTE_SHARE)
        steps = answer_tokens * waiting / together
        return (reading + steps * WEIGHT_BYTES / (self.bandwidth * READ_SHARE)) / 60


V100, A100 = Gpu("V100 32 GB", 112e12, 0.9e12), Gpu("A100 40 GB", 312e12, 1.555e12)


@dataclass
class Settings(ComputeSettings):
    """What to count."""

    measured_on: List[str] = setting(["Bili_Food", "Bili_Dance"], "data sets that lie in datasets_dir")
    ranks: Optional[str] = setting(
        None, "a .tiktoken file of Qwen's, to compare the estimate with (pip install tiktoken)"
    )


@dataclass(frozen=True)
class Cost:
    """Of one data set: prompts, tokens read and written, lines (items shown)."""

    prompts: float
    prompt_tokens: float
    answer_tokens: float
    lines: float

    def scaled(self, prompts: float, lines: float) -> Cost:
        """The cost of other prompts with as many tokens a line and an answer."""
        fixed = fixed_tokens()
        a_line = (self.prompt_tokens - self.prompts * fixed) / self.lines
        return Cost(prompts, prompts * fixed + lines * a_line, prompts * self.answer_tokens / self.prompts, lines)


def settings_for(settings: Settings, dataset: str, **changes: str) -> llm_driven_sample.Settings:
    """The settings whose prompts are counted."""
    common = {"dataset": dataset, "datasets_dir": settings.datasets_dir, "seed": settings.seed}
    return llm_driven_sample.Settings(**common, **changes)  # type: ignore[arg-type]


def fixed_tokens() -> int:
    """Of a prompt without its items."""
    return estimate(llm_driven_sample.Settings().template().words) + TEMPLATE_TOKENS


def count(settings: Settings, dataset: str, targets: str) -> Cost:
    """Make the prompts and estimate their tokens."""
    pairs = settings_for(settings, dataset, targets=targets)
    asked: List[Question] = llm_driven_sample.all_questions(pairs, load_dataset(pairs.dataset_dir, dataset))
    distinct = list(dict.fromkeys(asked))
    tokens = sum(estimate(question.prompt) + TEMPLATE_TOKENS for question in distinct)
    lines = sum(len(question.candidates) + 1 for question in distinct)
    return Cost(len(distinct), tokens, sum(map(answer_tokens(estimate), distinct)), lines)


def scale(measured: List[Cost], dataset: str, targets: str) -> Tuple[Cost, Cost]:
    """The least and the most that a data set may cost by the tokens (for ``every``: and lines) of those measured."""
    users, interactions = PUBLISHED[dataset]
    prompts = users if targets == "last" else interactions - 3 * users
    shown = [
        interactions - 2 * users if targets == "last" else prompts * cost.lines / cost.prompts for cost in measured
    ]
    found = [cost.scaled(prompts, lines) for cost, lines in zip(measured, shown)]
    return min(found, key=lambda cost: cost.prompt_tokens), max(found, key=lambda cost: cost.prompt_tokens)


def row(dataset: str, targets: str, low: Cost, high: Cost) -> str:
    """A line of the table: how it was come by, tokens, minutes."""

    def span(a: float, b: float, form: str) -> str:
        a, b = min(a, b), max(a, b)
        return form.format(a) if form.format(a) == form.format(b) else f"{form.format(a)} … {form.format(b)}"

    def minutes(gpu: Gpu, together: int, waiting: float = 1.0) -> str:
        each = [gpu.minutes(cost.prompt_tokens, cost.answer_tokens, together, waiting) for cost in (low, high)]
        return span(each[0], each[1], "{:,.0f}")

    cells = [
        dataset,
        targets,
        "prompts made" if low is high else "scaled",
        f"{low.prompts:,.0f}",
        span(low.prompt_tokens / 1e6, high.prompt_tokens / 1e6, "{:.1f} M"),
        span(low.answer_tokens / 1e6, high.answer_tokens / 1e6, "{:.2f} M"),
        minutes(V100, IN_FLIGHT),
        minutes(A100, IN_FLIGHT),
        minutes(V100, BATCH, LONGEST),
    ]
    return "| " + " | ".join(cells) + " |"


def print_table(settings: Settings) -> None:
    """All data sets, the last target of each user and every one."""
    print(
        f"| data set | targets | prompts | number | prompt tokens | answer tokens | {V100.name}, vLLM: min | "
        f"{A100.name}, vLLM: min | {V100.name}, transformers: min |\n|---|---|---|---|---|---|---|---|---|"
    )
    for targets in ("last", "every"):
        measured: Dict[str, Cost] = {name: count(settings, name, targets) for name in settings.measured_on}
        for dataset in PUBLISHED:
            known = measured.get(dataset)
            low, high = (known, known) if known else scale(list(measured.values()), dataset, targets)
            print(row(dataset, targets, low, high))


def print_error(settings: Settings, ranks: str) -> None:
    """Estimated tokens by those of a real tokenizer, on 1000 prompts of each data set and language."""
    import tiktoken

    with open(ranks, "rb") as file:
        merges = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in file)}
    tokenizer = tiktoken.Encoding("qwen", pat_str=WORDS, mergeable_ranks=merges, special_tokens={})
    for name in settings.measured_on:
        for prompt in ("zh", "en"):
            pairs = settings_for(settings, name, prompt=prompt)
            pairs.sample = 1000
            texts = {q.prompt for q in llm_driven_sample.all_questions(pairs, load_dataset(pairs.dataset_dir, name))}
            real = sum(len(tokenizer.encode_ordinary(text)) for text in texts)
            share = sum(map(estimate, texts)) / real
            print(f"{name} {prompt}: {real / len(texts):.1f} tokens a prompt, estimate {share:.3f} of it")


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    settings = parse(Settings, __doc__, None, argv, redoes=False).settings
    if settings.ranks is not None:
        print_error(settings, settings.ranks)
    else:
        print_table(settings)


if __name__ == "__main__":
    run_script(main)
