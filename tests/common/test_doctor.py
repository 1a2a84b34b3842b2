"""The doctor names each fault and its cure, and the environment check tells what serves from what does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Sequence

import pytest
import torch
from safetensors.torch import save_file
from tiny import N_ITEMS, N_USERS, make_tiny_dataset, tiny_sequences

from common import doctor, environment
from common.doctor import INTER_HEADER, check_dataset, kernels_serve
from common.environment import REPOSITORY, STATE, UNFINISHED, EnvironmentFault, Finding, check_package
from common.features import features_path


def examine(home: Path) -> List[Finding]:
    return list(check_dataset("Tiny", {"datasets_dir": home.parent, "finetune_dir": home.parent / "finetuned"}))


def the_fault(home: Path) -> Finding:
    faults = [finding for finding in examine(home) if finding.cure]
    assert len(faults) == 1
    return faults[0]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A data set with every file that the two stages make."""
    home = make_tiny_dataset(tmp_path)
    for modality in ("text", "image"):
        torch.save(torch.ones(N_ITEMS, 4), features_path(home, "Tiny", modality))
    inter = home / "recbole" / "Tiny"
    inter.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        rows = "".join(f"{user}\t1 2\t3\n" for user in range(N_USERS))
        (inter / f"Tiny.{split}.inter").write_text(f"{INTER_HEADER}\n{rows}")
    (home / "pairs" / "tfidf").mkdir(parents=True)
    (home / "pairs" / "tfidf" / "item_pairs_id.txt").write_text("1,2\n3,4\n")
    encoder = tmp_path / "finetuned" / "Tiny" / "64" / "tfidf" / "bert"
    encoder.mkdir(parents=True)
    (encoder / "config.json").write_text("{}")
    save_file({"weight": torch.ones(2)}, encoder / "model.safetensors")
    return home


def test_a_whole_data_set_has_no_fault(tiny: Path) -> None:
    findings = examine(tiny)
    assert not [finding for finding in findings if finding.cure or finding.absent]
    assert findings[0].detail == f"{N_USERS} users, {N_ITEMS} items, {sum(map(len, tiny_sequences()))} interactions"


def test_what_a_later_step_makes_is_no_fault(tmp_path: Path) -> None:
    findings = examine(make_tiny_dataset(tmp_path, covers=False))
    assert [finding.absent for finding in findings] == [False] + [True] * 6
    assert not any(finding.cure for finding in findings)


def test_a_missing_data_set_is_a_fault_with_its_cure(tmp_path: Path) -> None:
    fault = the_fault(tmp_path / "Tiny")
    assert "no such file" in fault.detail and "prepare_dataset.py -d Tiny" in fault.cure


def test_where_a_data_set_is_to_be_had_is_told_while_a_part_of_it_is_missing(tiny: Path) -> None:
    assert not any(finding.subject.startswith("--from") for finding in examine(tiny))
    (tiny / "sequential_data.txt").unlink()
    assert any(finding.subject.startswith("--from") for finding in examine(tiny))


def test_a_broken_cover_is_a_fault(tiny: Path) -> None:
    (tiny / "covers" / "3.jpg").write_bytes(b"no picture")
    assert the_fault(tiny).subject == "covers"


def test_covers_that_the_preparation_left_out_are_no_fault(tiny: Path) -> None:
    (tiny / "covers" / "3.jpg").unlink()
    assert the_fault(tiny).subject == "covers"
    (tiny / "prepare.json").write_text('{"settings": {"source": "table"}, "missing_covers": [{"item": 3}]}')
    found = {finding.subject: finding for finding in examine(tiny)}["covers"]
    assert not found.cure and found.detail.endswith("1 items have none (missing_covers=zero)")


def test_features_of_other_data_are_a_fault(tiny: Path) -> None:
    torch.save(torch.ones(N_ITEMS + 1, 4), features_path(tiny, "Tiny", "text"))
    fault = the_fault(tiny)
    assert fault.subject == "text features" and f"{N_ITEMS + 1} rows" in fault.detail


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("user_id\titem_id_list\titem_id\n", "valid.inter:1: the header is not"),
        (f"{INTER_HEADER}\n1\t1 2\t3\n1 1 2 3\n", "valid.inter:3: not three columns"),
        (f"{INTER_HEADER}\n1\t1 2\t3\n", f"1 rows, the data set has {N_USERS} users"),
        ("", "valid.inter:1: the header is not"),
    ],
)
def test_a_malformed_recbole_file_is_a_fault(tiny: Path, content: str, told: str) -> None:
    (tiny / "recbole" / "Tiny" / "Tiny.valid.inter").write_text(content)
    fault = the_fault(tiny)
    assert told in fault.detail and "recbole_process.py -d Tiny --force" in fault.cure


