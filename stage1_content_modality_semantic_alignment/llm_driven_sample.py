"""Stage 1, step 1: for a target item, choose the most similar item of the user's history.

SICSRec, section "LLM-driven sample construction": an LLM (GLM-4-9B-chat) sees the target and the user's earlier items
as id-title and answers with one of them, or with -1. It runs in this process (``selector=hf``) or behind any
OpenAI-compatible server (``selector=openai``, docs/llm.md). ``selector=tfidf`` needs no LLM: it compares character
n-grams, for quickstarts and as a control. ``selector=random`` is the ablation: any candidate.

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

import json
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
from tqdm import tqdm

from common.dataset import Dataset, items_path, load_dataset, sequences_path
from common.errors import UserError, run_script
from common.files import exclusive, recipe, record, stands, write_text
from common.settings import follow_variant, parse, setting
from stage1_content_modality_semantic_alignment.llm.answers import FAILED, VERDICTS, AnswerStore, Verdict, judge
from stage1_content_modality_semantic_alignment.llm.costs import print_costs, print_questions
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, write_pairs
from stage1_content_modality_semantic_alignment.llm.prompts import (
    CO_OCCURRENCE,
    HISTORY,
    JSON,
    TEXT,
    Plan,
    Question,
    Template,
    load_template,
    make_questions,
    target_count,
)
from stage1_content_modality_semantic_alignment.llm.selectors import (
    NO_LLM,
    HfSelector,
    RandomSelector,
    Selector,
    TfidfSelector,
)
from stage1_content_modality_semantic_alignment.llm.server import OpenAISelector, ServerSettings
from stage1_content_modality_semantic_alignment.paths import pairs_dir, strategy_of

CONFIGS = Path(__file__).parent / "configs" / "llm_driven_sample"


# --- settings ---


@dataclass
class Settings(ServerSettings):
    """Settings of this step; those of ``selector=openai`` are in llm/server.py."""

    variant: str = setting("paper", "paper, or released: what the authors' code does", choices=("paper", "released"))
    selector: str = setting(
        "hf",
        "hf: an LLM in Hugging Face format; openai: an LLM behind an OpenAI-compatible server; tfidf: no LLM; random: "
        "an ablation, any candidate",
        choices=("hf", "openai", *NO_LLM),
    )
    strategy: Optional[str] = setting(None, "name of the folder of the pairs; null: the variant")
    llm: str = setting("zai-org/glm-4-9b-chat-hf", "hf: name on the hub, or folder; openai: the server's name for it")
    trust_remote_code: bool = setting(False, "run Python code that comes with the LLM")
    llm_batch_size: int = setting(8, "hf: prompts at once", minimum=1)
    max_new_tokens: int = setting(128, "most tokens of an answer", minimum=1)
    prompt: str = setting("zh", "zh, en, or a file: the words of the prompt, with {target} and {candidates}")
    title_language: Optional[str] = setting(
        None, "titles that the prompt shows; null: en with prompt=en, else cn", choices=("cn", "en")
    )
    answer_form: Optional[str] = setting(
        None,
        "text: id-title, as in the paper; json: {similar: id}, by schema; null: json with openai, else text",
        choices=(TEXT, JSON),
    )
    targets: str = setting(
        "last", "items of each user's train part to ask about: last, every, or a number: the latest so many"
    )
    candidates: str = setting(
        HISTORY,
        "history: the user's items before the target; co-occurrence: the items that share most histories with it",
        choices=(HISTORY, CO_OCCURRENCE),
    )
    max_candidates: Optional[int] = setting(
        None, "show the latest so many items; null: all, as in the paper, or 20 with co-occurrence", minimum=1
    )
    sample: Optional[int] = setting(None, "ask only so many of the prompts, drawn by seed; null: all", minimum=1)
    limit: Optional[int] = setting(None, "ask only the first so many prompts; null: all", minimum=1)
    both_ways: bool = setting(False, "write each pair as similar,target, too")
    merge_duplicates: bool = setting(False, "write each pair once; item_pairs_count.txt has the counts in any case")
    tfidf_threshold: float = setting(0.1, "tfidf answers -1 if no candidate is this similar", minimum=0, maximum=1)
    tokenizer: Optional[str] = setting(None, "for --dry-run: folder, or name in the hub's cache; null: llm")
    price_prompt: Optional[float] = setting(None, "for --dry-run: price of a million prompt tokens", minimum=0)
    price_answer: Optional[float] = setting(None, "for --dry-run: price of a million answer tokens", minimum=0)
    target_from_train: Optional[bool] = setting(
        None, "S1: target and candidates from the train part; released: the target is the test item; null: as variant"
    )
    titles_with_ids: Optional[bool] = setting(
        None, "S2: each id is shown with its own title; released: titles in id order; null: as variant"
    )
    answers_checked: Optional[bool] = setting(
        None, "S3: an answer must be one of the candidates; released: any id-title; null: as variant"
    )

    def check(self) -> None:
        """Check ``targets``."""
        super().check()
        target_count(self.targets, 1)

    @property
    def language(self) -> str:
        """Language of the titles in prompts."""
        return self.title_language or ("en" if self.prompt == "en" else "cn")

    @property
    def checks_answers(self) -> bool:
        """S3."""
        return follow_variant(self.answers_checked, self.variant)

    def template(self) -> Template:
        """The words of the prompt. Selectors without an LLM do not read them and answer as text."""
        form = TEXT if self.selector in NO_LLM else self.answer_form or (JSON if self.selector == "openai" else TEXT)
        return load_template(self.prompt, form)

    def plan(self) -> Plan:
        """Which questions are asked."""
        return Plan(
            follow_variant(self.target_from_train, self.variant),
            follow_variant(self.titles_with_ids, self.variant),
            self.targets,
            self.candidates,
            self.max_candidates,
        )


# --- the step ---


def run(settings: Settings, force: bool = False, dry_run: bool = False) -> None:
    """Choose the pairs, unless they are up to date; with ``dry_run``, print only what that would take.

    Raises:
        UserError: bad input, or a server that answers no request.
    """
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    folder = pairs_dir(settings.dataset_dir, strategy_of(settings))
    selector = make_selector(settings, dataset)
    store = AnswerStore(folder.parent / "answers.sqlite", selector.identity)
    if dry_run:
        return estimate_costs(settings, all_questions(settings, dataset), store, force)
    made_from = what_makes_it(settings, dataset, selector)
    with exclusive(folder):
        if not force and stands(folder / "summary.json", made_from):
            print(f"{folder}: up to date")
            return
        questions = all_questions(settings, dataset)
        if force:
            store.forget(questions)
        answers = ask(questions, selector, store)
        verdicts = {question: judge(question, answer) for question, answer in answers.items()}
        pairs = accepted_pairs(settings, questions, verdicts, dataset.n_items)

        outputs = write_pairs(folder, pairs, dataset, settings.merge_duplicates)
        outputs["answers"] = folder / "answers.jsonl"
        write_log(outputs["answers"], questions, answers, verdicts, selector.failed)
        summary = summarize(settings, dataset, questions, verdicts, pairs)
        made_from["settings"]["requests that failed"] = len(selector.failed)  # if any, the step is not up to date
        record(folder / "summary.json", made_from, outputs, {"summary": summary})
    for name, count in summary.items():
        print(f"{name:28} {count:>8,}")
    print(f"written: {folder}")
    if selector.failed:
        print(
            f"{len(selector.failed)} of {len(set(questions))} requests failed (verdict {FAILED} in "
            f"{outputs['answers']}); run the same command again: it asks only these"
        )


def make_selector(settings: Settings, dataset: Dataset) -> Selector:
    """The selector that answers the questions."""
    if settings.selector == "tfidf":
        return TfidfSelector(dataset.titles(settings.language), settings.tfidf_threshold)
    if settings.selector == "random":
        return RandomSelector(settings.seed)
    if settings.selector == "openai":
        return OpenAISelector(settings, settings.llm, settings.max_new_tokens)
    from common.device import pick_compute
    from common.seeding import seed_everything

    seed_everything(settings.seed)  # on GPUs, this asks for deterministic kernels
    compute = pick_compute(settings.device, settings.precision)
    return HfSelector(
        settings.llm, compute, settings.llm_batch_size, settings.max_new_tokens, settings.trust_remote_code
    )


def what_makes_it(settings: Settings, dataset: Dataset, selector: Selector) -> Dict[str, Any]:
    """The recipe: all that shapes the pairs."""
    shaping = {
        "asked_of": selector.identity,
        "prompt_version": settings.template().version,
        "titles": settings.language,
        **asdict(settings.plan()),
        "answers_checked": settings.checks_answers,
        "sample": settings.sample and {"prompts": settings.sample, "seed": settings.seed},
        "limit": settings.limit,
        "both_ways": settings.both_ways,
        "merge_duplicates": settings.merge_duplicates,
        "requests that failed": 0,
    }
    inputs = {"sequences": sequences_path(dataset.folder), "items": items_path(dataset.folder, dataset.name)}
    return recipe("llm_driven_sample", shaping, inputs)


def all_questions(settings: Settings, dataset: Dataset) -> List[Question]:
    """The questions about all users, except those that ``sample`` and ``limit`` leave out.

    Both count distinct prompts. A larger sample contains a smaller one.
    """
    titles = dataset.titles(settings.language)
    questions = make_questions(dataset.sequences, titles, settings.template(), settings.plan())
    if not questions:
        raise UserError(f"{dataset.folder}: no user has an item before the target: the histories are too short")
    distinct = list(dict.fromkeys(questions))
    if settings.sample is not None:
        drawn = np.random.default_rng(settings.seed).permutation(len(distinct))[: settings.sample]
        distinct = [distinct[place] for place in np.sort(drawn)]
    if settings.limit is not None:
        distinct = distinct[: settings.limit]
    wanted = set(distinct)
    return [question for question in questions if question in wanted]


def estimate_costs(settings: Settings, questions: Sequence[Question], store: AnswerStore, force: bool) -> None:
    """Print what a run would take (``--dry-run``)."""
    answered = {} if force else store.answers(questions)
    print_questions(questions, answered)
    if settings.selector in NO_LLM:
        print(f"selector={settings.selector} needs no LLM: no tokens, no cost")
        return
    to_ask = [question for question in dict.fromkeys(questions) if question not in answered]
    tokenizer = settings.tokenizer or settings.llm
    print_costs(to_ask, tokenizer, settings.max_new_tokens, settings.price_prompt, settings.price_answer)


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
    if not answers:
        reason = next(iter(selector.failed.values()))
        raise UserError(f"none of {len(missing)} requests was answered: {reason}; check that the server is up")
    return answers


def accepted_pairs(
    settings: Settings, questions: Sequence[Question], verdicts: Mapping[Question, Verdict], n_items: int
) -> List[Pair]:
    """The pairs, one for each accepted answer, or two with ``both_ways``."""
    pairs: List[Pair] = []
    for question in questions:
        similar = verdicts[question].accepted(settings.checks_answers, n_items) if question in verdicts else None
        if similar is not None:
            pairs.append((question.target, similar))
            if settings.both_ways:
                pairs.append((similar, question.target))
    return pairs


def write_log(
    path: Path,
    questions: Sequence[Question],
    answers: Mapping[Question, str],
    verdicts: Mapping[Question, Verdict],
    failed: Mapping[Question, str],
) -> None:
    """Write answers.jsonl: one line per distinct prompt. The verdict is by the paper's check, whatever S3 accepts."""
    lines = []
    for question in dict.fromkeys(questions):
        verdict = verdicts.get(question)
        entry: Dict[str, Union[str, int, List[int], None]] = {
            "target": question.target,
            "candidates": list(question.candidates),
            "prompt": question.prompt,
            "answer": answers.get(question),
            "verdict": verdict.kind if verdict else FAILED,
            "item": verdict.item if verdict else None,
        }
        if question in failed:
            entry["error"] = failed[question]
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def summarize(
    settings: Settings,
    dataset: Dataset,
    questions: Sequence[Question],
    verdicts: Mapping[Question, Verdict],
    pairs: Sequence[Pair],
) -> Dict[str, int]:
    """The counts that summary.json holds."""
    given = [verdicts[question] for question in questions if question in verdicts]
    kinds = Counter(verdict.kind for verdict in given)
    kinds[FAILED] = len(questions) - len(given)
    summary = {"users": len(dataset.users), "questions": len(questions), "distinct prompts": len(set(questions))}
    summary.update({f"verdict {kind}": kinds[kind] for kind in (*VERDICTS, FAILED)})
    if not settings.checks_answers:
        summary["refused for a comma"] = sum(verdict.refused_for_a_comma for verdict in given)
    return {**summary, "pairs": len(pairs), "distinct pairs": len(set(pairs))}


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    dry_run = (("--dry-run",), {"action": "store_true", "help": "print prompts, tokens and cost, and stop"})
    parsed = parse(Settings, __doc__, CONFIGS, argv, [dry_run])
    run(parsed.settings, parsed.force, parsed.arguments.dry_run)


if __name__ == "__main__":
    run_script(main)
