"""A page in headless Chromium, driven by the DevTools protocol over a pipe: no driver, no port, no package.

python tests/browser.py PAGE.html OUT.png 1280 [ANCHOR]     a screenshot at a width, of what stands below an anchor
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    f"--{name}"
    for name in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars", "remote-debugging-pipe",
    )
]  # fmt: skip


class Browser:
    """One tab. ``errors`` collects what the page logs as errors or throws, and what it asks of any network."""

    def __init__(self, commands: int, answers: Any) -> None:
        self.commands, self.answers = commands, answers
        self.number, self.session = 0, ""
        self.errors: List[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _next(self) -> Dict[str, Any]:
        message = bytearray()
        while not message.endswith(b"\0"):
            byte = self.answers.read(1)
            if not byte:
                raise RuntimeError("Chromium ended")
            message += byte
        told: Dict[str, Any] = json.loads(message[:-1])
        self._note(told)
        return told

    def _note(self, told: Dict[str, Any]) -> None:
        method, given = told.get("method"), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(given["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
            self.errors.append(str(given["args"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(str(given["entry"]))
        elif method == "Network.requestWillBeSent":
            url = given["request"]["url"]
            if not url.startswith(("data:", "blob:", "file:")):
                self.errors.append(f"asked for {url}")

    def call(self, method: str, **parameters: Any) -> Dict[str, Any]:
        """The result of a command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self.number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                result: Dict[str, Any] = told["result"]
                return result

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Load a page in a window of this size, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited.

        Raises:
            RuntimeError: it threw.
        """
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, ended at the end; it reads commands on descriptor 3 and answers on 4."""
    assert CHROMIUM is not None
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()

    def wire() -> None:  # by way of high numbers, so that neither overwrites the other
        high = [os.dup(read_commands), os.dup(write_answers)]
        high = [os.dup2(one, 100 + place) for place, one in enumerate(high)]
        for place, one in enumerate(high):
            os.dup2(one, 3 + place)

    profile = tempfile.mkdtemp()
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        with os.fdopen(answers, "rb") as stream:
            yield Browser(commands, stream)
    finally:
        os.close(commands)
        process.terminate()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)  # Chromium's children may still write


def main(page: str, out: str, width: str, anchor: Optional[str] = None) -> None:
    """Write a screenshot, and say what the page complained of."""
    with browser() as tab:
        tab.open(Path(page), int(width), 900 if int(width) > 700 else 844)
        where = f"document.getElementById({json.dumps(anchor)})" if anchor else "document.body"
        tab.run(f"document.documentElement.style.scrollBehavior = 'auto'; {where}.scrollIntoView()")
        tab.run("new Promise((done) => setTimeout(done, 1500))")
        tab.run(f"{where}.scrollIntoView()")
        tab.run("new Promise((done) => setTimeout(done, 500))")
        tab.screenshot(Path(out))
        with Image.open(out) as image:  # 256 colours make it a third of the size
            image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(out, optimize=True)
        for error in tab.errors:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
