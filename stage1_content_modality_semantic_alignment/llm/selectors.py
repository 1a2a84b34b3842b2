"""The selectors, which answer the questions: a causal LM in this process, TF-IDF similarity, or a random choice.

``selector=openai``, an LLM behind a server, is in server.py.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Generator, List, Sequence, Tuple

from common.errors import UserError
from common.files import checksum
from stage1_content_modality_semantic_alignment.llm.answers import CUT, CUT_OFF, MALFORMED, judge
from stage1_content_modality_semantic_alignment.llm.prompts import Question, one_line
from stage1_content_modality_semantic_alignment.llm.settings import Settings

if TYPE_CHECKING:
    from common.compute import Compute

NGRAMS = (1, 3)  # characters: a Chinese word has one to three
DRAFT = 3  # tokens that are read on trial: on CPUs, more cost more time than they save
STORED_TOGETHER = 1000  # answers without an LLM come so fast that writing each would take most of the time

ADVICE = {  # for malformed answers
    MALFORMED: "use another model, prompt or answer_form",
    CUT_OFF: "raise max_new_tokens, or turn the model's thinking off (docs/llm.md)",
}

Answers = Generator[Dict[Question, str], None, None]  # some answers at a time


class Selector:
    """Answers questions in the form that their template asks for.

    Attributes:
        identity: all that shapes the answers; answers are reused for the same identity.
        failed: questions without an answer, with the reason.
        stopped: why no more questions are asked, or an empty string.
    """

    def __init__(self, **identity: Any) -> None:
        self.identity, self.stopped, self.malformed_in_a_row = identity, "", 0
        self.failed: Dict[Question, str] = {}

    def answers(self, questions: Sequence[Question]) -> Answers:
        """Yield the raw answers, some at a time."""
        for start in range(0, len(questions), STORED_TOGETHER):
            yield {question: self.choose(question) for question in questions[start : start + STORED_TOGETHER]}

    def choose(self, question: Question) -> str:
        """The answer to one question, for selectors without an LLM."""
        raise NotImplementedError

    def check(self, question: Question, answer: str, most: int) -> None:
        """Set ``stopped`` at the answer of an LLM that is the ``most``-th malformed one in a row."""
        kind = judge(question, answer).kind
        self.malformed_in_a_row = self.malformed_in_a_row + 1 if kind in (MALFORMED, CUT_OFF) else 0
        if self.malformed_in_a_row >= most and not self.stopped:
            self.stopped = (
                f"{self.malformed_in_a_row} answers in a row do not have the form that the prompt asks for, the last "
                f"one is {answer[:200]!r}; {ADVICE[kind]}. All answers are kept: the same command asks only what is "
                "not answered yet; stop_after_failures=N allows more such answers"
            )


class TfidfSelector(Selector):
    """The candidate whose title is most similar to the target's: cosine of TF-IDF vectors of character n-grams.

    Ties go to the first candidate. The answer is -1 if no similarity reaches the threshold.
    """

    def __init__(self, titles: Sequence[str], threshold: float) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        shown = [one_line(title) for title in titles]
        digest = hashlib.sha256("\n".join(shown).encode()).hexdigest()
        super().__init__(selector="tfidf", ngrams=list(NGRAMS), threshold=threshold, titles=digest)
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True)
        self.rows = vectorizer.fit_transform(shown)  # (n_items, n-grams), of length 1
        self.row_of = {title: row for row, title in enumerate(shown)}
        self.threshold = threshold

    def choose(self, question: Question) -> str:
        """``id-title``, or ``-1``."""
        candidates = self.rows[[self.row_of[one_line(title)] for title in question.candidate_titles]]
        similarity = (candidates @ self.rows[self.row_of[one_line(question.target_title)]].T).toarray().ravel()
        best = int(similarity.argmax())
        return "-1" if similarity[best] < self.threshold else question.answer(best)


class RandomSelector(Selector):
    """The ablation of the LLM: a candidate drawn by seed and prompt, independent of the other questions."""

    def __init__(self, seed: int) -> None:
        super().__init__(selector="random", seed=seed)
        self.seed = seed

    def choose(self, question: Question) -> str:
        """``id-title``, never ``-1``."""
        drawn = int(hashlib.sha256(f"{self.seed} {question.prompt}".encode()).hexdigest(), 16)
        return question.answer(drawn % len(question.candidates))


class HfSelector(Selector):
    """Any causal LM in Hugging Face format with greedy decoding; GLM-4 in its native form (``glm-4-9b-chat-hf``).

    Prompts of similar length form a batch, padded on the left. The tokenizer's chat template is used if it has one.
    """

    def __init__(self, settings: Settings, compute: Compute) -> None:
        self.name, self.settings, self.compute = settings.llm, settings, compute
        super().__init__(
            selector="hf",
            model=checksum(Path(self.name)) if Path(self.name).is_dir() else self.name,
            precision=compute.precision,
            max_new_tokens=settings.max_new_tokens,
        )

    def _load(self, kind: Any, **keywords: Any) -> Any:
        from common.text_encoders import fetch

        fix = (
            "give the folder of a downloaded model with llm=DIR, or use selector=tfidf, which needs none. "
            "glm-4-9b-chat-hf needs transformers 4.46 or later, glm-4-9b-chat trust_remote_code=true"
        )
        return fetch(kind, self.name, fix, trust_remote_code=self.settings.trust_remote_code, **keywords)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left."""
        from transformers import AutoTokenizer

        tokenizer = self._load(AutoTokenizer, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise UserError(f"{self.name}: its tokenizer has neither a padding nor an end token; add one to it")
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model on its device. Decoding is greedy, whatever its own defaults are."""
        from transformers import AutoModelForCausalLM, GenerationConfig

        from common.compute import DTYPES
        from common.text_encoders import dtype_keyword

        model = self._load(AutoModelForCausalLM, **dtype_keyword(DTYPES[self.compute.precision]))
        ends = model.generation_config.eos_token_id or self.tokenizer.eos_token_id  # one, or several
        model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=[ends] if isinstance(ends, int) else ends,
            pad_token_id=self.tokenizer.pad_token_id,
            return_legacy_cache=False,  # transformers before 4.47 would return tuples
        )
        return model.to(self.compute.device).eval()

    def text(self, question: Question) -> str:
        """The prompt within the chat template, if there is one."""
        if not self.tokenizer.chat_template:
            return question.prompt
        message = [{"role": "user", "content": question.prompt}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def tokens(self, questions: Sequence[Question]) -> List[List[int]]:
        """The tokens of each prompt. A chat template contains the special ones."""
        texts = [self.text(question) for question in questions]
        read = self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)
        return list(read["input_ids"])

    def answers(self, questions: Sequence[Question]) -> Answers:
        """Yield a batch at a time, longest prompts first, so that a lack of memory shows at once.

        Batches of shorter prompts hold more of them: as many tokens as ``llm_batch_size`` of the longest.
        """
        tokens = self.tokens(questions)
        order = sorted(range(len(questions)), key=lambda place: -len(tokens[place]))
        new, longest = self.settings.max_new_tokens, len(tokens[order[0]])
        context = getattr(self.model.config, "max_position_embeddings", None)  # not every architecture has a limit
        if context is not None and longest + new > context:
            raise UserError(
                f"{self.name}: a prompt of {longest} tokens and {new} new ones exceed its context of {context}; show "
                "fewer candidates with max_candidates=N"
            )
        prefix: Sequence[int] = os.path.commonprefix(tokens)[: len(tokens[order[-1]]) - 2]
        cache = self._encode(prefix)
        while order:
            size = self.settings.llm_batch_size * (longest + new) // (len(tokens[order[0]]) + new)
            batch, order = order[:size], order[size:]
            prompts = [tokens[place] for place in batch]
            generated = self.generate(prompts) if cache is None else self.generate_by_drafts(prompts, prefix, cache)
            answers = {questions[place]: self.answer(new) for place, new in zip(batch, generated)}
            for question, answer in answers.items():
                self.check(question, answer, self.settings.stop_after_failures)
            yield answers
            if self.stopped:
                return

    def answer(self, new: List[int]) -> str:
        """The text of the new tokens, without special ones."""
        text = str(self.tokenizer.decode(new, skip_special_tokens=True))
        return text if set(new).intersection(self.model.generation_config.eos_token_id) else text + CUT

    def generate(self, prompts: Sequence[List[int]]) -> List[List[int]]:
        """The new tokens of each prompt, then padding."""
        import torch

        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.compute.device)
        with torch.inference_mode():
            ids = self.model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        new: List[List[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return new

    def _encode(self, prefix: Sequence[int]) -> Any:
        """The keys and values of what all prompts begin with; None if `generate_by_drafts` cannot be used.

        Windows of attention and recurrent states would count the tokens that are masked.
        """
        import torch
        from transformers import DynamicCache

        takes = inspect.signature(self.model.forward).parameters
        if not prefix or "position_ids" not in takes or getattr(self.model.config, "sliding_window", None):
            return None
        ids = torch.tensor([prefix], device=self.compute.device)
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, return_dict_in_generate=True
            )
        cache = made.get("past_key_values")
        layers = {type(layer).__name__ for layer in getattr(cache, "layers", [])}  # since transformers 4.54
        return cache if type(cache) is DynamicCache and layers <= {"DynamicLayer"} else None

    def generate_by_drafts(self, prompts: Sequence[List[int]], prefix: Sequence[int], cache: Any) -> List[List[int]]:
        """The new tokens of each prompt, those of `generate`, in fewer passes: answers repeat titles of the prompt.

        A pass reads the last token and a `draft` of the next ones, and so finds what the model writes after each. The
        answer grows by the part of the draft that the model writes, too, and by the token after it; the rest of the
        draft is masked. Finished prompts leave the batch. (Prompt lookup; Saxena, 2023.)
        """
        import torch

        ends, texts = self.model.generation_config.eos_token_id, [list(prompt) for prompt in prompts]
        most = [len(prompt) + self.settings.max_new_tokens for prompt in prompts]
        rows, cache = list(range(len(prompts))), copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(rows))
        mask = torch.ones(len(rows), len(prefix), dtype=torch.long, device=self.compute.device)  # (B, tokens read)

        def read(model: Any, tokens: Sequence[List[int]]) -> Any:
            nonlocal mask
            inputs = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(mask.device)
            mask = torch.cat([mask, inputs["attention_mask"]], dim=1)
            places = (mask.cumsum(dim=1) - 1)[:, -inputs["input_ids"].shape[1] :]
            more = {"attention_mask": mask, "position_ids": places, "past_key_values": cache}
            return model(input_ids=inputs["input_ids"], **more)

        with torch.inference_mode():
            read(self.model.base_model, [prompt[len(prefix) : -1] for prompt in prompts])
            while rows:
                drafts = [draft(texts[row], most[row] - len(texts[row]) - 1) for row in rows]
                logits = read(self.model, [[texts[row][-1], *tokens] for row, tokens in zip(rows, drafts)]).logits
                going_on = []
                for place, (row, tokens, written) in enumerate(zip(rows, drafts, logits.argmax(-1).tolist())):
                    written = written[-1 - len(tokens) :]
                    right = len(os.path.commonprefix([tokens, written]))
                    mask[place, mask.shape[1] - len(tokens) + right :] = 0
                    end = next((n for n, token in enumerate(written[:right], 1) if token in ends), right + 1)
                    texts[row] += written[:end]
                    if texts[row][-1] not in ends and len(texts[row]) < most[row]:
                        going_on.append(place)
                if len(going_on) < len(rows):
                    rows, mask = [rows[place] for place in going_on], mask[going_on]
                    cache.batch_select_indices(torch.tensor(going_on, dtype=torch.long, device=mask.device))
        return [text[len(prompt) :] for text, prompt in zip(texts, prompts)]


def draft(tokens: List[int], most: int) -> List[int]:
    """The `DRAFT` tokens, or ``most``, that followed the last two tokens where these last occurred before; or none."""
    for place in range(len(tokens) - 1, 1, -1):
        if tokens[place - 2 : place] == tokens[-2:]:
            return tokens[place : place + min(DRAFT, most)]
    return []


class LikelihoodSelector(HfSelector):
    """The candidate whose title gains most in likelihood from the target's title, by a causal LM. Not the paper's.

    The gain is the sum over the title's tokens of log p(token | target's title, tokens before) - log p(token | tokens
    before): the pointwise mutual information of the titles. It is a sum, not a mean: the difference already makes up
    for a title's length. The answer is -1 if no title gains; ties go to the first. There is no prompt and no text to
    parse.
    """

    def __init__(self, settings: Settings, compute: Compute) -> None:
        super().__init__(settings, compute)
        self.identity["selector"] = "likelihood"
        del self.identity["max_new_tokens"]

    def answers(self, questions: Sequence[Question]) -> Answers:
        """Yield the answers to ``llm_batch_size`` questions at a time."""
        known: Dict[Tuple[str, str], float] = {}  # (title before or "", title): log-likelihood
        size = self.settings.llm_batch_size
        for start in range(0, len(questions), size):
            some = questions[start : start + size]
            pairs = ((q.target_title, title) for q in some for title in q.candidate_titles)
            wanted = {row for before, title in pairs for row in ((before, title), ("", title))} - known.keys()
            rows = sorted(wanted, key=lambda row: (len(row[0]) + len(row[1]), row))
            for first in range(0, len(rows), size):
                known.update(zip(rows[first : first + size], self._log_likelihoods(rows[first : first + size])))
            gains = [[known[q.target_title, title] - known["", title] for title in q.candidate_titles] for q in some]
            yield {q: q.answer(own.index(max(own))) if max(own) > 0 else "-1" for q, own in zip(some, gains)}

    def _log_likelihoods(self, rows: Sequence[Tuple[str, str]]) -> List[float]:
        """log p(title | title before, line break) for each row."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils.rnn import pad_sequence

        before = self.tokenizer([f"{text}\n" for text, _ in rows])["input_ids"]
        titles = self.tokenizer([title for _, title in rows], add_special_tokens=False)["input_ids"]
        ids = [torch.tensor(start + title, device=self.compute.device) for start, title in zip(before, titles)]
        with torch.inference_mode():  # padded on the right, where causal attention does not look
            logits = self.model(input_ids=pad_sequence(ids, batch_first=True)).logits  # (B, tokens, vocabulary)
        found = []
        for row, own, start in zip(logits, ids, map(len, before)):
            predicted = row[start - 1 : len(own) - 1].float()
            found.append(-float(cross_entropy(predicted, own[start:], reduction="sum")))
        return found
