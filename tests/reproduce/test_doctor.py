"""The doctor reports what is missing or broken, and runs where no package is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List, Optional

import pytest
import torch
from tiny import N_ITEMS, N_USERS, make_tiny_dataset, tiny_sequences
from transformers import BertConfig, BertModel

from common.compute import pick_compute
from common.errors import UserError
from common.features import features_path
from reproduce import doctor
from reproduce.doctor import REPOSITORY, Report, main

NAME = "Tiny [1]*?%41#"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data set with the files that stage 1 makes from it."""
    home = make_tiny_dataset(tmp_path, NAME)
    for modality in ("text", "image"):
        path = features_path(home / "features" / "paper", NAME, modality)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.ones(N_ITEMS, 4), path)
    (home / "pairs" / "paper").mkdir(parents=True)
    (home / "pairs" / "paper" / "item_pairs_id.txt").write_text("1,2\n3,4\n")
    bert = BertModel(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1))
    bert.save_pretrained(tmp_path / "finetuned" / NAME / "64" / "paper" / "bert")
    return home


def examine(home: Path, capsys: pytest.CaptureFixture[str], mark: str = "WRONG") -> List[str]:
    """The lines of a data set's report that have the mark."""
    report = Report()
    folders = {"datasets_dir": home.parent, "finetune_dir": home.parent / "finetuned"}
    doctor.check_dataset(report, NAME, folders)
    lines = capsys.readouterr().out.splitlines()
    assert report.wrong == sum(line.split()[0] == "WRONG" for line in lines)
    return [line for line in lines if line.split()[0] == mark]


def test_nothing_is_wrong_with_a_complete_data_set(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interactions = sum(map(len, tiny_sequences()))
    first, *others = examine(home, capsys, "ok")
    assert first.endswith(f"{N_USERS} users, {N_ITEMS} items, {interactions} interactions")
    subjects = ("covers", "pairs", "bert encoder", "text features", "image features")
    assert [line[9:26].strip() for line in others] == list(subjects)


def test_files_of_later_steps_are_not_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_tiny_dataset(tmp_path, NAME, covers=False)
    assert not examine(home, capsys)
    assert len(examine(home, capsys, "later")) == 6


def test_a_missing_data_set_is_reported_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["Bili_Food", f"datasets_dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert "sequential_data.txt: no such file" in printed and "source=ninerec" in printed and "6,549 users" in printed


BROKEN = {
    f"{NAME}_item_fields.csv": b"brand\n",
    "covers/3.jpg": b"no picture",
    "pairs/paper/item_pairs_id.txt": b"1,2\n1,99\n",
    f"features/paper/{NAME}_text_llm_stage1.pth": b"",
    f"../finetuned/{NAME}/64/paper/bert/model.safetensors": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_wrong(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / name).write_bytes(BROKEN[name])
    (wrong,) = examine(home, capsys)
    assert (home / name).parent.name in wrong


def test_covers_that_the_preparation_left_out_are_not_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "covers" / "3.jpg").unlink()
    assert len(examine(home, capsys)) == 1
    (home / "prepare.json").write_text('{"missing_covers": [{"item": 3}]}')
    assert not examine(home, capsys)


@pytest.mark.parametrize("words", [["Tiny", "datasetsdir=x"], ["Tiny", "Food"], ["--halp"]])
def test_unknown_arguments_are_refused(words: List[str]) -> None:
    with pytest.raises(UserError, match="did you mean 'datasets_dir'|usage"):
        main(words)


BARE = """
import sys
class NothingInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("common", "reproduce", *sys.stdlib_module_names):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, NothingInstalled())
import importlib.metadata
def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = absent
from reproduce.doctor import main
main(["ml-100k"])
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is new in 3.10")
def test_it_runs_where_nothing_is_installed() -> None:
    run = subprocess.run([sys.executable, "-c", BARE], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr == ""
    assert "not installed; run: pip install 'recbole==1.2.0'" in run.stdout and "not checked" in run.stdout


@pytest.mark.parametrize(
    ("version", "wrong"),
    [("1.26.4", 0), ("1.20.3", 0), ("1.21.0+cpu", 0), ("2.0.0", 1), ("1.19.5", 1), (None, 1)],
)
def test_versions_are_compared_with_the_requirements(
    version: Optional[str], wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "read_requirements", lambda file: ["numpy>=1.20.3,<2"])
    monkeypatch.setattr(doctor, "installed_version", lambda package: version)
    report = Report()
    assert doctor.check_packages(report) == (version is not None)
    assert report.wrong == wrong


@pytest.mark.parametrize("wrong", [True, False])
def test_a_gpu_that_torch_has_no_code_for_is_wrong(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ones(*_: int, device: str) -> torch.Tensor:
        if wrong:
            raise RuntimeError("CUDA error: no kernel image is available\nand more lines")
        return torch.zeros(1)

    for name, value in {"is_available": True, "device_count": 1, "get_device_name": "V100"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr("common.compute.pick_compute", lambda device: pick_compute("cpu"))
    report = Report()
    doctor.check_device(report)
    line = capsys.readouterr().out
    assert report.wrong == wrong == ("no kernel image is available; if" in line) and line.count("\n") == 1
