"""A chat-completions server for tests: answers each prompt with its first candidate, or as badly as a test wants.

``misbehave(prompt, attempt)`` names what to do with the attempt-th request (from 0) for a prompt; ``well``: answer it.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, Optional, Tuple

Misbehave = Callable[[str, int], str]
SLOW = 0.5  # seconds


def well(prompt: str, attempt: int) -> str:
    return "well"


def first_candidate(prompt: str) -> str:
    item = int(re.findall(r"^(\d+)-", prompt, re.MULTILINE)[1])
    return json.dumps({"similar": item})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.counting:
            attempt = self.server.attempts[prompt]
            self.server.attempts[prompt] += 1
            self.server.seen.append((time.monotonic(), body, {k.lower(): v for k, v in self.headers.items()}))
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            name, _, argument = self.server.misbehave(prompt, attempt).partition(" ")
            getattr(self, name, self.status)(*([prompt, argument] if hasattr(self, name) else [name, argument]))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up
        finally:
            with self.server.counting:
                self.server.under_way -= 1

    def reply(self, status: int, text: str, length: Optional[int] = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text.encode()) if length is None else length))
        self.end_headers()
        self.wfile.write(text.encode())

    def completion(self, prompt: str) -> str:
        message = {"role": "assistant", "content": first_candidate(prompt)}
        return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def well(self, prompt: str, _: str) -> None:
        time.sleep(self.server.seconds)
        self.reply(200, self.completion(prompt))

    def slow(self, prompt: str, _: str) -> None:
        time.sleep(SLOW)
        self.well(prompt, "")

    def says(self, prompt: str, content: str) -> None:
        self.choice(prompt, json.dumps({"message": {"content": json.loads(content)}}))

    def choice(self, _: str, text: str) -> None:
        self.reply(200, f'{{"choices": [{text}]}}')

    def body(self, _: str, text: str) -> None:
        self.reply(200, text)

    def half(self, prompt: str, _: str) -> None:
        whole = self.completion(prompt)
        self.reply(200, whole[: len(whole) // 2], len(whole.encode()))
        self.close_connection = True

    def half_chunked(self, prompt: str, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\n" + self.completion(prompt)[:20].encode())
        self.close_connection = True

    def drop(self, *_: str) -> None:
        self.close_connection = True

    def echo(self, _: str, status: str) -> None:
        self.reply(int(status), f"your header was {self.headers['Authorization']}")

    def status(self, status: str, wait: str) -> None:
        if wait == "date":
            wait = formatdate(time.time() + 2, usegmt=True)
        self.reply(int(status), "no\n<b>luck</b>", **({"Retry_After": wait} if wait else {}))

    def log_message(self, *_: Any) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """Runs from ``with`` to its end on a port of its own, or on ``port``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, misbehave: Misbehave = well, port: int = 0, seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.misbehave, self.seconds = misbehave, seconds
        self.attempts: Counter[str] = Counter()
        self.seen: List[Tuple[float, Dict[str, Any], Dict[str, str]]] = []
        self.under_way = self.most_under_way = 0
        self.counting = threading.Lock()
        self.connections: List[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Die as a killed process does: what is under way gets no reply."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        pass
