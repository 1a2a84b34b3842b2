"""Stage 1, step 1: for a target item, choose the most similar item of the user's history.

SICSRec, section "LLM-driven sample construction": an LLM (GLM-4-9B-chat) sees the target and the user's earlier items
as id-title and answers with one of them, or with -1. It runs in this process (``selector=hf``) or behind any
OpenAI-compatible server (``selector=openai``, docs/llm.md). ``selector=tfidf`` needs no LLM: it compares character
n-grams, for quickstarts and as a control. ``selector=random`` is the ablation: any candidate. ``selector=likelihood``
scores each candidate's title with the LLM of ``hf``; it is not the paper's.

    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food --dry-run selector=openai
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food selector=openai \
           base_url=http://localhost:8000/v1 llm=zai-org/glm-4-9b-chat-hf targets=every merge_duplicates=true
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food selector=tfidf strategy=tfidf

Reads   <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv
Writes  <datasets_dir>/<D>/pairs/<strategy>/item_pairs_{id,cn,en}.txt     one target,similar per line (CSV)
        …/item_pairs_count.txt   target,similar,count: the distinct pairs
        …/answers.jsonl          each prompt of this pair set, its raw answer and the verdict
        …/summary.json           what made the pairs, and the counts of verdicts
        <datasets_dir>/<D>/pairs/answers.sqlite     every answer ever given: nothing is asked twice

As in the paper, each accepted answer is one line: a pair that several users give is there several times.
"""

from __future__ import annotations

from common.start import run_script

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from tqdm import tqdm

from common.dataset import Dataset, items_path, load_dataset, sequences_path
from common.errors import UserError
from common.files import making, recipe, record, write_text
from common.settings import parse, shaping
from stage1_content_modality_semantic_alignment.llm.answers import (
    CUT_OFF,
    FAILED,
    NONE,
    PAIR,
    VERDICTS,
    AnswerStore,
    Verdict,
    judge,
)
from stage1_content_modality_semantic_alignment.llm.costs import print_costs
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, write_pairs
from stage1_content_modality_semantic_alignment.llm.prompts import Question, all_questions, load_template
from stage1_content_modality_semantic_alignment.llm.selectors import (
    ADVICE,
    HfSelector,
    LikelihoodSelector,
    RandomSelector,
    Selector,
    TfidfSelector,
)
from stage1_content_modality_semantic_alignment.llm.server import OpenAISelector
from stage1_content_modality_semantic_alignment.llm.settings import Settings

CONFIGS = Path(__file__).parent / "configs" / "llm_driven_sample"


def run(settings: Settings, force: bool = False, dry_run: bool = False) -> None:
    """Choose the pairs, unless they are up to date; with ``dry_run``, print only what that would take."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    folder = settings.pairs_folder
    selector = make_selector(settings, dataset)
    store = AnswerStore(folder.parent / "answers.sqlite", selector.identity)
    if dry_run:
        questions = all_questions(settings, dataset)
        print_costs(settings, questions, {} if force else store.answers(questions))
        return
    shape = {
        **shaping(settings),
        "asked_of": selector.identity,
        "prompt_version": load_template(settings).version,
        "requests that failed": 0,
    }
    inputs = {"sequences": sequences_path(dataset.folder), "items": items_path(dataset.folder, dataset.name)}
    made_from = recipe("llm_driven_sample", shape, inputs)
    with making(folder / "summary.json", made_from, force) as needed:
        if not needed:
            return
        questions = all_questions(settings, dataset)
        if force:
            store.forget(questions)
        answers = ask(questions, selector, store)
        verdicts = {question: judge(question, answers.get(question)) for question in questions}
        pairs = accepted_pairs(settings, questions, verdicts, dataset.n_items)

        log = folder / "answers.jsonl"
        write_log(log, answers, verdicts, selector.failed)
        summary = {"users": len(dataset.users), **count(settings, questions, verdicts, pairs)}
        for name, number in summary.items():
            print(f"{name:28} {number:>8,}")
        if not pairs:  # not done: no files of pairs, and no record
            raise UserError(without_pairs(settings, log, answers, verdicts))
        outputs = {**write_pairs(folder, pairs, dataset, settings.merge_duplicates), "answers": log}
        made_from["settings"]["requests that failed"] = len(selector.failed)  # if any, the step is not up to date
        record(folder / "summary.json", made_from, outputs, {"summary": summary})
    print(f"written: {folder}")
    if summary[f"verdict {CUT_OFF}"]:
        print(f"{summary[f'verdict {CUT_OFF}']} answers are cut off: {ADVICE[CUT_OFF]}")
    if selector.failed:
        print(
            f"{len(selector.failed)} of {len(verdicts)} requests failed (verdict {FAILED} in {outputs['answers']}); "
            "run the same command again: it asks only these"
        )


def make_selector(settings: Settings, dataset: Dataset) -> Selector:
    """The selector that answers the questions."""
    if settings.selector == "tfidf":
        return TfidfSelector(dataset.titles(settings.language), settings.tfidf_threshold)
    if settings.selector == "random":
        return RandomSelector(settings.seed)
    if settings.selector == "openai":
        return OpenAISelector(settings)
    from common.compute import pick_compute, seed_everything

    seed_everything(settings.seed)  # on GPUs, this asks for deterministic kernels
    kind = HfSelector if settings.selector == "hf" else LikelihoodSelector
    return kind(settings, pick_compute(settings.device, settings.precision))


def ask(questions: Sequence[Question], selector: Selector, store: AnswerStore) -> Dict[Question, str]:
    """The raw answers: those in the store, and the selector's to the other questions, each stored as it comes."""
    distinct = list(dict.fromkeys(questions))
    answers = store.answers(distinct)
    missing = [question for question in distinct if question not in answers]
    if not missing:
        return answers
    bar = tqdm(total=len(distinct), initial=len(answers), desc="prompts", disable=None, unit="prompt")
    with bar, closing(selector.answers(missing)) as arriving:
        for new in arriving:
            store.keep(new)
            answers.update(new)
            bar.update(len(new))
    if selector.stopped:
        raise UserError(selector.stopped)
    if not answers:
        reason = next(iter(selector.failed.values()))
        raise UserError(f"none of {len(missing)} requests was answered: {reason}; check that the server is up")
    return answers


