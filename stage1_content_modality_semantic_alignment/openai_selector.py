"""Asks an LLM behind any OpenAI-compatible server: vLLM, ``transformers serve``, Ollama, a hosted one.

Many requests are in flight at once. What may pass is tried again: a dropped connection, a time-out, half a reply, HTTP
408, 429 and 5xx, after pauses that double, with jitter, and never earlier than Retry-After says. A request that keeps
failing is passed over and named; a server that refuses everybody stops the run. The key comes from the environment
and is shown nowhere.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Dict, Optional, Sequence

import httpx

from common.errors import UserError
from common.settings import ComputeSettings, setting
from stage1_content_modality_semantic_alignment.pair_selectors import Keep
from stage1_content_modality_semantic_alignment.questions import JSON, Question
from stage1_content_modality_semantic_alignment.verdicts import SCHEMA

KEEP_EVERY = 0.5  # seconds: a commit waits for the disk, and a kill loses no more answers than these
LONGEST_PAUSE = 60.0  # seconds that our own doubling stops at; Retry-After may say more
CURES = {
    401: "set the environment variable that api_key_env names to the server's key",
    403: "the key does not admit this; ask the server's owner, or take another model",
    404: "correct base_url (it mostly ends in /v1), or llm to a name that the server lists under /models",
    405: "correct base_url: it mostly ends in /v1",
}
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "similar_item", "strict": True, "schema": SCHEMA},
}


@dataclass
class ServerSettings(ComputeSettings):
    """Settings of ``selector=openai``."""

    base_url: str = setting("http://localhost:8000/v1", "openai: where the server is, up to /v1")
    api_key_env: str = setting("OPENAI_API_KEY", "openai: environment variable that holds the key; unset: none is sent")
    requests_in_flight: int = setting(16, "openai: requests under way at once", minimum=1)
    request_timeout: float = setting(120.0, "openai: seconds that a reply may take", minimum=0.001)
    request_tries: int = setting(6, "openai: times that a request is sent before it is passed over", minimum=1)
    first_pause: float = setting(1.0, "openai: seconds before the second try; doubled before each next", minimum=0)
    longest_wait: float = setting(600.0, "openai: a request told to wait longer (s) is passed over", minimum=0)
    stop_after_failures: int = setting(32, "openai: stop when so many requests in a row were passed over", minimum=1)
    request_extra: Dict[str, Any] = setting(
        {}, "openai: fields to add to each request, as {seed: 1}; null takes out one of ours, as {max_tokens: null}"
    )


class _PassedOver(Exception):
    """A request that will not be answered in this run; the message says why."""


class _TryAgain(Exception):
    """A try that failed and may pass."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds, as Retry-After asks


