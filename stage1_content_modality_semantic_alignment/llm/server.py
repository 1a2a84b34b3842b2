"""``selector=openai``: an LLM behind any OpenAI-compatible server (vLLM, ``transformers serve``, Ollama, a hosted one).

Several requests are in flight at once. A dropped connection, a timeout, half a reply and HTTP 408, 429 and 5xx are
retried, with pauses that double, and never earlier than Retry-After asks. A request that keeps failing is skipped and
reported; a server that refuses all requests, or gives many malformed answers in a row, stops the run. The key comes
from the environment and is never shown.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any, Collection, Dict, Iterator, Mapping, Sequence

from common.errors import UserError
from stage1_content_modality_semantic_alignment.llm.answers import CUT
from stage1_content_modality_semantic_alignment.llm.prompts import Question
from stage1_content_modality_semantic_alignment.llm.selectors import Answers, Selector
from stage1_content_modality_semantic_alignment.llm.settings import Settings

if TYPE_CHECKING:
    import httpx

KEEP_EVERY = 0.5  # seconds between writes to the store: a kill loses the answers of this time
LONGEST_PAUSE = 60.0  # seconds, the limit of doubling; Retry-After may ask for more
_URL = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[\w.~%/-]*)?")
FIXES = {
    401: "set the environment variable that api_key_env names to the server's key",
    403: "the key has no access; ask the server's owner, or take another model",
    404: "correct base_url (it usually ends in /v1), or llm to a name that the server lists under /models",
    405: "correct base_url: it usually ends in /v1",
}
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "similar_item",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"similar": {"type": "integer"}},
            "required": ["similar"],
            "additionalProperties": False,
        },
    },
}


class _Skip(Exception):
    """A request that gets no answer in this run; the message is the reason."""


class _Retry(Exception):
    """A failed try that may succeed later; ``wait``: seconds that Retry-After asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class OpenAISelector(Selector):
    """Greedy answers of the model ``llm``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if not _URL.fullmatch(settings.base_url):
            raise UserError(
                "setting 'base_url' is not http://HOST:PORT/v1; settings are written to files, so put a user, password "
                "or key into the environment variable that api_key_env names"
            )
        self.url = settings.base_url.rstrip("/") + "/chat/completions"
        self.key = read_key(settings.api_key_env)
        body = {"model": settings.llm, "temperature": 0, "max_tokens": settings.max_new_tokens}
        body.update(settings.request_extra)
        self.body = {name: value for name, value in body.items() if value is not None}
        super().__init__(selector="openai", **self.body)  # without the URL: a server may move
        self.takes_schema = "response_format" not in settings.request_extra
        self.fresh: Dict[Question, str] = {}  # answers not yet yielded
        self.failures_in_a_row = 0
        self.not_before = 0.0  # time of the event loop: Retry-After holds for all requests

    def answers(self, questions: Sequence[Question]) -> Answers:
        """Yield the answers of each half second; at last, a `UserError` if the server refuses all or is down."""
        import httpx

        loop = asyncio.new_event_loop()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.settings.requests_in_flight)
        client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None)
        waiting = iter(questions)
        running = {loop.create_task(self._work(client, waiting)) for _ in range(self.settings.requests_in_flight)}
        try:
            while running:
                step = asyncio.wait(running, timeout=KEEP_EVERY, return_when=asyncio.FIRST_EXCEPTION)
                done, running = loop.run_until_complete(step)
                if self.fresh:
                    fresh, self.fresh = self.fresh, {}
                    yield fresh
                errors = [error for error in (worker.exception() for worker in done) if error]
                if errors:
                    raise errors[0]
        except KeyboardInterrupt:
            yield self.fresh
            raise
        finally:
            loop.run_until_complete(_stop(running, client))
            loop.close()

    async def _work(self, client: httpx.AsyncClient, waiting: Iterator[Question]) -> None:
        """Ask one question after the other; ``requests_in_flight`` workers share the questions."""
        for question in waiting:
            try:
                answer = self.fresh[question] = await self._ask(client, question)
                self.failures_in_a_row = 0
                self.check(question, answer, self.settings.stop_after_failures)
            except _Skip as reason:
                self.failed[question] = str(reason)
                self.failures_in_a_row += 1
                if self.failures_in_a_row >= self.settings.stop_after_failures:
                    raise UserError(
                        f"{self.settings.base_url}: {self.failures_in_a_row} requests in a row failed, the last one "
                        f"with: {reason}; check that the server is up, then run the same command again: it asks only "
                        "what is not answered yet"
                    ) from reason
            if self.stopped:  # the other workers finish their requests, which are paid for
                return

    async def _ask(self, client: httpx.AsyncClient, question: Question) -> str:
        """The answer to one question, with retries."""
        loop, settings = asyncio.get_running_loop(), self.settings
        reason = ""
        for attempt in range(settings.request_tries):
            while loop.time() < self.not_before:
                await asyncio.sleep(self.not_before - loop.time() + random.uniform(0, settings.first_pause))
            try:
                return await self._try(client, question)
            except _Retry as error:
                reason = str(error)
                if error.wait > settings.longest_wait:
                    raise _Skip(f"{reason}; the server asks to wait {error.wait:.0f} s") from error
                if attempt + 1 < settings.request_tries:
                    self.not_before = max(self.not_before, loop.time() + error.wait)
                    pause = min(LONGEST_PAUSE, settings.first_pause * 2**attempt) * random.uniform(0.5, 1.0)
                    await asyncio.sleep(error.wait + pause)
        raise _Skip(f"{reason} ({settings.request_tries} tries)")

    async def _try(self, client: httpx.AsyncClient, question: Question) -> str:
        """One request; a second one without the schema if the server refuses it."""
        body: Dict[str, Any] = {**self.body, "messages": [{"role": "user", "content": question.prompt}]}
        if question.template.form != "json" or not self.takes_schema:
            return self._content(await self._post(client, body))
        reply = await self._post(client, {**body, "response_format": RESPONSE_FORMAT})
        if reply.status_code not in (400, 422):
            return self._content(reply)
        answer = self._content(await self._post(client, body))
        self.takes_schema = False  # without the schema the request succeeded
        return answer

    async def _post(self, client: httpx.AsyncClient, body: Dict[str, Any]) -> httpx.Response:
        import httpx

        try:
            return await asyncio.wait_for(client.post(self.url, json=body), self.settings.request_timeout)
        except asyncio.TimeoutError as error:
            raise _Retry(f"no reply within {self.settings.request_timeout:g} s") from error
        except httpx.RequestError as error:
            raise _Retry(self._safe(f"{type(error).__name__}: {error}")) from error

    def _content(self, reply: httpx.Response) -> str:
        """The text of the answer; any other reply raises `_Retry`, `_Skip` or `UserError`."""
        status = reply.status_code
        if status != 200:
            message = self._safe(f"HTTP {status}: {reply.text}")
            if status in (408, 429) or status >= 500:
                raise _Retry(message, retry_after(reply.headers))
            if status in FIXES or 300 <= status < 400:
                raise UserError(f"{self.url}: {message}; {FIXES.get(status, 'correct base_url: the server has moved')}")
            raise _Skip(message)
        try:
            choice = reply.json()["choices"][0]
            answer, reason = text_of(choice["message"].get("content")), choice.get("finish_reason")
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise _Retry(self._safe(f"HTTP 200, but no chat completion: {reply.text}")) from error
        if reason == "error":
            raise _Retry(self._safe(f"HTTP 200, but finish_reason error: {reply.text}"))
        return answer.encode("utf-8", "replace").decode() + (CUT if reason == "length" else "")

    def _safe(self, text: str) -> str:
        """A server's message on one line, at most 300 characters, without the key."""
        short = " ".join((text.replace(self.key, "***") if self.key else text).split())
        return short if len(short) <= 300 else short[:300] + "…"


async def _stop(workers: Collection[asyncio.Task[None]], client: httpx.AsyncClient) -> None:
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    await client.aclose()


def text_of(content: Any) -> str:
    """The text of a message: a string, or a list of parts, of which those of thinking are left out.

    null or a missing content is no text: the answer was cut off while the model was thinking, or the model refused.
    """
    if isinstance(content, list):
        return "".join(map(text_of, content))
    if isinstance(content, dict):  # a part
        return text_of(content.get("text")) if content.get("type") in (None, "text", "output_text") else ""
    return content if isinstance(content, str) else ""


def read_key(variable: str) -> str:
    """The key from the environment, or an empty string. An error does not show the key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"environment variable {variable}: the key has characters that HTTP forbids; set it again")
    return key


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` asks for, 0 if it is missing or unreadable.

    A date is compared with the server's own clock (``Date``), if that is given.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", value):
        return float(value)
    try:
        until, now = parsedate_tz(value), parsedate_tz(headers.get("date", ""))
        return max(0.0, mktime_tz(until) - (mktime_tz(now) if now else time.time())) if until else 0.0
    except (ValueError, OverflowError, IndexError, TypeError):  # no such day
        return 0.0
