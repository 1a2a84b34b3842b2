"""The settings of llm_driven_sample.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Optional

from common.errors import UserError
from common.settings import setting, switch
from common.splits import SplitSettings
from stage1_content_modality_semantic_alignment.settings import StrategySettings

NO_LLM = ("tfidf", "random")  # selectors that need no LLM


@dataclass
class Settings(StrategySettings, SplitSettings):
    """Settings of this step."""

    selector: str = setting(
        "hf",
        "hf: an LLM in Hugging Face format; openai: an LLM behind an OpenAI-compatible server; likelihood: hf's LLM "
        "scores each title, no prompt; tfidf: no LLM; random: an ablation, any candidate",
        choices=("hf", "openai", "likelihood", *NO_LLM),
    )

    # questions
    targets: str = setting("last", "which items of each user's train part: last, every, or a number: the latest k")
    candidates: str = setting(
        "history",
        "history: the user's items before the target; co-occurrence: the items that share most histories with it",
        choices=("history", "co-occurrence"),
    )
    max_candidates: Optional[int] = setting(
        None, "show the latest so many items; null: all, as in the paper, or 20 with co-occurrence", minimum=1
    )
    sample: Optional[int] = setting(None, "ask only so many of the prompts, drawn by seed; null: all", minimum=1)
    limit: Optional[int] = setting(None, "ask only the first so many prompts; null: all", minimum=1)
    prompt: str = setting(
        "zh", "zh, en, or a file with the places {target}, {candidates} and, if wanted, {example}", shapes=False
    )
    title_language: Optional[str] = setting(
        None, "titles that the prompt shows; null: en with prompt=en, else cn", choices=("cn", "en")
    )
    answer_form: Optional[str] = setting(
        None,
        "text: id-title, as in the paper; json: {similar: id}, by schema; null: json with openai, else text",
        choices=("text", "json"),
    )
    target_from_train: Optional[bool] = switch(
        "S1", "target and candidates are from the train part; released: the target is the test item"
    )
    titles_with_ids: Optional[bool] = switch("S2", "each id is shown with its own title; released: titles in id order")
    example_without_id: Optional[bool] = switch(
        "S13", "the prompt's example of an answer cannot be one; released: it has the id 3"
    )
    candidate_separator: Optional[str] = switch(
        "S19", "text between two candidates", paper="\n", released=", ", others=True
    )
    fold_titles: Optional[bool] = switch("S19", "white space in a title becomes one space; released: kept")

    # answers
    llm: str = setting(
        "zai-org/glm-4-9b-chat-hf", "name on the hub, folder, smollm2 (hf) or the server's name (openai)", shapes=False
    )
    max_new_tokens: int = setting(128, "most tokens of an answer", minimum=1)
    llm_batch_size: int = setting(
        16,
        "hf: prompts at once; more where they are shorter than the longest; likelihood: titles at once",
        minimum=1,
        shapes=False,
    )
    trust_remote_code: bool = setting(False, "hf: run code that comes with the model, as for zai-org/glm-4-9b-chat")
    base_url: str = setting("http://localhost:8000/v1", "openai: URL of the server, up to /v1", shapes=False)
    api_key_env: str = setting(
        "OPENAI_API_KEY", "openai: environment variable with the key, if one is needed", shapes=False
    )
    requests_in_flight: int = setting(16, "openai: requests at once", minimum=1, shapes=False)
    request_timeout: float = setting(120.0, "openai: seconds to wait for a reply", minimum=0.001, shapes=False)
    request_tries: int = setting(6, "openai: tries before a request is skipped", minimum=1, shapes=False)
    first_pause: float = setting(1.0, "openai: seconds before the second try, then doubled", minimum=0, shapes=False)
    longest_wait: float = setting(600.0, "openai: skip a request whose Retry-After is longer", minimum=0, shapes=False)
    stop_after_failures: int = setting(
        32, "stop after so many skipped requests, or malformed answers, in a row", minimum=1, shapes=False
    )
    request_extra: Dict[str, Any] = setting(
        {}, "openai: fields to add to each request, as {seed: 1}; null removes a default one, as {max_tokens: null}"
    )
    tfidf_threshold: float = setting(0.1, "tfidf answers -1 if no candidate is this similar", minimum=0, maximum=1)

    # pairs
    answers_checked: Optional[bool] = switch("S3", "an answer must be one of the candidates; released: any id-title")
    both_ways: bool = setting(False, "write each pair as similar,target, too")
    merge_duplicates: bool = setting(False, "write each pair once; item_pairs_count.txt has the counts in any case")

    # --dry-run
    tokenizer: Optional[str] = setting(None, "--dry-run: folder, or name in the hub's cache; null: llm", shapes=False)
    price_prompt: Optional[float] = setting(None, "price of a million prompt tokens", minimum=0, shapes=False)
    price_answer: Optional[float] = setting(None, "price of a million answer tokens", minimum=0, shapes=False)

    def check(self) -> None:
        """Check ``targets``."""
        super().check()
        if self.targets not in ("last", "every") and not re.fullmatch("[1-9][0-9]{0,8}", self.targets):
            raise UserError(f"setting 'targets' is '{self.targets}'; it must be last, every, or a number of items")

    @property
    def language(self) -> str:
        """Language of the titles in prompts: ``cn`` or ``en``."""
        return self.title_language or ("en" if self.prompt == "en" else "cn")

    @property
    def form(self) -> str:
        """Form of the answers: ``text``, or ``json``. Selectors without a prompt answer as text."""
        if self.selector not in ("hf", "openai"):
            return "text"
        return self.answer_form or ("json" if self.selector == "openai" else "text")
