"""The speed of ``selector=hf`` against `generate` in batches of 8, and how many answers are the same.

    python -m benchmarks.llm -d Bili_Food prompt=en sample=64 llm_batch_size=64 llm=smollm2 precision=fp32

The prompts are those of median length, as in a run over all prompts a batch has prompts of nearly the same length. In
bf16, the size of a batch alone changes some answers.
"""

from __future__ import annotations

from common.start import run_script

import time
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence

from common.dataset import load_dataset
from common.settings import parse
from stage1_content_modality_semantic_alignment.llm.prompts import Question, all_questions
from stage1_content_modality_semantic_alignment.llm.settings import Settings

if TYPE_CHECKING:
    from stage1_content_modality_semantic_alignment.llm.selectors import Answers, HfSelector

PLAIN_BATCH = 8


def plain(selector: HfSelector, questions: Sequence[Question]) -> Answers:
    """Yield the answers to 8 prompts of similar length at a time, each of which reads all and waits for the last."""
    order = sorted(zip(selector.tokens(questions), questions), key=lambda pair: -len(pair[0]))
    for start in range(0, len(order), PLAIN_BATCH):
        tokens, batch = zip(*order[start : start + PLAIN_BATCH])
        yield dict(zip(batch, map(selector.answer, selector.generate(tokens))))


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, with batches of both ways in turns, and print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    from common.compute import pick_compute
    from stage1_content_modality_semantic_alignment.llm.selectors import HfSelector

    settings.stop_after_failures = 10**9
    size, settings.sample = settings.sample or 64, None
    questions = list(dict.fromkeys(all_questions(settings, load_dataset(settings.dataset_dir, settings.dataset))))
    first = max(0, len(questions) - size) // 2
    questions = sorted(questions, key=lambda question: len(question.prompt))[first : first + size]
    selector = HfSelector(settings, pick_compute(settings.device, settings.precision))
    ways = {"plain": plain(selector, questions), "selector=hf": selector.answers(questions)}
    answers: Dict[str, Dict[Question, str]] = {way: {} for way in ways}
    minutes, cpu = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    selector.model, selector.tokenizer  # noqa: B018  # loaded before the clock starts
    while any(len(found) < len(questions) for found in answers.values()):
        for way, batches in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            answers[way].update(next(batches, {}))
            minutes[way] += (time.perf_counter() - start) / 60
            cpu[way] += time.process_time() - cpu_start
    same = sum(answers["plain"][question] == answers["selector=hf"][question] for question in questions)
    print(f"{len(questions)} prompts, {same} with the same answer both ways")
    print("| | prompts a minute | faster | CPU seconds a prompt | fewer |\n|---|---|---|---|---|")
    for way, taken in minutes.items():
        speed = f"{len(questions) / taken:.0f} | {minutes['plain'] / taken:.1f}×"
        print(f"| {way} | {speed} | {cpu[way] / len(questions):.2f} | {cpu['plain'] / cpu[way]:.1f}× |")


if __name__ == "__main__":
    run_script(main)