def test_one_recbole_file_alone_missing_is_a_fault(tiny: Path) -> None:
    (tiny / "recbole" / "Tiny" / "Tiny.test.inter").unlink()
    assert the_fault(tiny).subject == "RecBole test"


@pytest.mark.parametrize("line", ["1,99", "1", "a,b", "1,2,3", ""])
def test_pairs_of_no_items_are_a_fault(tiny: Path, line: str) -> None:
    (tiny / "pairs" / "tfidf" / "item_pairs_id.txt").write_text(f"1,2\n{line}\n3,4\n")
    assert "item_pairs_id.txt:2: " in the_fault(tiny).detail


def test_an_encoder_cut_short_is_a_fault(tiny: Path) -> None:
    weights = next(tiny.parent.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4])
    assert str(weights) in the_fault(tiny).detail
    weights.unlink()
    assert str(weights) in the_fault(tiny).detail


def run_doctor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "common.doctor", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_the_command_exits_1_and_prints_the_cure_for_a_fault(tmp_path: Path) -> None:
    run = run_doctor("Nope", f"datasets_dir={tmp_path}")
    assert run.returncode == 1 and run.stderr == ""
    assert "FAULT  sequences, titles" in run.stdout and "cure: make it with" in run.stdout
    assert run.stdout.rstrip().endswith(("1 fault", "faults"))
    assert "ok     torch " in run.stdout and "precision" in run.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["Tiny", "datasetsdir=x"], "unknown setting 'datasetsdir'; did you mean 'datasets_dir'?"),
        (["Tiny", "Food"], "usage"),
        (["--halp"], "usage"),
    ],
)
def test_words_that_mean_nothing_are_refused(capsys: pytest.CaptureFixture, words: List[str], told: str) -> None:
    assert doctor.main(words) == 2
    assert told in capsys.readouterr().err


def test_help_is_no_fault(capsys: pytest.CaptureFixture) -> None:
    assert doctor.main(["--help"]) == 0 and "python -m common.doctor [DATASET]" in capsys.readouterr().out


def test_features_of_an_ablation_are_looked_at(tiny: Path) -> None:
    more = tiny / "words-t2t"
    more.mkdir()
    shutil.copy(features_path(tiny, "Tiny", "text"), features_path(more, "Tiny", "text"))
    told = [finding.detail for finding in examine(tiny)]
    assert any(detail.endswith(f"wide, in {more}") for detail in told)


