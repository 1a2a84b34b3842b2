"""Estimated prompts, tokens and minutes of llm_driven_sample.py with GLM-4-9B on the papers' data (docs/llm.md).

    python -m benchmarks.llm_cost datasets_dir=datasets

The prompts of ``measured_on`` are made, and their tokens estimated by the kinds of characters. Those of the other data
sets are scaled from them by the published numbers of users and interactions. Minutes follow from the tokens and the
peaks of a GPU, with the assumed efficiencies below: no model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

from common.dataset import load_dataset
from common.errors import run_script
from common.settings import CommonSettings, parse, setting
from stage1_content_modality_semantic_alignment.llm.costs import TEMPLATE_TOKENS, answer_tokens, estimate
from stage1_content_modality_semantic_alignment.llm.prompts import all_questions, load_template
from stage1_content_modality_semantic_alignment.llm.settings import Settings as PairSettings

PUBLISHED = {  # users, interactions
    "Bili_Food": (6549, 39740),
    "Bili_Dance": (10715, 83392),
    "Bili_Movie": (16525, 115576),
    "Bili_Cartoon": (30300, 215443),
}
PARAMETERS, WEIGHT_BYTES = 9.4e9, 18.8e9  # GLM-4-9B in half precision
READ_SHARE, COMPUTE_SHARE = 0.6, 0.4  # assumed: share of a GPU's peak that decoding and reading prompts reach
V100, A100 = (112e12, 0.9e12), (312e12, 1.555e12)  # operations and bytes per second
SETUPS = {  # GPU; prompts decoded together; longest answer of a batch by the mean (assumed), for which the batch waits
    "V100 32 GB, vLLM: min": (V100, 16, 1.0),
    "A100 40 GB, vLLM: min": (A100, 16, 1.0),
    "V100 32 GB, transformers: min": (V100, 8, 1.5),
}


@dataclass
class Settings(CommonSettings):
    """What to count."""

    measured_on: List[str] = setting(["Bili_Food", "Bili_Dance"], "data sets in datasets_dir", may_be_empty=False)


class Cost(NamedTuple):
    """Of one data set: prompts, tokens read and written, lines (items shown)."""

    prompts: float
    prompt_tokens: float
    answer_tokens: float
    lines: float


def count(settings: Settings, dataset: str, targets: str) -> Cost:
    """Make the prompts and estimate their tokens."""
    asked = PairSettings(dataset=dataset, datasets_dir=settings.datasets_dir, targets=targets)
    questions = set(all_questions(asked, load_dataset(asked.dataset_dir, dataset)))
    tokens = sum(estimate(question.prompt) + TEMPLATE_TOKENS for question in questions)
    lines = sum(len(question.candidates) + 1 for question in questions)
    return Cost(len(questions), tokens, sum(answer_tokens(estimate, question) for question in questions), lines)


def scale(cost: Cost, dataset: str, targets: str) -> Cost:
    """The cost of another data set with as many tokens per line and answer (for ``every``: lines per prompt)."""
    users, interactions = PUBLISHED[dataset]
    prompts = users if targets == "last" else interactions - 3 * users
    lines = interactions - 2 * users if targets == "last" else prompts * cost.lines / cost.prompts
    fixed = estimate(load_template("zh", "text").words) + TEMPLATE_TOKENS  # tokens without the items
    per_line = (cost.prompt_tokens - cost.prompts * fixed) / cost.lines
    return Cost(prompts, prompts * fixed + lines * per_line, prompts * cost.answer_tokens / cost.prompts, lines)


def minutes(cost: Cost, gpu: Tuple[float, float], together: int, waiting: float) -> float:
    """Prompts cost arithmetic; each step of ``together`` answers reads all weights."""
    operations, bandwidth = gpu
    reading = cost.prompt_tokens * 2 * PARAMETERS / (operations * COMPUTE_SHARE)
    return (reading + cost.answer_tokens * waiting / together * WEIGHT_BYTES / (bandwidth * READ_SHARE)) / 60


def span(values: List[float], form: str) -> str:
    """Least and greatest value, or one where they look the same."""
    return " … ".join(dict.fromkeys(form.format(value) for value in (min(values), max(values))))


def main(argv: Optional[List[str]] = None) -> None:
    """Print the table: all data sets, the last target of each user and every one."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    print("| data set | targets | prompts | number | prompt tokens | answer tokens | " + " | ".join(SETUPS) + " |")
    print("|---" * (6 + len(SETUPS)) + "|")
    for targets in ("last", "every"):
        measured = {name: count(settings, name, targets) for name in settings.measured_on}
        for dataset in PUBLISHED:
            made = dataset in measured
            costs = [measured[dataset]] if made else [scale(cost, dataset, targets) for cost in measured.values()]
            cells = [dataset, targets, "prompts made" if made else "scaled", f"{costs[0].prompts:,.0f}"]
            cells.append(span([cost.prompt_tokens / 1e6 for cost in costs], "{:.1f} M"))
            cells.append(span([cost.answer_tokens / 1e6 for cost in costs], "{:.2f} M"))
            cells += [span([minutes(cost, *setup) for cost in costs], "{:,.0f}") for setup in SETUPS.values()]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run_script(main)
