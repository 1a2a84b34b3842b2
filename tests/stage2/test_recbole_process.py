"""The benchmark files of RecBole: their exact form, and that the splits are disjoint and ordered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_tiny_dataset, tiny_sequences

from common.dataset import write_dataset
from common.errors import UserError
from stage2_sequence_preference_learning.recbole_process import HEADER, SPLITS, Settings, inter_path, main, run

Row = Tuple[int, List[int], int]


def split_of(folder: Path, sequences: Dict[int, List[int]], n_items: int, **changes: Any) -> Settings:
    write_dataset(folder / "D", "D", sequences.items(), [("题", "title")] * n_items)
    chosen = Settings(dataset="D", datasets_dir=str(folder), **changes)
    run(chosen)
    return chosen


def parsed(chosen: Settings, split: str) -> List[Row]:
    """Rows with zero-based ids."""
    header, *lines = inter_path(chosen, split).read_text().splitlines(keepends=True)
    assert header == HEADER
    fields = [line.rstrip("\n").split("\t") for line in lines]
    return [(int(u) - 1, [int(i) - 1 for i in history.split(" ")], int(t) - 1) for u, history, t in fields]


def test_files_are_exactly_in_recbole_form(tmp_path: Path) -> None:
    chosen = split_of(tmp_path, {4: [7, 0, 3, 9, 5], 0: [1, 2, 3], 2: [8, 6, 4, 2]}, 10, max_seq_length=3)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    assert inter_path(chosen, "train").read_bytes().decode() == header + "5\t8 1\t4\n5\t8\t1\n3\t9\t7\n"
    assert inter_path(chosen, "valid").read_bytes().decode() == header + "5\t8 1 4\t10\n1\t2\t3\n3\t9 7\t5\n"
    assert inter_path(chosen, "test").read_bytes().decode() == header + "5\t1 4 10\t6\n1\t2 3\t4\n3\t9 7 5\t3\n"
    assert inter_path(chosen, "test") == tmp_path / "D" / "recbole" / "D" / "D.test.inter"


def test_no_user_long_enough_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sequential_data.txt: no row to train on: no user has four items"):
        split_of(tmp_path, {0: [0, 1, 2]}, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.dictionaries(
        st.integers(0, 99), st.lists(st.integers(0, 19), min_size=3, max_size=14), min_size=1, max_size=8
    ).filter(lambda drawn: any(len(s) > 3 for s in drawn.values())),
    longest=st.integers(1, 8),
)
def test_rows_parse_back_to_the_sequences(tmp_path: Path, sequences: Dict[int, List[int]], longest: int) -> None:
    chosen = split_of(tmp_path, sequences, 20, max_seq_length=longest)
    places: Dict[str, List[Tuple[int, int]]] = {}
    for split in SPLITS:
        rows = parsed(chosen, split)
        expected = _slow_rows(sequences, split, longest)
        assert rows == [row for row, _ in expected]
        places[split] = [place for _, place in expected]
    together = places["train"] + places["valid"] + places["test"]
    assert len(set(together)) == len(together), "a position is the target of one split alone"
    assert sorted(together) == [(u, k) for u in sorted(sequences) for k in range(1, len(sequences[u]))]


def _slow_rows(sequences: Dict[int, List[int]], split: str, longest: int) -> List[Tuple[Row, Tuple[int, int]]]:
    """The format by its definition, each row with (user, place of the target)."""
    found = []
    for user, items in sequences.items():
        if split == "train":
            train = items[:-2]
            ends = sorted(range(1, len(train)), reverse=True)
        else:
            ends = [len(items) - 2] if split == "valid" else [len(items) - 1]
        found += [((user, items[:end][-longest:], items[end]), (user, end)) for end in ends]
    return found


def test_second_run_is_skipped_and_force_and_changes_redo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_tiny_dataset(tmp_path, covers=False)
    command = ["-d", "Tiny", f"datasets_dir={tmp_path}"]
    main(command)
    files = {path: path.read_bytes() for path in (home / "recbole").rglob("*.inter")}
    n_rows = {path.name.split(".")[1]: len(content.splitlines()) - 1 for path, content in files.items()}
    assert n_rows == {"train": sum(len(s) - 3 for s in tiny_sequences()), "valid": 12, "test": 12}
    capsys.readouterr()
    main(command)
    assert capsys.readouterr().out == f"{home / 'recbole' / 'recbole_process.json'} is up to date\n"
    main([*command, "--force"])
    assert "written: " in capsys.readouterr().out
    assert {path: path.read_bytes() for path in files} == files
    main([*command, "max_seq_length=2"])
    assert "max_seq_length 50 → 2" in capsys.readouterr().out
