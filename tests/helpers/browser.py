"""A page in headless Chromium, in a frame of a given width: the value of a script, or a screenshot.

python tests/helpers/browser.py PAGE.html OUT.png 390 [ID]        what is below the element with this id
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync disable-dev-shm-usage hide-scrollbars virtual-time-budget=20000"
)
# errors, and requests that the page's content security policy refuses
LISTEN = """<script>var errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push("refused: " + event.blockedURI));</script>"""
FRAME = """<!doctype html><body style="margin: 0"><script>
addEventListener("message", (event) => {{ document.body.dataset.answer = event.data; }});
</script><iframe src="page.html" style="border: 0; width: {width}px; height: {height}px"></iframe>"""


def _chromium(page: Path, width: int, height: int, script: str, *options: str) -> str:
    """Chromium's output for the page with ``script`` at its end."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        start, _, end = text.replace("<head>", f"<head>{LISTEN}", 1).rpartition("</body>")
        text = f"{start}<script>addEventListener('load', async () => {{ {script} }});</script></body>{end}"
        (home / "page.html").write_text(text, encoding="utf-8")
        (home / "frame.html").write_text(FRAME.format(width=width, height=height))
        flags = [f"--{flag}" for flag in (*FLAGS.split(), f"user-data-dir={home / 'profile'}", *options)]
        command = [str(CHROMIUM), *flags, f"--window-size={max(width, 500)},{height}", (home / "frame.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def answer(page: Path, width: int, script: str) -> Dict[str, Any]:
    """``value``: what the body of an async function returns on the loaded page, and the page's ``errors``."""
    run = f"const value = await (async () => {{ {script} }})();"
    dom = _chromium(
        page, width, 900, f"{run} parent.postMessage(JSON.stringify({{ value, errors }}), '*');", "dump-dom"
    )
    (text,) = re.findall(r'data-answer="([^"]*)"', dom) or ["{}"]
    found: Dict[str, Any] = json.loads(html.unescape(text))
    return found


def main(argv: List[str]) -> None:
    """Write a screenshot."""
    page, out, width, *where = argv
    script = f"document.getElementById({json.dumps(where[0])}).scrollIntoView();" if where else ""
    height = 900 if int(width) > 700 else 844
    _chromium(Path(page), int(width), height, script, f"screenshot={Path(out).resolve()}")


if __name__ == "__main__":
    main(sys.argv[1:])
