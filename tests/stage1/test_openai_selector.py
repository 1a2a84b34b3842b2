"""Whatever the server does, the pair files end as if it had done nothing wrong, or the run says what is missing."""

from __future__ import annotations

import gc
import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, Dict, List, Optional

import httpx
import pytest
from chat_server import SLOW, ChatServer, first_candidate, well
from stage1_helpers import pair_files, pairs_settings, read_log, run_python
from tiny import make_tiny_dataset

from common.errors import UserError
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.llm.server import OpenAISelector, read_key, retry_after
from stage1_content_modality_semantic_alignment.llm.settings import Settings

KEY = "sk-a-secret"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def asking(folder: Path, url: str, **changes: Any) -> Settings:
    """Settings with all targets against the server."""
    values: Dict[str, Any] = {
        "selector": "openai",
        "base_url": url,
        "llm": "m",
        "targets": "every",
        "first_pause": 0.01,
        "requests_in_flight": 4,
    }
    return pairs_settings(folder, **{**values, **changes})


def ask(folder: Path, url: str, **changes: Any) -> Path:
    """A run against the server; returns the folder of the pairs."""
    if not (folder / "Tiny").exists():
        make_tiny_dataset(folder, covers=False)
    llm_driven_sample.run(asking(folder, url, **changes))
    return folder / "Tiny" / "pairs" / "paper"


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, bytes]:
    with ChatServer() as server:
        return pair_files(ask(tmp_path_factory.mktemp("faultless"), server.url))


def pick(prompt: str, of: int) -> int:
    """A number below ``of`` that is fixed by the prompt."""
    return sum(prompt.encode()) % of


# --- faults that pass ---


@pytest.mark.parametrize(
    "fault",
    ["429", "429 0", "429 nonsense", "408", "500", "503", "529", "drop", "half", "half_chunked", "slow"]
    + ["body <html>", "body {}", 'body {"choices": []}', "body null", "body " + "[" * 3000]
    + ['choice {"message": {"content": ""}, "finish_reason": "error"}'],
)
def test_a_fault_at_the_first_try_leaves_the_files_as_they_would_be(
    tmp_path: Path, faultless: Dict[str, bytes], fault: str
) -> None:
    rare = fault == "slow"

    def misbehave(prompt: str, attempt: int) -> str:
        return fault if attempt == 0 and pick(prompt, 8 if rare else 2) == 0 else "well"

    with ChatServer(misbehave) as server:
        folder = ask(tmp_path, server.url, request_timeout=SLOW / 2 if rare else 20)
        assert len(server.seen) > len(server.attempts)  # there were retries
    assert pair_files(folder) == faultless


