"""Files are complete or absent, one process writes a folder, a step is done again exactly when it must be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from common import files
from common.errors import UserError
from common.files import (
    atomic,
    atomic_folder,
    checksum,
    differences,
    digest,
    exclusive,
    file_name,
    making,
    read_json,
    read_text,
    recipe,
    record,
    up_to_date,
    write_text,
)


def kill_when(program: str, sign: str, *arguments: Path) -> None:
    """Run Python code, and send it SIGKILL as soon as it has printed ``sign``."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline().strip() == sign
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


HALF = """
import sys, time
from pathlib import Path
from common.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_sigkill_in_the_middle_leaves_the_old_file_and_the_next_run_writes(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    kill_when(HALF, "written", path)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert path.read_text() == "new"


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept"
    for content in ("old", "new"):
        with atomic_folder(path) as temporary:
            assert not any(temporary.iterdir())
            (temporary / content).touch()
    assert [p.name for p in path.parent.iterdir()] == ["kept"]
    assert [p.name for p in path.iterdir()] == ["new"]


def test_an_exception_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "kept") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["kept", "kept/old"]


HALF_FOLDER = """
import sys, time
from pathlib import Path
from common import files
files.shutil.rmtree = lambda *_, **__: None
Path.replace, original = lambda a, b: (original(a, b), print("moved", flush=True), time.sleep(60)), Path.replace
with files.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "new").touch()
"""


def test_sigkill_between_the_moves_leaves_no_folder_and_the_next_run_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    kill_when(HALF_FOLDER, "moved", path)
    assert not path.exists()
    with atomic_folder(path) as temporary:
        (temporary / "newer").touch()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["kept", "kept/newer"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "below.txt", "text")
    with pytest.raises(UserError, match="cannot be written"), exclusive(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "file" / "below"):
        pass


@pytest.mark.parametrize("sign", ["a", "é", "面", "a?"])
def test_a_long_text_is_a_file_name_that_no_other_text_has(tmp_path: Path, sign: str) -> None:
    assert file_name("é=1, ?%/b") == "é=1-b"
    texts = [sign * 150 + end for end in ("", "b", "/b", "?b")]
    names = {file_name(text) for text in texts}
    assert len(names) == len(texts) and all(len(name.encode()) <= 150 for name in names)
    for name in names:
        write_text(tmp_path / f"{name}.folder", "")  # its temporary file has a longer name


def test_read_text_drops_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf1,a\n")
    assert read_text(tmp_path / "bom.txt") == "1,a\n"


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_text, "1,a\n2,b\n3,面\n".encode("gbk"), ":3: not UTF-8; convert it"),
        (read_json, b'{"a": 1,\n "b": }\n', ":2: not JSON"),
        (read_text, None, ": cannot be read: No such file"),
        (checksum, None, ": cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: Any, content: Optional[bytes], message: str) -> None:
    path = tmp_path / "file"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}{message}"):
        read(path)


def test_the_checksum_of_a_folder_tells_of_names_and_contents(tmp_path: Path) -> None:
    write_text(tmp_path / "one" / "a.txt", "x")
    before = checksum(tmp_path / "one")
    (tmp_path / "one" / ".lock").write_text("not counted")
    assert checksum(tmp_path / "one") == before
    write_text(tmp_path / "one" / "sub" / "b.txt", "y")
    added = checksum(tmp_path / "one")
    os.rename(tmp_path / "one" / "a.txt", tmp_path / "one" / "c.txt")
    assert len({before, added, checksum(tmp_path / "one")}) == 3


class Step:
    """A step with one input, one setting and one output beside its record."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out, self.about = folder / "in.txt", folder / "out.txt", folder / "out.json"
        self.settings: Dict[str, Any] = {"alpha": 0.1, "kinds": ("a", "b")}
        write_text(self.source, "input")

    def recipe(self) -> Dict[str, Any]:
        return recipe("example", self.settings, {"source": self.source})

    def run(self) -> None:
        write_text(self.out, "output")
        record(self.about, self.recipe(), {"out": self.out}, {"rows": 3})

    def is_up_to_date(self) -> bool:
        return up_to_date(self.about, self.recipe())