class OpenAISelector:
    """Greedy answers of the model called ``model`` on the server that the settings name.

    Raises:
        UserError: base_url or the key cannot be used.
    """

    def __init__(self, settings: ServerSettings, model: str, max_new_tokens: int) -> None:
        self.settings = settings
        self.url = check_url(settings.base_url).rstrip("/") + "/chat/completions"
        self.key = read_key(settings.api_key_env)
        body = {"model": model, "temperature": 0, "max_tokens": max_new_tokens, **settings.request_extra}
        self.body = {name: value for name, value in body.items() if value is not None}
        # where the server is does not shape an answer: a move to another port asks nothing anew
        self.identity = {"selector": "openai", **self.body}
        self.takes_schema = "response_format" not in settings.request_extra
        self.not_before = 0.0  # on the loop's clock: a server that says "wait" means all of us

    def answer(self, questions: Sequence[Question], keep: Keep) -> Dict[Question, str]:
        """Ask all.

        Raises:
            UserError: the server refuses everybody, or is gone. What was answered before was handed to ``keep``.
        """
        return asyncio.run(self._answer(questions, keep))

    async def _answer(self, questions: Sequence[Question], keep: Keep) -> Dict[Question, str]:
        passed_over: Dict[Question, str] = {}
        fresh: Dict[Question, str] = {}  # not yet handed to keep
        in_a_row = 0
        waiting = iter(questions)
        running: Dict[asyncio.Task[str], Question] = {}
        loop = asyncio.get_running_loop()
        self.not_before = kept_at = loop.time()
        limits = httpx.Limits(max_connections=self.settings.requests_in_flight)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:
            try:
                while True:
                    while len(running) < self.settings.requests_in_flight:
                        question = next(waiting, None)
                        if question is None:
                            break
                        running[asyncio.create_task(self._ask(client, question))] = question
                    if not running:
                        return passed_over
                    done, _ = await asyncio.wait(running, timeout=KEEP_EVERY, return_when=asyncio.FIRST_COMPLETED)
                    asked = {task: running.pop(task) for task in done}
                    answered = {asked[task]: task.result() for task in done if task.exception() is None}
                    fresh.update(answered)
                    in_a_row = 0 if answered else in_a_row
                    for error, question in ((task.exception(), asked[task]) for task in done):
                        if isinstance(error, _PassedOver):
                            passed_over[question] = str(error)
                            in_a_row += 1
                        elif error is not None:
                            raise error
                    if in_a_row >= self.settings.stop_after_failures:
                        raise UserError(
                            f"{self.settings.base_url}: {in_a_row} requests in a row failed, the last one with: "
                            f"{list(passed_over.values())[-1]}; see whether the server is up. What was answered is "
                            "kept: the same command goes on from there"
                        )
                    if fresh and loop.time() >= kept_at + KEEP_EVERY:
                        keep(fresh)
                        fresh, kept_at = {}, loop.time()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                if fresh:
                    keep(fresh)

    async def _ask(self, client: httpx.AsyncClient, question: Question) -> str:
        """One question, with its retries."""
        reason = ""
        for attempt in range(self.settings.request_tries):
            await self._wait_for_leave()
            try:
                return await self._try(client, question)
            except _TryAgain as error:
                reason = str(error)
                if error.wait > self.settings.longest_wait:
                    raise _PassedOver(f"{reason}; the server asks to wait {error.wait:.0f} s") from error
                if attempt + 1 < self.settings.request_tries:
                    pause = min(LONGEST_PAUSE, self.settings.first_pause * 2**attempt) * random.uniform(0.5, 1.0)
                    self._nobody_before(error.wait)
                    await asyncio.sleep(max(pause, error.wait + pause if error.wait else 0.0))
        raise _PassedOver(f"{reason} ({self.settings.request_tries} tries)")

    def _nobody_before(self, seconds: float) -> None:
        if seconds:
            self.not_before = max(self.not_before, asyncio.get_running_loop().time() + seconds)

    async def _wait_for_leave(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.not_before:
            await asyncio.sleep(self.not_before - loop.time() + random.uniform(0, self.settings.first_pause))

    async def _try(self, client: httpx.AsyncClient, question: Question) -> str:
        """One request; a second one without the schema where the server refuses that."""
        body: Dict[str, Any] = {**self.body, "messages": [{"role": "user", "content": question.prompt}]}
        if question.template.form == JSON and self.takes_schema:
            reply = await self._post(client, {**body, "response_format": RESPONSE_FORMAT})
            if reply.status_code not in (400, 422):
                return self._content(reply)
            answer = self._content(await self._post(client, body))
            self.takes_schema = False  # it was the schema that was refused: without it the request passes
            return answer
        return self._content(await self._post(client, body))

    async def _post(self, client: httpx.AsyncClient, body: Dict[str, Any]) -> httpx.Response:
        try:
            return await asyncio.wait_for(client.post(self.url, json=body), self.settings.request_timeout)
        except asyncio.TimeoutError as error:
            raise _TryAgain(f"no reply within {self.settings.request_timeout:g} s") from error
        except httpx.RequestError as error:
            raise _TryAgain(self._safe(f"{type(error).__name__}: {error}")) from error

    def _content(self, reply: httpx.Response) -> str:
        """The answer's text; an exception that says what to do for every other reply."""
        status = reply.status_code
        if status != 200:
            said = self._safe(f"HTTP {status}: {reply.text}")
            if status in (408, 429) or status >= 500:
                raise _TryAgain(said, retry_after(reply.headers))
            if status in CURES or 300 <= status < 400:
                raise UserError(f"{self.url}: {said}; {CURES.get(status, 'correct base_url: the server has moved')}")
            raise _PassedOver(said)
        try:
            content = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise _TryAgain(self._safe(f"HTTP 200, but no chat completion: {reply.text}")) from error
        if not isinstance(content, str):  # null: cut off while it was still thinking, or refused
            return ""
        return content.encode("utf-8", "replace").decode()

    def _safe(self, text: str) -> str:
        """A server's words on one line, short, without the key."""
        short = " ".join((text.replace(self.key, "***") if self.key else text).split())
        return short if len(short) <= 300 else short[:300] + "…"


def check_url(base_url: str) -> str:
    """The URL, if it is one of a server and holds no secret."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise UserError(f"setting 'base_url' is not a URL: {error}; write http://HOST:PORT/v1") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError("setting 'base_url' is not a server's URL; write http://HOST:PORT/v1")
    if url.userinfo or url.query:
        raise UserError(
            "setting 'base_url' holds a user, a password or a query, and settings are written to files; put the key "
            "into the environment variable that api_key_env names"
        )
    return base_url


def read_key(variable: str) -> str:
    """The key from the environment, or nothing; an error about it does not show it."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"environment variable {variable}: the key holds characters that no header admits; set it anew")
    return key


def retry_after(headers: httpx.Headers) -> float:
    """Seconds that ``Retry-After`` asks for, 0 where it says nothing legible.

    A date is compared with the server's own clock (``Date``) where that is given.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    until, now = parse_date(value), parse_date(headers.get("date", ""))
    if until is None:
        return 0.0
    return max(0.0, (until - (now or datetime.now(timezone.utc))).total_seconds())


def parse_date(value: str) -> Optional[datetime]:
    """An HTTP date, in UTC."""
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