def test_a_server_that_dies_in_the_middle_and_comes_back(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    with ChatServer(lambda *_: "well" if len(server.seen) <= 10 else "slow") as server:
        asking = threading.Thread(target=ask, args=(tmp_path, server.url), kwargs={"first_pause": 0.2})
        asking.start()
        while len(server.seen) < 10:
            time.sleep(0.002)
    assert not (tmp_path / "Tiny" / "pairs" / "paper" / "summary.json").exists()
    with ChatServer(port=server.port) as again:
        asking.join(30)
        assert len(again.seen) >= 3
    assert pair_files(tmp_path / "Tiny" / "pairs" / "paper") == faultless


def test_a_server_that_dies_for_good_stops_the_run_and_the_next_asks_only_the_rest(
    tmp_path: Path, faultless: Dict[str, bytes]
) -> None:
    total = len(faultless["answers.jsonl"].splitlines())

    def misbehave(prompt: str, attempt: int) -> str:
        return "well" if len(server.seen) <= 10 else "drop"

    with ChatServer(misbehave) as server, pytest.raises(UserError, match="in a row failed.*same command again"):
        ask(tmp_path, server.url, stop_after_failures=4, request_tries=2)
    with closing(sqlite3.connect(tmp_path / "Tiny" / "pairs" / "answers.sqlite")) as store:
        (answered,) = store.execute("SELECT count(*) FROM answers").fetchone()
    assert 0 < answered <= 10
    with ChatServer() as again:
        assert pair_files(ask(tmp_path, again.url)) == faultless
        assert len(again.seen) == total - answered
    with ChatServer() as third:
        ask(tmp_path, third.url, strategy="other")  # another port: the same model
        assert not third.seen


def test_a_killed_run_goes_on(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    make_tiny_dataset(tmp_path, covers=False)
    with ChatServer(seconds=0.02) as server:
        words = f"selector=openai base_url={server.url} llm=m targets=every requests_in_flight=2 device=cpu"
        code = f"""
import os, signal
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.llm.answers import AnswerStore
keep, kept = AnswerStore.keep, []
def keep_then_die(self, answers):
    keep(self, answers)
    kept.extend(answers)
    if len(kept) >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
AnswerStore.keep = keep_then_die
llm_driven_sample.main(["-d", "Tiny", "datasets_dir={tmp_path}", *"{words}".split()])
"""
        assert run_python(code).returncode == -signal.SIGKILL
    with ChatServer() as again:
        assert pair_files(ask(tmp_path, again.url)) == faultless
        assert len(again.seen) <= len(faultless["answers.jsonl"].splitlines()) - 8


# --- faults that stay ---


def test_a_request_that_keeps_failing_is_skipped_counted_and_asked_again_later(
    tmp_path: Path, faultless: Dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    first = read_first_prompt(faultless)
    with ChatServer(lambda prompt, attempt: "500" if prompt == first else "well") as server:
        folder = ask(tmp_path, server.url, request_tries=3)
        assert server.attempts[first] == 3
    failed = [entry for entry in read_log(folder) if entry["verdict"] == "failed"]
    assert [entry["prompt"] for entry in failed] == [first] and failed[0]["answer"] is None
    assert failed[0]["error"] == "HTTP 500: no <b>luck</b> (3 tries)"
    said = capsys.readouterr().out
    assert f"1 of {len(faultless['answers.jsonl'].splitlines())} requests failed" in said
    assert json.loads((folder / "summary.json").read_text())["summary"]["verdict failed"] > 0
    with ChatServer() as again:
        assert pair_files(ask(tmp_path, again.url)) == faultless
        assert [body["messages"][0]["content"] for _, body, _ in again.seen] == [first]
    assert "requests that failed 1 → 0" in capsys.readouterr().out
    ask(tmp_path, again.url)
    assert "up to date" in capsys.readouterr().out


def read_first_prompt(files: Dict[str, bytes]) -> str:
    return str(json.loads(files["answers.jsonl"].splitlines()[0])["prompt"])


@pytest.mark.parametrize("status, fix", [(401, "api_key_env"), (403, "key"), (404, "llm to a name"), (302, "moved")])
def test_a_server_that_refuses_all_requests_stops_the_run_at_once(
    tmp_path: Path, status: int, fix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ChatServer(lambda *_: str(status)) as server:
        with pytest.raises(UserError, match=f"HTTP {status}: no <b>luck</b>; .*{fix}"):
            ask(tmp_path, server.url)
        assert len(server.seen) <= 4
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]  # one error, not one per request


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(lambda prompt, _: "echo 400" if pick(prompt, 2) else "well") as server:
        folder = ask(tmp_path, server.url, request_extra={"response_format": None})
        assert all(headers["authorization"] == f"Bearer {KEY}" for _, _, headers in server.seen)
    assert any(entry.get("error") == "HTTP 400: your header was Bearer ***" for entry in read_log(folder))
    with ChatServer(lambda *_: "echo 401") as server, pytest.raises(UserError, match=r"Bearer \*\*\*") as refused:
        ask(tmp_path, server.url)
    assert KEY not in str(refused.value) and KEY not in repr(OpenAISelector(Settings()).identity)
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_without_a_key_none_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with ChatServer() as server:
        ask(tmp_path, server.url, limit=1)
        assert "authorization" not in server.seen[0][2]
        monkeypatch.setenv("MY_KEY", "other")
        ask(tmp_path, server.url, limit=2, api_key_env="MY_KEY")
        assert server.seen[1][2]["authorization"] == "Bearer other"


@pytest.mark.parametrize("secret", ["sk-é", "sk-a\nb"])
def test_a_key_that_no_header_admits_is_one_error_without_the_key(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
        read_key("OPENAI_API_KEY")
    assert secret not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "http://u:pw@h/v1", "http://h/v1?key=pw", "http://"])
def test_a_base_url_that_is_none_or_holds_a_secret(url: str) -> None:
    with pytest.raises(UserError, match="base_url") as error:
        OpenAISelector(Settings(base_url=url))
    assert "pw" not in str(error.value)


def test_a_refused_connection_stops_the_run(tmp_path: Path) -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(UserError, match="ConnectError.*check that the server is up"):
        ask(tmp_path, server.url, request_tries=2, stop_after_failures=3)
    with pytest.raises(UserError, match="^none of [0-9]+ requests was answered: ConnectError"):
        ask(tmp_path, server.url, request_tries=1, stop_after_failures=10_000)
    assert not list(tmp_path.rglob("summary.json"))


# --- manners ---


@pytest.mark.parametrize("wait, seconds", [("1", 1.0), ("date", 0.9)])
def test_retry_after_is_obeyed_by_all_requests(tmp_path: Path, wait: str, seconds: float) -> None:
    with ChatServer(lambda *_: f"429 {wait}" if len(server.seen) == 1 else "well") as server:
        ask(tmp_path, server.url, requests_in_flight=1)
        times = [moment for moment, _, _ in server.seen]
    assert times[1] - times[0] >= seconds


def test_one_that_waits_holds_the_others_back(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    first = read_first_prompt(faultless)
    with ChatServer(lambda prompt, n: "429 1" if prompt == first and n == 0 else "well", seconds=0.3) as server:
        ask(tmp_path, server.url, requests_in_flight=2)
        gaps = [moment - server.seen[0][0] for moment, _, _ in server.seen]
    assert len([gap for gap in gaps if gap < 1.0]) <= 2  # the one, and the other that was under way


def test_a_request_asked_to_wait_too_long_is_skipped(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    first = read_first_prompt(faultless)
    with ChatServer(lambda prompt, _: "429 9999" if prompt == first else "well") as server:
        folder = ask(tmp_path, server.url, longest_wait=5.0)
    errors = [entry["error"] for entry in read_log(folder) if entry["verdict"] == "failed"]
    assert errors == ["HTTP 429: no <b>luck</b>; the server asks to wait 9999 s"]


def test_retry_after_in_every_form() -> None:
    def seconds(value: str, **more: str) -> float:
        return retry_after(httpx.Headers({"Retry-After": value, **more}))

    now = datetime(2020, 1, 1, tzinfo=timezone.utc)  # by the server's clock, whatever ours says
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert seconds(later, Date=format_datetime(now, usegmt=True)) == 90
    assert seconds("7") == 7 and seconds("1.5") == 1.5 and retry_after(httpx.Headers({})) == 0
    assert seconds(later) == seconds("-3") == seconds("soon") == 0


def test_pauses_double_with_jitter_and_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import asyncio

    pauses: List[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("stage1_content_modality_semantic_alignment.llm.server.asyncio.sleep", noted)
    with ChatServer(lambda *_: "500") as server, pytest.raises(UserError, match="none of 1 requests"):
        ask(tmp_path, server.url, limit=1, request_tries=9, first_pause=1.0, stop_after_failures=9)
    assert len(pauses) == 8
    for pause, highest in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60]):
        assert highest / 2 <= pause <= highest
    assert len({pause / 2**n for n, pause in enumerate(pauses)}) > 1


def test_no_more_requests_are_under_way_than_allowed(tmp_path: Path) -> None:
    with ChatServer(seconds=0.1) as server:
        ask(tmp_path, server.url, requests_in_flight=3)
    assert 1 < server.most_under_way <= 3


# --- what is sent, and what is made of the answers ---


def test_the_schema_is_sent_and_left_out_where_the_server_refuses_it(
    tmp_path: Path, faultless: Dict[str, bytes]
) -> None:
    with ChatServer() as server:
        ask(tmp_path / "takes", server.url)
        assert all(body["response_format"]["type"] == "json_schema" for _, body, _ in server.seen)
    with ChatServer(lambda *_: "400" if "response_format" in server.seen[-1][1] else "well") as server:
        folder = ask(tmp_path / "refuses", server.url, requests_in_flight=1)
        assert ["response_format" in body for _, body, _ in server.seen[:4]] == [True, False, False, False]
    assert pair_files(folder) == faultless


def test_a_400_that_is_not_about_the_schema_leaves_the_schema_on(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    first = read_first_prompt(faultless)
    with ChatServer(lambda prompt, _: "400" if prompt == first else "well") as server:
        folder = ask(tmp_path, server.url, requests_in_flight=1)
        assert ["response_format" in body for _, body, _ in server.seen[:4]] == [True, False, True, True]
    assert [entry["prompt"] for entry in read_log(folder) if entry["verdict"] == "failed"] == [first]


def test_answers_are_checked_here_whatever_the_server_promised(tmp_path: Path) -> None:
    wrong = ['{"similar": 99}', "of course! 3", '{"similar": -1}', "", "\ud800"]
    contents = [json.dumps(text) for text in wrong] + ["null", "[1]"]
    one_by_one = (f"says {contents[n % 7]}" for n in count())
    none = pytest.raises(UserError, match="no answer makes a pair; most have the verdict malformed, such as")
    with ChatServer(lambda *_: next(one_by_one)) as server, none:
        ask(tmp_path, server.url, requests_in_flight=1)
    folder = tmp_path / "Tiny" / "pairs" / "paper"
    verdicts = {entry["verdict"] for entry in read_log(folder)}
    assert verdicts == {"not-a-candidate", "malformed", "none"}
    assert not (folder / "item_pairs_id.txt").exists() and not (folder / "summary.json").exists()


ANSWER = "ANSWER"  # in place of the right answer to a prompt
MISSING = "no content"  # the key is left out
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    "content, finish_reason, verdict",
    [
        (f"<think>It is {{3}}.\n\n</think>\n\n{ANSWER}", "stop", "pair"),
        (f"It is 3, the template has the opening tag\n</think>{ANSWER}", "stop", "pair"),
        (f"<thinking>no </think> yet</thinking> {ANSWER}", "stop", "pair"),
        (f"[THINK]hm[/THINK]{ANSWER}", "stop", "pair"),
        ([THINKING, {"type": "text", "text": ANSWER}], "stop", "pair"),
        ([{"type": "reasoning", "text": "hm"}, {"text": ANSWER}], None, "pair"),
        ([{"type": "output_text", "text": ANSWER}], "stop", "pair"),
        ([ANSWER], "stop", "pair"),
        (ANSWER, "length", "pair"),  # whole, though blanks came after it
        ("<think>It is 3, but", "length", "cut-off"),
        ("<think>It is 3, but", None, "cut-off"),  # a server that gives no reason
        ("It is 3, but", "length", "cut-off"),
        ("<think>hm</think>", "length", "cut-off"),
        ([THINKING], "length", "cut-off"),
        (None, "length", "cut-off"),
        (None, "stop", "malformed"),
        (None, "content_filter", "malformed"),
        ([], "stop", "malformed"),
        ("<think>hm</think>", "stop", "malformed"),
        ({"text": None}, "stop", "malformed"),
        (MISSING, "stop", "malformed"),
        (MISSING, "length", "cut-off"),
    ],
)
def test_every_way_in_which_an_answer_comes_back(
    tmp_path: Path, content: Any, finish_reason: Optional[str], verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = {"role": "assistant", **({} if content == MISSING else {"content": content})}
    choice = json.dumps({"message": message, "finish_reason": finish_reason})
    seen: List[str] = []

    def answer(prompt: str, _: int) -> str:
        seen.append(prompt)
        if len(seen) == 1:
            return "well"  # so that there is a pair in any case
        return "choice " + choice.replace(ANSWER, json.dumps(first_candidate(prompt))[1:-1])

    with ChatServer(answer) as server:
        folder = ask(tmp_path, server.url, limit=3, requests_in_flight=1)
    assert [entry["verdict"] for entry in read_log(folder)] == ["pair", verdict, verdict]
    advice = " answers are cut off: raise max_new_tokens" in capsys.readouterr().out
    assert advice == (verdict == "cut-off")


@pytest.mark.parametrize("content, advice", [("I would say 3", "answer_form"), ("<think>Well", "raise max_new_tokens")])
def test_malformed_answers_in_a_row_stop_the_run_with_an_example_and_nothing_is_paid_twice(
    tmp_path: Path, faultless: Dict[str, bytes], content: str, advice: str
) -> None:
    total = len(faultless["answers.jsonl"].splitlines())
    one_by_one = chain(["well"] * 3, repeat(f"says {json.dumps(content)}"))
    with ChatServer(lambda *_: next(one_by_one)) as server:
        with pytest.raises(UserError, match=f"^4 answers in a row .*'{content}'; .*{advice}.*the same command"):
            ask(tmp_path, server.url, stop_after_failures=4, requests_in_flight=2)
        assert 7 <= len(server.seen) <= 9  # what was under way was waited for
    assert not (tmp_path / "Tiny" / "pairs" / "paper").joinpath("summary.json").exists()
    with ChatServer() as again:
        folder = ask(tmp_path, again.url, requests_in_flight=2)
        assert len(again.seen) == total - len(server.seen)
    verdicts = Counter(entry["verdict"] for entry in read_log(folder))
    assert verdicts["pair"] == total - len(server.seen) + 3


def test_a_pair_set_without_pairs_is_never_done(tmp_path: Path, faultless: Dict[str, bytes]) -> None:
    total = len(faultless["answers.jsonl"].splitlines())
    with ChatServer(lambda *_: 'says "hm"') as server:
        for _ in range(2):
            with pytest.raises(UserError, match="no answer makes a pair; .*malformed, such as 'hm'; .*--force"):
                ask(tmp_path, server.url)
        assert len(server.seen) == total  # the second time nothing is asked
    with ChatServer() as again:
        llm_driven_sample.run(asking(tmp_path, again.url), force=True)
    assert pair_files(tmp_path / "Tiny" / "pairs" / "paper") == faultless


def test_request_extra_adds_and_takes_out_fields_and_is_another_asking(tmp_path: Path) -> None:
    with ChatServer(well) as server:
        ask(tmp_path, server.url, limit=1)
        extra = {"max_tokens": None, "max_completion_tokens": 9, "response_format": None}
        ask(tmp_path, server.url, limit=1, request_extra=extra)
    plain, changed = (body for _, body, _ in server.seen)
    assert (plain["model"], plain["temperature"], plain["max_tokens"]) == ("m", 0, 128)
    assert "max_tokens" not in changed and changed["max_completion_tokens"] == 9 and "response_format" not in changed
