"""The real thing, small: a GLM made from a config, served by ``transformers serve``, asked over HTTP."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import httpx
import pytest
import transformers
from packaging.version import Version
from stage1_helpers import pairs_settings, read_log
from test_hf_selector import save_causal_lm
from tiny import make_tiny_dataset

from common.errors import UserError
from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.llm.answers import VERDICTS

SERVE = Path(sys.executable).with_name("transformers")
MISSING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING) or Version(transformers.__version__) < Version("5") or not SERVE.exists(),
    reason="needs transformers 5 and pip install transformers[serving]",
)


@contextmanager
def served(model: str, log: Path) -> Iterator[str]:
    """The base URL of a server of its own that holds the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(SERVE), "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        open(log, "w", encoding="utf-8") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as server,
    ):
        try:
            for _ in range(1200):
                assert server.poll() is None, log.read_text(encoding="utf-8")
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def test_a_small_glm_behind_transformers_serve_answers_as_it_does_here(tmp_path: Path) -> None:
    home = make_tiny_dataset(tmp_path, covers=False)
    model = save_causal_lm(tmp_path / "glm", "glm", chat_template=True)
    common = {"llm": model, "answer_form": "text", "prompt": "en", "max_new_tokens": 8, "precision": "fp32"}

    def ask(**changes: Any) -> None:
        with pytest.raises(UserError, match="no answer makes a pair; most have the verdict cut-off"):
            llm_driven_sample.run(pairs_settings(tmp_path, **{**common, **changes}))

    with served(model, tmp_path / "server.log") as url:
        ask(selector="openai", base_url=url, strategy="http")
        # another form of answer: the server passes the schema over in silence, and the check here does not
        ask(selector="openai", base_url=url, strategy="json", answer_form="json", limit=2)
    ask(selector="hf", llm_batch_size=1, strategy="here")
    assert read_log(home / "pairs" / "http") == read_log(home / "pairs" / "here")
    answers = {entry["answer"] for entry in read_log(home / "pairs" / "http")}
    assert len(answers) > 2 and all(answers)
    verdicts = [entry["verdict"] for entry in read_log(home / "pairs" / "json")]
    assert len(verdicts) == 2 and set(verdicts) <= set(VERDICTS)