BARE = """
import sys
class NothingInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("common", *sys.stdlib_module_names):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, NothingInstalled())
import importlib.metadata
def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = absent
from common.doctor import main
sys.exit(main(["ml-100k"]))
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is new in 3.10")
def test_it_runs_where_nothing_is_installed() -> None:
    run = subprocess.run([sys.executable, "-c", BARE], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr == ""
    assert "FAULT  torch               not installed" in run.stdout
    assert "cure: pip install 'recbole==1.2.0'" in run.stdout
    assert "mend the environment first" in run.stdout


def pretend(monkeypatch: pytest.MonkeyPatch, version: Any) -> None:
    monkeypatch.setattr(environment, "installed_version", lambda package: version)


@pytest.mark.parametrize(
    ("version", "serves"), [("1.26.4", True), ("1.20.3", True), ("2.0.0", False), ("1.19.5", False), (None, False)]
)
def test_a_version_is_compared_with_what_is_required(
    monkeypatch: pytest.MonkeyPatch, version: Any, serves: bool
) -> None:
    pretend(monkeypatch, version)
    finding = check_package("numpy>=1.20.3,<2")
    assert finding.subject == "numpy"
    assert (finding.cure == "") == serves
    assert serves or finding.cure == "pip install 'numpy>=1.20.3,<2'"


def test_a_cpu_build_satisfies_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "2.13.0+cpu")
    assert not check_package("torch>=2.2.1").cure


@pytest.mark.parametrize(
    ("capability", "architectures", "serves"),
    [
        ((7, 0), ["sm_50", "sm_70", "sm_80"], True),
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), [], False),
    ],
)
def test_a_torch_without_code_for_the_gpu_is_found(capability: Any, architectures: Sequence[str], serves: bool) -> None:
    assert kernels_serve(capability, architectures) == serves


def test_every_constraints_file_pins_every_requirement_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    required = [Requirement(line) for file in environment.DEVELOP for line in environment.read_requirements(file)]
    for file in sorted((REPOSITORY / "constraints").glob("*.txt")):
        pins = dict(line.split("==") for line in environment.read_requirements(file))
        pins = {canonicalize_name(name): version for name, version in pins.items()}
        for requirement in required:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, (file.name, requirement)


class Recorder:
    """Stands for `run_step`: notes the commands, and makes what venv makes; a command with the word ``fails`` fails."""

    def __init__(self, fails: str = "") -> None:
        self.commands: List[List[str]] = []
        self.fails = fails

    def __call__(self, command: Sequence[str]) -> None:
        self.commands.append(list(command))
        if self.fails and self.fails in command:
            raise EnvironmentFault("failed")
        if command[1:3] == ["-m", "venv"]:
            python = Path(command[3]) / "bin" / "python"
            python.parent.mkdir()
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(environment, "run_step", made)
    monkeypatch.setattr(environment, "serves", lambda python, develop: True)
    monkeypatch.delenv("CONSTRAINTS", raising=False)
    return made


def test_an_environment_is_made_once(tmp_path: Path, recorder: Recorder) -> None:
    for _ in range(2):
        assert environment.make_environment(tmp_path / "env", sys.executable) == str(tmp_path / "env/bin/python")
    assert [command[2] for command in recorder.commands] == ["venv", "pip"]
    assert recorder.commands[1][-1].endswith(environment.CONSTRAINTS[sys.version_info[:2]])


def test_an_interrupted_installation_is_begun_anew(tmp_path: Path, recorder: Recorder) -> None:
    recorder.fails = "pip"
    with pytest.raises(EnvironmentFault):
        environment.make_environment(tmp_path / "env", sys.executable)
    assert (tmp_path / "env" / STATE).read_text() == UNFINISHED
    half = tmp_path / "env" / "half-copied"
    half.write_text("")
    recorder.fails = ""
    environment.make_environment(tmp_path / "env", sys.executable)
    assert not half.exists() and [command[2] for command in recorder.commands] == ["venv", "pip", "venv", "pip"]


def test_other_constraints_are_installed_over_what_stands(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.make_environment(tmp_path / "env", sys.executable)
    monkeypatch.setenv("CONSTRAINTS", str(REPOSITORY / "constraints" / "v100.txt"))
    environment.make_environment(tmp_path / "env", None)
    assert [command[2] for command in recorder.commands] == ["venv", "pip", "pip"]


def test_a_folder_that_make_did_not_make_is_never_touched(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    assert environment.make_environment(tmp_path, None) == str(tmp_path / "bin/python")
    monkeypatch.setattr(environment, "serves", lambda python, develop: False)
    with pytest.raises(EnvironmentFault, match="was not made by make"):
        environment.make_environment(tmp_path, None)
    assert recorder.commands == [] and (tmp_path / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("version", "told"), [((3, 13), "is 3.13"), ((3, 8), "is 3.8"), (None, "python3 does not run")]
)
def test_a_python_that_will_not_do_is_told(monkeypatch: pytest.MonkeyPatch, version: Any, told: str) -> None:
    monkeypatch.setattr(environment, "python_version", lambda python: version)
    with pytest.raises(EnvironmentFault, match=rf"Python 3\.9 to 3\.12 is needed.*{told}"):
        environment.find_python(None)


def test_this_python_serves_unless_its_installation_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    before = len(environment.check_environment())
    environment.write_state(tmp_path, UNFINISHED)
    assert environment.check_environment()[before].cure == "run the same make command again"


def test_requirements_are_read_without_comments_and_options(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# head\n-e .\n\nnumpy>=1,<2  # why\ntorch\n")
    assert environment.read_requirements(tmp_path / "r.txt") == ["numpy>=1,<2", "torch"]


def test_the_fingerprint_tells_of_versions_and_constraints() -> None:
    cpu, paper = (REPOSITORY / "constraints" / name for name in ("cpu.txt", "paper.txt"))
    prints = {environment.fingerprint(v, c) for v in ((3, 9), (3, 11)) for c in (cpu, paper)}
    assert len(prints) == 4