@pytest.fixture
def step(tmp_path: Path) -> Step:
    made = Step(tmp_path)
    made.run()
    return made


def test_a_step_that_was_done_up_to_date(step: Step, capsys: pytest.CaptureFixture) -> None:
    assert step.is_up_to_date()
    assert capsys.readouterr().out == ""
    about = read_json(step.about)
    assert about["rows"] == 3 and about["commit"] and about["versions"]["torch"]
    assert about["outputs"]["out"] == {"path": "out.txt", "sha256": checksum(step.out)}


def test_a_step_that_another_process_does_before_the_lock_is_not_done_again(tmp_path: Path, monkeypatch) -> None:
    late, locked = Step(tmp_path), files.exclusive

    @contextmanager
    def slowly(folder: Path) -> Iterator[None]:
        late.run()  # the other process, which ends before this one asks for the lock
        with locked(folder):
            yield

    monkeypatch.setattr(files, "exclusive", slowly)
    with making(late.about, late.recipe()) as needed:
        assert not needed


def test_why_a_step_is_done_again_is_said_once(step: Step, capsys: pytest.CaptureFixture) -> None:
    step.settings["alpha"] = 0.2
    with making(step.about, step.recipe()) as needed:
        assert needed
    assert capsys.readouterr().out.count("alpha 0.1 → 0.2") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda step: write_text(step.source, "input"), ""),  # the same as before
        (lambda step: step.about.unlink(), ""),
        (lambda step: step.settings.update(alpha=0.2), "alpha 0.1 → 0.2"),
        (lambda step: write_text(step.source, "other input"), "source changed"),
        (lambda step: write_text(step.out, "tampered"), "out.txt (out) is missing or was changed"),
        (lambda step: step.out.unlink(), "out.txt (out) is missing or was changed"),
    ],
)
def test_a_step_is_done_again_when_something_changed(
    step: Step, change: Callable[[Step], None], reason: str, capsys: pytest.CaptureFixture
) -> None:
    change(step)
    assert step.is_up_to_date() == (step.about.exists() and not reason)
    assert reason in capsys.readouterr().out
    step.run()
    assert step.is_up_to_date()


def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    Step(tmp_path / "here").run()
    os.rename(tmp_path / "here", tmp_path / "there")
    assert Step(tmp_path / "there").is_up_to_date()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"outputs": {}, "inputs": 3}', '{"step": "example"}'])
def test_a_damaged_record_does_not_stand(step: Step, content: str) -> None:
    step.about.write_text(content)
    assert not step.is_up_to_date()


def test_differences_names_steps_settings_and_inputs() -> None:
    old = {"step": "a", "version": "1", "settings": {"x": 1}, "inputs": {"f": {"sha256": "1"}}}
    new = {"step": "b", "version": "2", "settings": {"x": 1, "y": 2}, "inputs": {"f": {"sha256": "2"}}}
    assert differences(old, new) == "step a → b, version 1 → 2, y None → 2, f changed"
    assert differences(old, json.loads(json.dumps(old))) == ""


def test_the_digest_tells_recipes_apart_but_not_where_their_inputs_lie() -> None:
    made = {"step": "a", "version": "1", "settings": {"x": 1}, "inputs": {"f": {"sha256": "1", "path": "here"}}}
    assert len(digest(made)) == 8
    assert digest(made) == digest({**made, "inputs": {"f": {"sha256": "1", "path": "there"}}, "commit": "c"})
    others = [{"step": "b"}, {"version": "2"}, {"settings": {"x": 2}}, {"inputs": {"f": {"sha256": "2"}}}]
    digests = {digest(made), *(digest({**made, **other}) for other in others)}
    assert len(digests) == 5


HOLD = """
import sys, time
from pathlib import Path
from common.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_waits_and_says_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline().strip() == "held"
        held: List[bool] = []

        def take() -> None:
            with exclusive(tmp_path):
                held.append(True)

        waiting = threading.Thread(target=take)
        waiting.start()
        printed = ""
        while not printed:
            waiting.join(0.05)
            printed = capsys.readouterr().out
        assert f"process {child.pid} is writing here; waiting for it" in printed
        assert waiting.is_alive() and not held
        child.kill()
        child.wait()
        waiting.join(10)
    assert held == [True]
