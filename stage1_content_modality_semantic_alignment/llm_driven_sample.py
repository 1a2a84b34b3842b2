"""Stage 1, step 1: a judge picks, inside each user's history, the item most similar to a target item.

SICSRec, section "LLM-driven sample construction": the judge is an LLM (GLM-4-9B-chat), shown the target and the
user's earlier items as id-title, answering with one of them or with -1. ``selector=tfidf`` puts the similarity of
character n-grams in its place: no LLM, for quickstarts and as a control.

    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food selector=tfidf
    python stage1_content_modality_semantic_alignment/llm_driven_sample.py -d Bili_Food llm=/models/any-chat-model

Reads   <datasets_dir>/<D>/sequential_data.txt, <D>_item_sort.csv
Writes  <datasets_dir>/<D>/pairs/<strategy>/item_pairs_{id,cn,en}.txt     a line each: target,similar (CSV)
        …/answers.jsonl   every prompt, raw answer and verdict; a killed run goes on from it
        …/summary.json    what made the pairs, and the count of verdicts

One line for each accepted answer, as in the paper: users with the same pair give it several times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from tqdm import tqdm

from common.dataset import Dataset, items_path, load_dataset, sequences_path
from common.device import pick_compute
from common.errors import UserError, run_script
from common.files import exclusive, recipe, record, stands
from common.seeding import seed_everything
from common.settings import ComputeSettings, parse, setting
from stage1_content_modality_semantic_alignment.answer_log import AnswerLog, prompt_key
from stage1_content_modality_semantic_alignment.pair_selectors import HfSelector, Selector, TfidfSelector
from stage1_content_modality_semantic_alignment.pairs import Pair, pairs_dir, pairs_path, write_rows
from stage1_content_modality_semantic_alignment.questions import (
    PROMPT_VERSION,
    VERDICTS,
    Question,
    accepted_item,
    judge,
    make_questions,
)

CONFIGS = Path(__file__).parent / "configs" / "llm_driven_sample"


@dataclass
class Settings(ComputeSettings):
    """Settings of this step."""

    variant: str = setting("paper", "paper, or released: what the authors' code does", choices=("paper", "released"))
    selector: str = setting("hf", "hf: an LLM in Hugging Face format; tfidf: no LLM", choices=("hf", "tfidf"))
    strategy: Optional[str] = setting(
        None, "name of the pairs' folder; null: tfidf, or the last part of the LLM's name, and -released if so"
    )
    llm: str = setting("zai-org/glm-4-9b-chat-hf", "a causal LM: name on the hub, or folder")
    trust_remote_code: bool = setting(False, "run Python code that comes with the LLM")
    llm_batch_size: int = setting(8, "prompts at once", minimum=1)
    max_new_tokens: int = setting(128, "an answer's greatest length", minimum=1)
    max_candidates: Optional[int] = setting(None, "show the latest so many items; null: all, as the paper", minimum=1)
    tfidf_threshold: float = setting(0.1, "less similar candidates are answered with -1", minimum=0, maximum=1)
    target_from_train: Optional[bool] = setting(
        None, "S1: target and candidates from the train part; released: the target is the test item; null: as variant"
    )
    titles_with_ids: Optional[bool] = setting(
        None, "S2: each id is shown with its own title; released: titles in id order; null: as variant says"
    )
    answers_checked: Optional[bool] = setting(
        None, "S3: an answer must be one of the candidates; released: any id-title; null: as variant says"
    )

    def switch(self, value: Optional[bool]) -> bool:
        """A switch that is not set follows ``variant``; true is the paper's side."""
        return self.variant == "paper" if value is None else value

    @property
    def strategy_name(self) -> str:
        """``strategy``, or the name derived from who chooses."""
        asked = "tfidf" if self.selector == "tfidf" else Path(self.llm).name
        return self.strategy or (f"{asked}-released" if self.variant == "released" else asked)


def run(settings: Settings, force: bool = False) -> None:
    """Do the step, or say that its output stands. Raises `UserError` for bad input."""
    seed_everything(settings.seed)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    selector = make_selector(settings, dataset)
    folder = pairs_dir(settings.dataset_dir, settings.strategy_name)
    made_from = what_makes_it(settings, dataset, selector)
    with exclusive(folder):
        if not force and stands(folder / "summary.json", made_from):
            print(f"{folder}: stands, made from the same")
            return
        if force:
            (folder / "answers.jsonl").unlink(missing_ok=True)
        choose_pairs(settings, dataset, selector, folder, made_from)


