"""Stage 1, step 1: a judge picks, inside each user's history, the item most similar to a target item.

SICSRec, section "LLM-driven sample construction": the judge is an LLM (GLM-4-9B-chat), shown the target and the
user's earlier items as id-title, answering with one of them or with -1. It runs here (``selector=hf``) or behind any
OpenAI-compatible server (``selector=openai``, docs/llm.md). ``selector=tfidf`` puts the similarity of character
n-grams in its place: no LLM, for quickstarts and as a control. ``selector=random`` is the ablation: any candidate.

    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food --dry-run selector=openai
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food selector=openai \
           base_url=http://localhost:8000/v1 llm=zai-org/glm-4-9b-chat-hf targets=every merge_duplicates=true
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food selector=tfidf

Reads   <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv
Writes  <datasets_dir>/<D>/pairs/<strategy>/item_pairs_{id,cn,en}.txt     a line each: target,similar (CSV)
        …/item_pairs_count.txt   target,similar,count: the distinct pairs
        …/answers.jsonl          every prompt of this pair set, its raw answer and the verdict
        …/summary.json           what made the pairs, and the count of verdicts
        <datasets_dir>/<D>/pairs/answers.sqlite     every answer ever given: a killed or changed run goes on from it

One line for each accepted answer, as in the paper: users with the same pair give it several times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from common.dataset import Dataset, items_path, load_dataset, sequences_path
from common.device import pick_compute
from common.errors import UserError, run_script
from common.files import exclusive, recipe, record, stands, write_text
from common.seeding import seed_everything
from common.settings import follow_variant, parse, setting
from stage1_content_modality_semantic_alignment.answer_store import AnswerStore
from stage1_content_modality_semantic_alignment.openai_selector import OpenAISelector, ServerSettings
from stage1_content_modality_semantic_alignment.pair_selectors import (
    NO_LLM,
    HfSelector,
    RandomSelector,
    Selector,
    TfidfSelector,
)
from stage1_content_modality_semantic_alignment.pairs import Pair, pairs_dir, write_pairs
from stage1_content_modality_semantic_alignment.prompt_costs import print_costs
from stage1_content_modality_semantic_alignment.questions import (
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
from stage1_content_modality_semantic_alignment.verdicts import (
    FAILED,
    VERDICTS,
    accepted_item,
    judge,
    log_line,
    refused_for_a_comma,
)

CONFIGS = Path(__file__).parent / "configs" / "llm_driven_sample"


@dataclass
class Settings(ServerSettings):
    """Settings of this step."""

    variant: str = setting("paper", "paper, or released: what the authors' code does", choices=("paper", "released"))
    selector: str = setting(
        "hf",
        "hf: an LLM in Hugging Face format; openai: one behind an OpenAI-compatible server; tfidf: no LLM; random: an "
        "ablation, any candidate",
        choices=("hf", "openai", *NO_LLM),
    )
    strategy: Optional[str] = setting(
        None, "name of the pairs' folder; null: tfidf, random, or the last part of the LLM's name, and -released if so"
    )
    llm: str = setting("zai-org/glm-4-9b-chat-hf", "hf: name on the hub, or folder; openai: the server's name for it")
    trust_remote_code: bool = setting(False, "run Python code that comes with the LLM")
    llm_batch_size: int = setting(8, "hf: prompts at once", minimum=1)
    max_new_tokens: int = setting(128, "an answer's greatest length", minimum=1)
    prompt: str = setting("zh", "zh, en, or a file: the words of the prompt, with {target} and {candidates}")
    title_language: Optional[str] = setting(
        None, "titles that the prompt shows; null: en with prompt=en, else cn", choices=("cn", "en")
    )
    answer_form: Optional[str] = setting(
        None,
        "text: id-title, as the paper; json: {similar: id}, by schema; null: json with openai",
        choices=(TEXT, JSON),
    )
    targets: str = setting("last", "each user's last item, every one, or the latest k, of the train part")
    candidates: str = setting(
        HISTORY,
        "history: the user's items before the target; co-occurrence: those that stand in most histories with it",
        choices=(HISTORY, CO_OCCURRENCE),
    )
    max_candidates: Optional[int] = setting(
        None, "show the latest so many items; null: all, as the paper; 20 by co-occurrence", minimum=1
    )
    sample: Optional[int] = setting(None, "ask so many of the prompts alone, drawn by seed; null: all", minimum=1)
    limit: Optional[int] = setting(None, "ask the first so many prompts alone; null: all", minimum=1)
    both_ways: bool = setting(False, "give each pair as similar,target as well")
    merge_duplicates: bool = setting(False, "give each pair once; item_pairs_count.txt has the counts in any case")
    tfidf_threshold: float = setting(0.1, "less similar candidates are answered with -1", minimum=0, maximum=1)
    tokenizer: Optional[str] = setting(None, "--dry-run counts with it: folder, or name in the hub's cache; null: llm")
    price_prompt: Optional[float] = setting(None, "price of a million prompt tokens, for --dry-run", minimum=0)
    price_answer: Optional[float] = setting(None, "price of a million answer tokens, for --dry-run", minimum=0)
    target_from_train: Optional[bool] = setting(
        None, "S1: target and candidates from the train part; released: the target is the test item; null: as variant"
    )
    titles_with_ids: Optional[bool] = setting(
        None, "S2: each id is shown with its own title; released: titles in id order; null: as variant says"
    )
    answers_checked: Optional[bool] = setting(
        None, "S3: an answer must be one of the candidates; released: any id-title; null: as variant says"
    )

    def check(self) -> None:
        """``targets`` says which."""
        super().check()
        target_count(self.targets, 1)

    @property
    def strategy_name(self) -> str:
        """``strategy``, or the name derived from who chooses."""
        asked = self.selector if self.selector in NO_LLM else Path(self.llm).name
        return self.strategy or (f"{asked}-released" if self.variant == "released" else asked)

    @property
    def language(self) -> str:
        """Of the titles in prompts."""
        return self.title_language or ("en" if self.prompt == "en" else "cn")

    def template(self) -> Template:
        """The words of the prompt; without an LLM nobody reads them, and the answer is text."""
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


def run(settings: Settings, force: bool = False, dry_run: bool = False) -> None:
    """Do the step, or say that its output stands, or what it would take (``dry_run``).

    Raises:
        UserError: bad input, or a server that answers nobody.
    """
    seed_everything(settings.seed)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    selector = make_selector(settings, dataset)
    folder = pairs_dir(settings.dataset_dir, settings.strategy_name)
    store = AnswerStore(folder.parent / "answers.sqlite", selector.identity)
    if dry_run:
        questions = all_questions(settings, dataset)
        print_costs(settings, questions, {} if force else store.answers(questions))
        return
    made_from = what_makes_it(settings, dataset, selector)
    with exclusive(folder):
        if not force and stands(folder / "summary.json", made_from):
            print(f"{folder}: stands, made from the same")
            return
        questions = all_questions(settings, dataset)
        if force:
            store.forget(questions)
        answers, passed_over = ask(questions, selector, store)
        if not answers:
            why = next(iter(passed_over.values()))
            raise UserError(f"none of {len(passed_over)} requests was answered: {why}; see whether the server is up")
        write_results(settings, dataset, folder, questions, answers, passed_over, made_from)


def make_selector(settings: Settings, dataset: Dataset) -> Selector:
    """Who answers."""
    if settings.selector == "tfidf":
        return TfidfSelector(dataset.titles(settings.language), settings.tfidf_threshold)
    if settings.selector == "random":
        return RandomSelector(settings.seed)
    if settings.selector == "openai":
        return OpenAISelector(settings, settings.llm, settings.max_new_tokens)
    compute = pick_compute(settings.device, settings.precision)
    return HfSelector(
        settings.llm, compute, settings.llm_batch_size, settings.max_new_tokens, settings.trust_remote_code
    )


def what_makes_it(settings: Settings, dataset: Dataset, selector: Selector) -> Dict[str, Any]:
    """The recipe: all that shapes the result, and nothing else. Requests that failed make the record differ from it."""
    shaping = {
        "asked_of": selector.identity,
        "prompt_version": settings.template().version,
        "titles": settings.language,
        **asdict(settings.plan()),
        "answers_checked": follow_variant(settings.answers_checked, settings.variant),
        "sample": settings.sample and {"prompts": settings.sample, "seed": settings.seed},
        "limit": settings.limit,
        "both_ways": settings.both_ways,
        "merge_duplicates": settings.merge_duplicates,
        "requests that failed": 0,
    }
    inputs = {"sequences": sequences_path(dataset.folder), "items": items_path(dataset.folder, dataset.name)}
    return recipe("llm_driven_sample", shaping, inputs)


def all_questions(settings: Settings, dataset: Dataset) -> List[Question]:
    """The questions about all users, those left out by ``sample`` and ``limit`` excepted.

    Both count distinct prompts. A sample of more holds the sample of fewer.
    """
    by_user = make_questions(dataset.sequences, dataset.titles(settings.language), settings.template(), settings.plan())
    questions = [question for of_user in by_user for question in of_user]
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


def ask(
    questions: Sequence[Question], selector: Selector, store: AnswerStore
) -> Tuple[Dict[Question, str], Dict[Question, str]]:
    """The raw answers, and why there is none to the other questions; what the store holds is not asked."""
    distinct = list(dict.fromkeys(questions))
    answers = store.answers(distinct)
    missing = [question for question in distinct if question not in answers]
    if not missing:
        return answers, {}
    with tqdm(total=len(distinct), initial=len(answers), desc="prompts", disable=None, unit="prompt") as bar:

        def keep(new: Mapping[Question, str]) -> None:
            store.keep(new)
            answers.update(new)
            bar.update(len(new))

        passed_over = selector.answer(missing, keep)
    return answers, passed_over


def write_results(
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    questions: Sequence[Question],
    answers: Mapping[Question, str],
    passed_over: Mapping[Question, str],
    made_from: Dict[str, Any],
) -> None:
    """Judge, and write pairs, log and summary. With requests that failed the step is not done: it does not stand."""
    checked = follow_variant(settings.answers_checked, settings.variant)
    accepted = [(q, accepted_item(q, answers[q], checked, dataset.n_items)) for q in questions if q in answers]
    pairs: List[Pair] = [(question.target, similar) for question, similar in accepted if similar is not None]
    if settings.both_ways:
        pairs = [way for target, similar in pairs for way in ((target, similar), (similar, target))]
    outputs = write_pairs(folder, pairs, dataset, settings.merge_duplicates)
    outputs["answers"] = folder / "answers.jsonl"
    lines = (log_line(q, answers.get(q), passed_over.get(q)) for q in dict.fromkeys(questions))
    write_text(outputs["answers"], "".join(lines))
    verdicts = Counter(judge(q, answers[q])[0] if q in answers else FAILED for q in questions)
    summary = {
        "users": len(dataset.users),
        "questions": len(questions),
        "distinct prompts": len(set(questions)),
        **{f"verdict {verdict}": verdicts[verdict] for verdict in (*VERDICTS, FAILED)},
        **({} if checked else {"refused for a comma": sum(refused_for_a_comma(q, answers[q]) for q, _ in accepted)}),
        "pairs": len(pairs),
        "distinct pairs": len(set(pairs)),
    }
    made_from["settings"]["requests that failed"] = len(passed_over)
    record(folder / "summary.json", made_from, outputs, {"summary": summary})
    for name, count in summary.items():
        print(f"{name:28} {count:>8,}")
    print(f"written: {folder}")
    if passed_over:
        print(
            f"{len(passed_over)} of {len(set(questions))} requests failed and are left out (verdict {FAILED} in "
            f"{outputs['answers']}); the same command asks them again, and nothing else"
        )


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    dry_run = (("--dry-run",), {"action": "store_true", "help": "print prompts, tokens and cost, and stop"})
    parsed = parse(Settings, __doc__, CONFIGS, argv, [dry_run])
    run(parsed.settings, parsed.force, parsed.arguments.dry_run)


if __name__ == "__main__":
    run_script(main)
