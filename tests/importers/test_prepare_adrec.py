"""ADRec's released arrays as a source: users from rows, texts from a pickle that runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import pytest

from common.dataset import load_dataset
from common.errors import UserError
from common.item_fields import read_item_fields
from stage1_content_modality_semantic_alignment import prepare_dataset

SEQUENCES = [[5, 3, 9, 1, 2], [3, 5, 1], [9, 2, 3, 5, 1, 7]]
LENGTH = 3


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch attacked",)


def make_arrays(folder: Path, longest_first: bool, sides: Any = None, name: str = "Tools_process") -> Path:
    rows: List[Any] = []
    for items in SEQUENCES:
        prefixes = [(items[max(0, end - LENGTH) : end], items[end]) for end in range(1, len(items))]
        rows += prefixes[::-1] if longest_first else prefixes
    sequences, masks = np.zeros((len(rows), LENGTH), int), np.zeros((len(rows), LENGTH))
    for place, (history, _) in enumerate(rows):
        sequences[place, : len(history)], masks[place, : len(history)] = history, 1
    home = folder / name
    (home / "train").mkdir(parents=True)
    for name, array in (("items_seq", sequences), ("masks", masks), ("label", np.array([label for _, label in rows]))):
        np.save(home / "train" / f"{name}.npy", array)
    plain = {item: {"title": f"tool {item}", "brand": "b", "category": ["saws", "fine"]} for item in (1, 2, 3, 5, 7, 9)}
    (home / "id_to_side_dict.pickle").write_bytes(pickle.dumps(plain if sides is None else sides))
    return folder


def prepare(tmp_path: Path, *words: str) -> None:
    words = words or ("--from", "adrec", "-d", "Tools")
    prepare_dataset.main([*words, f"data_dir={tmp_path}", f"datasets_dir={tmp_path / 'd'}"])


@pytest.mark.parametrize("longest_first, kind", [(False, int), (True, int), (False, float)])
def test_rows_are_put_together_to_the_sequences_they_are_prefixes_of(
    tmp_path: Path, longest_first: bool, kind: type
) -> None:
    for path in (make_arrays(tmp_path, longest_first) / "Tools_process" / "train").iterdir():
        np.save(path, np.load(path).astype(kind))
    prepare(tmp_path)
    dataset = load_dataset(tmp_path / "d" / "Tools", "Tools")
    numbers = sorted({item for items in SEQUENCES for item in items})
    assert [[numbers[i] for i in items] for items in dataset.sequences] == SEQUENCES
    assert dataset.titles_en[0] == "tool 1"
    assert read_item_fields(dataset.folder, "Tools", dataset.n_items)["category"][0] == "saws, fine"


@pytest.mark.parametrize("source", [(), ("--from", "adrec")])
@pytest.mark.parametrize(
    "name, folder", [("Scientific", "Scientifics_process"), ("Office", "Offices_process"), ("Arts", "Arts_process")]
)
def test_the_folders_of_the_authors_are_found(tmp_path: Path, source: Any, name: str, folder: str) -> None:
    make_arrays(tmp_path, False, name=folder)
    prepare(tmp_path, *source, "-d", name)
    assert len(load_dataset(tmp_path / "d" / name, name).sequences) == len(SEQUENCES)


def test_the_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sides = {item: (f"tool {item}", "b", Attack()) for item in (1, 2, 3, 5, 7, 9)}
    make_arrays(tmp_path, False, sides)
    with pytest.raises(UserError, match="id_to_side_dict.pickle: item 1: neither a mapping"):
        prepare(tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_bytes_of_the_pickle_must_be_text(tmp_path: Path) -> None:
    make_arrays(tmp_path, False, {1: {"title": b"\xff"}})
    with pytest.raises(UserError, match="id_to_side_dict.pickle: holds bytes that are not UTF-8: .*; write its texts"):
        prepare(tmp_path)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    make_arrays(tmp_path, False)
    np.save(tmp_path / "Tools_process" / "train" / "label.npy", np.zeros(3))
    with pytest.raises(UserError, match="the arrays do not fit each other.*label \\(3,\\)"):
        prepare(tmp_path)


def cut(path: Path, size: Optional[int]) -> None:
    path.write_bytes(path.read_bytes()[:size])


def npz(path: Path, size: Optional[int] = None) -> None:
    with open(path, "wb") as out:
        np.savez(out, label=np.arange(3))
    cut(path, size)


@pytest.mark.parametrize("name", ["items_seq", "label", "masks"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: cut(path, 0),
        lambda path: cut(path, 50),
        lambda path: cut(path, -8),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        lambda path: np.save(path, np.full(20, "x")),
        lambda path: np.save(path, np.load(path) + 0.5),
        lambda path: np.save(path, np.load(path) * float("nan")),
        npz,
        lambda path: npz(path, -30),
    ],
)
def test_what_is_no_array_of_whole_numbers_is_refused(tmp_path: Path, name: str, damage: Any) -> None:
    path = make_arrays(tmp_path, False) / "Tools_process" / "train" / f"{name}.npy"
    damage(path)
    with pytest.raises(UserError, match=f"{name}.npy: not an array of numbers: .*; download it again"):
        prepare(tmp_path)
    assert not [file for file in (tmp_path / "d").rglob("*") if file.is_file() and file.name != ".lock"]