def make_selector(settings: Settings, dataset: Dataset) -> Selector:
    """Who answers."""
    if settings.selector == "tfidf":
        return TfidfSelector(dataset.titles_cn, settings.tfidf_threshold)
    compute = pick_compute(settings.device, settings.precision)
    return HfSelector(
        settings.llm, compute, settings.llm_batch_size, settings.max_new_tokens, settings.trust_remote_code
    )


def what_makes_it(settings: Settings, dataset: Dataset, selector: Selector) -> Dict[str, Any]:
    """The recipe: all that shapes the result, and nothing else."""
    shaping = {
        "asked_of": selector.identity,
        "prompt_version": PROMPT_VERSION,
        "max_candidates": settings.max_candidates,
        "target_from_train": settings.switch(settings.target_from_train),
        "titles_with_ids": settings.switch(settings.titles_with_ids),
        "answers_checked": settings.switch(settings.answers_checked),
    }
    inputs = {"sequences": sequences_path(dataset.folder), "items": items_path(dataset.folder, dataset.name)}
    return recipe("llm_driven_sample", shaping, inputs)


def choose_pairs(
    settings: Settings, dataset: Dataset, selector: Selector, folder: Path, made_from: Dict[str, Any]
) -> None:
    """Ask, judge, write."""
    questions = make_questions(
        dataset.sequences,
        dataset.titles_cn,
        settings.switch(settings.target_from_train),
        settings.switch(settings.titles_with_ids),
        settings.max_candidates,
    )
    if not questions:
        raise UserError(f"{dataset.folder}: no user has an item before the target: the histories are too short")
    answers = ask(questions, selector, AnswerLog(folder / "answers.jsonl"))
    checked = settings.switch(settings.answers_checked)
    pairs: List[Pair] = []
    for question, answer in zip(questions, answers):
        similar = accepted_item(question, answer, checked, dataset.n_items)
        if similar is not None:
            pairs.append((question.target, similar))
    outputs = write_pairs(folder, pairs, dataset)
    summary = summarise(dataset, questions, answers, pairs)
    record(folder / "summary.json", made_from, outputs, {"summary": summary})
    for name, count in summary.items():
        print(f"{name:28} {count:>8,}")
    print(f"written: {folder}")


def ask(questions: Sequence[Question], selector: Selector, log: AnswerLog) -> List[str]:
    """The raw answer to each question; identical prompts are asked once, logged ones not at all.

    A batch of which the log lacks an answer is asked whole, in the company it would have had without
    the interruption, so that a resumed run answers to the bit as an uninterrupted one.
    """
    keys = {question: prompt_key(question.prompt, selector.identity) for question in dict.fromkeys(questions)}
    if all(key in log.answers for key in keys.values()):
        return [log.answers[keys[question]] for question in questions]
    with tqdm(total=len(keys), desc="prompts", disable=None, unit="prompt") as bar:
        for batch in selector.batches(list(keys)):
            if any(keys[question] not in log.answers for question in batch):
                answered = zip(batch, selector.answer(batch))
                entries = [log_entry(q, keys[q], answer) for q, answer in answered if keys[q] not in log.answers]
                log.append(entries)
            bar.update(len(batch))
    return [log.answers[keys[question]] for question in questions]


def log_entry(question: Question, key: str, answer: str) -> Dict[str, Any]:
    """A line of the log. Its verdict is the strict one, whatever S3 then accepts."""
    verdict, item = judge(question, answer)
    return {
        "key": key,
        "target": question.target,
        "candidates": list(question.candidates),
        "prompt": question.prompt,
        "answer": answer,
        "verdict": verdict,
        "item": item,
    }


def write_pairs(folder: Path, pairs: Sequence[Pair], dataset: Dataset) -> Dict[str, Path]:
    """The id file and the two title files; returns what was written."""
    rows: Dict[str, List[Tuple[object, object]]] = {"id": list(pairs)}
    for kind, titles in (("cn", dataset.titles_cn), ("en", dataset.titles_en)):
        rows[kind] = [(titles[target], titles[similar]) for target, similar in pairs]
    outputs = {f"item_pairs_{kind}": pairs_path(folder, kind) for kind in rows}
    for kind, content in rows.items():
        write_rows(pairs_path(folder, kind), content)
    return outputs


def summarise(
    dataset: Dataset, questions: Sequence[Question], answers: Sequence[str], pairs: Sequence[Pair]
) -> Dict[str, int]:
    """Counts by user."""
    verdicts = Counter(judge(question, answer)[0] for question, answer in zip(questions, answers))
    return {
        "users": len(dataset.users),
        "users without candidates": len(dataset.users) - len(questions),
        "distinct prompts": len(set(questions)),
        **{f"verdict {verdict}": verdicts[verdict] for verdict in VERDICTS},
        "pairs written": len(pairs),
        "distinct pairs": len(set(pairs)),
    }


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
