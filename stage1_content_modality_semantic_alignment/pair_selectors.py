"""Who answers the questions (``selector``): a causal LM here, the similarity of character n-grams, or chance.

The fourth, an LLM behind a server, is in openai_selector.py.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Protocol, Sequence

from common.device import DTYPES, Compute
from common.errors import UserError
from common.files import checksum
from stage1_content_modality_semantic_alignment.questions import Question, one_line

NGRAMS = (1, 3)  # characters: a Chinese word has one to three
NO_LLM = ("tfidf", "random")  # selectors that need none


Keep = Callable[[Mapping[Question, str]], None]


class Selector(Protocol):
    """Answers questions in the form that their template asks for; ``identity`` names all that shapes the answers."""

    identity: Dict[str, Any]

    def answer(self, questions: Sequence[Question], keep: Keep) -> Dict[Question, str]:
        """Hand the raw answers to ``keep`` as they come; returns the questions without one, and why."""


class BatchSelector:
    """Answers in batches, one after the other; all that stays unasked after a kill is whole batches."""

    def batches(self, questions: Sequence[Question]) -> List[List[Question]]:
        """All questions, in the order and in the company in which they are asked.

        Here a thousand at a time, only so that the store is not flushed for each.
        """
        return [list(questions[start : start + 1000]) for start in range(0, len(questions), 1000)]

    def answer_batch(self, batch: Sequence[Question]) -> List[str]:
        """The raw answers to one batch."""
        raise NotImplementedError

    def answer(self, questions: Sequence[Question], keep: Keep) -> Dict[Question, str]:
        """Every question gets an answer here, or the run stops."""
        for batch in self.batches(questions):
            keep(dict(zip(batch, self.answer_batch(batch))))
        return {}


class TfidfSelector(BatchSelector):
    """Picks the candidate whose title is most similar to the target's: TF-IDF of character n-grams, cosine.

    The first of equally similar candidates wins. No LLM: for quickstarts, and as a control.
    """

    def __init__(self, titles: Sequence[str], threshold: float) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        shown = [one_line(title) for title in titles]
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True)
        self.rows = vectorizer.fit_transform(shown)  # (n_items, n-grams), of length 1
        self.row_of = {title: row for row, title in enumerate(shown)}
        self.threshold = threshold
        digest = hashlib.sha256("\n".join(shown).encode()).hexdigest()
        self.identity = {"selector": "tfidf", "ngrams": list(NGRAMS), "threshold": threshold, "titles": digest}

    def answer_batch(self, batch: Sequence[Question]) -> List[str]:
        """``-1`` where no candidate reaches the threshold."""
        return [self._answer(question) for question in batch]

    def _answer(self, question: Question) -> str:
        candidates = self.rows[[self.row_of[title] for title in question.candidate_titles]]
        similarity = (candidates @ self.rows[self.row_of[question.target_title]].T).toarray().ravel()
        best = int(similarity.argmax())
        if similarity[best] < self.threshold:
            return "-1"
        return f"{question.candidates[best]}-{question.candidate_titles[best]}"


class RandomSelector(BatchSelector):
    """The ablation of the LLM: any of the candidates, drawn by seed and prompt, whatever else is asked."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.identity = {"selector": "random", "seed": seed}

    def answer_batch(self, batch: Sequence[Question]) -> List[str]:
        """Never ``-1``."""
        return [self._answer(question) for question in batch]

    def _answer(self, question: Question) -> str:
        drawn = int(hashlib.sha256(f"{self.seed} {question.prompt}".encode()).hexdigest(), 16)
        chosen = drawn % len(question.candidates)
        return f"{question.candidates[chosen]}-{question.candidate_titles[chosen]}"


class HfSelector(BatchSelector):
    """Any causal LM in Hugging Face format, greedy; GLM-4 natively (``glm-4-9b-chat-hf``).

    Prompts are batched by length, padded on the left; the tokenizer's chat template is used where it has one.
    """

    def __init__(
        self, model: str, compute: Compute, batch_size: int, max_new_tokens: int, trust_remote_code: bool = False
    ) -> None:
        self.name, self.compute = model, compute
        self.batch_size, self.max_new_tokens, self.trust_remote_code = batch_size, max_new_tokens, trust_remote_code
        self.identity = {
            "selector": "hf",
            "model": checksum(Path(model)) if Path(model).is_dir() else model,
            "precision": compute.precision,
            "max_new_tokens": max_new_tokens,
        }

    def _load(self, kind: Any, **keywords: Any) -> Any:
        from common.text_encoders import fetch

        cure = (
            "give the folder of a downloaded model with llm=DIR, or use selector=tfidf, which needs none. GLM-4's "
            "native form, glm-4-9b-chat-hf, needs transformers 4.46 or later"
        )
        return fetch(kind, self.name, cure, trust_remote_code=self.trust_remote_code, **keywords)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left."""
        from transformers import AutoTokenizer

        tokenizer = self._load(AutoTokenizer, padding_side="left")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise UserError(f"{self.name}: its tokenizer has neither a padding nor an end token; add one to it")
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model on its device, set to greedy decoding whatever its own defaults are."""
        from transformers import AutoModelForCausalLM, GenerationConfig

        from common.text_encoders import dtype_keyword

        model = self._load(AutoModelForCausalLM, **dtype_keyword(DTYPES[self.compute.precision]))
        model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=model.generation_config.eos_token_id or self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return model.to(self.compute.device).eval()

    def _text(self, question: Question) -> str:
        if not self.tokenizer.chat_template:
            return question.prompt
        message = [{"role": "user", "content": question.prompt}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def _tokens(self, questions: Sequence[Question]) -> List[List[int]]:
        # a chat template writes the special tokens itself
        plain = not self.tokenizer.chat_template
        texts = [self._text(question) for question in questions]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=plain)["input_ids"]]

    def batches(self, questions: Sequence[Question]) -> List[List[Question]]:
        """Questions of similar length together, the longest first: what does not fit shows at once."""
        lengths = [len(ids) for ids in self._tokens(questions)]
        order = sorted(range(len(questions)), key=lambda place: (-lengths[place], place))
        starts = range(0, len(order), self.batch_size)
        return [[questions[place] for place in order[start : start + self.batch_size]] for start in starts]

    def answer_batch(self, batch: Sequence[Question]) -> List[str]:
        """The new text of each, special tokens left out.

        Raises:
            UserError: a prompt is longer than the model's context.
        """
        import torch

        inputs = self.tokenizer.pad({"input_ids": self._tokens(batch)}, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and length + self.max_new_tokens > context:
            raise UserError(
                f"{self.name}: a prompt of {length} tokens and {self.max_new_tokens} new ones exceed its context of "
                f"{context}; show fewer candidates with max_candidates=N"
            )
        with torch.inference_mode():
            generated = self.model.generate(
                input_ids=inputs["input_ids"].to(self.compute.device),
                attention_mask=inputs["attention_mask"].to(self.compute.device),
            )
        return [self.tokenizer.decode(row[length:], skip_special_tokens=True) for row in generated]