def accepted_pairs(
    settings: Settings, questions: Sequence[Question], verdicts: Mapping[Question, Verdict], n_items: int
) -> List[Pair]:
    """The pairs, one for each accepted answer (S3), or two with ``both_ways``."""
    pairs: List[Pair] = []
    for question in questions:
        similar = verdicts[question].accepted(bool(settings.answers_checked), n_items)
        if similar is not None:
            pairs.append((question.target, similar))
            if settings.both_ways:
                pairs.append((similar, question.target))
    return pairs


def without_pairs(
    settings: Settings, log: Path, answers: Mapping[Question, str], verdicts: Mapping[Question, Verdict]
) -> str:
    """What to do about questions without a single pair, with an example of the commonest verdict."""
    commonest, _ = Counter(verdict.kind for verdict in verdicts.values()).most_common(1)[0]
    example = next(answers.get(question, "") for question, verdict in verdicts.items() if verdict.kind == commonest)
    advice = {**ADVICE, PAIR: "if all titles have commas, set answers_checked=true", FAILED: "run the command again"}
    if settings.selector == "tfidf":
        advice[NONE] = "lower tfidf_threshold"
    fix = advice.get(commonest, "use another model or prompt")
    return (
        f"{log}: no answer makes a pair; most have the verdict {commonest}, such as {example[:200]!r}; {fix}, or ask "
        "all again with --force"
    )


def write_log(
    path: Path, answers: Mapping[Question, str], verdicts: Mapping[Question, Verdict], failed: Mapping[Question, str]
) -> None:
    """Write answers.jsonl, one line per distinct prompt. The verdict is by the paper's check, whatever S3 accepts."""
    lines = []
    for question, verdict in verdicts.items():
        entry: Dict[str, object] = {
            "target": question.target,
            "candidates": list(question.candidates),
            "prompt": question.prompt,
            "answer": answers.get(question),
            "verdict": verdict.kind,
            "item": verdict.item,
        }
        if question in failed:
            entry["error"] = failed[question]
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def count(
    settings: Settings, questions: Sequence[Question], verdicts: Mapping[Question, Verdict], pairs: Sequence[Pair]
) -> Dict[str, int]:
    """The counts for summary.json."""
    kinds = Counter(verdicts[question].kind for question in questions)
    counts = {"questions": len(questions), "distinct prompts": len(verdicts)}
    counts.update({f"verdict {kind}": kinds[kind] for kind in VERDICTS})
    if not bool(settings.answers_checked):
        counts["refused by S3 released"] = sum(verdicts[question].refused_by_released for question in questions)
    return {**counts, "pairs": len(pairs), "distinct pairs": len(set(pairs))}


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    dry_run = (("--dry-run",), {"action": "store_true", "help": "print prompts, tokens and cost, and stop"})
    parsed = parse(Settings, __doc__, CONFIGS, argv, [dry_run])
    run(parsed.settings, parsed.force, parsed.arguments.dry_run)


if __name__ == "__main__":
    run_script(main)
