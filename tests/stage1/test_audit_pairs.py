from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import pytest
from stage1_helpers import pairs_settings
from tiny import dataset_of, make_tiny_dataset

from common.dataset import Dataset, load_dataset
from common.errors import UserError
from stage1_content_modality_semantic_alignment import audit_pairs, llm_driven_sample
from stage1_content_modality_semantic_alignment.audit_pairs import Numbers, audit, leaking, verdict
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.settings import pairs_dir

# train parts: 0 1 2, 3 4 and 5; validation labels 6, 7, 0; test labels 2, 8, 9
SEQUENCES = [[0, 1, 2, 6, 9], [3, 4, 7, 8], [5, 0, 2]]


def data_of(sequences: Sequence[Sequence[int]] = SEQUENCES) -> Dataset:
    return dataset_of(sequences, [f"title {item}" for item in range(12)])


def write_sequences(home: Path, sequences: Sequence[Sequence[int]]) -> None:
    lines = [f"{user} {' '.join(map(str, items))}\n" for user, items in enumerate(sequences)]
    (home / "sequential_data.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    "pair, origin",
    [
        ((2, 0), "from a train part"),  # 2 is a test label, too, and 0 before it
        ((0, 2), "from a train part"),  # both ways
        ((6, 0), "only from a validation label"),
        ((0, 5), "only from a validation label"),
        ((8, 3), "only from a test label"),
        ((8, 7), "only from a test label"),  # the answer is the validation label
        ((2, 5), "only from a test label"),
        ((3, 8), None),  # the answer is the test label: not before the target
        ((2, 3), None),  # of two users
        ((11, 10), None),  # of no user
        ((2, 2), "of one item with itself"),
    ],
)
def test_each_pair_is_counted_once_at_the_likeliest_origin(pair: Pair, origin: Any) -> None:
    found = audit(data_of(), [pair, pair])
    names = ["of one item with itself", "from a train part", "only from a validation label", "only from a test label"]
    assert {name: found[name] for name in names if found[name]} == ({origin: 2} if origin else {})


def test_numbers_by_hand() -> None:
    found = audit(data_of(), [(2, 0), (2, 0), (0, 2), (6, 0), (3, 3), (7, 11), (4, 3)])
    assert (found["pairs"], found["distinct pairs"], found["repeated pairs"], found["given both ways"]) == (7, 6, 1, 2)
    assert (found["target is a test label"], found["target is a validation label"]) == (2, 3)
    assert (found["answer is item 0"], found["answer is item 0, outside of the history"]) == (3, 0)
    assert found["share of items that are in a pair"] == round(7 / 12, 4)
    assert (found["share of items that are a target"], found["share of items that are chosen"]) == (0.5, 0.3333)
    assert found["share of users whose last train item is a target"] == round(2 / 3, 4)
    assert found["share of users whose test label is a target"] == round(1 / 3, 4)


def test_outside_of_the_history_is_before_the_target_and_before_the_label_where_labels_leak() -> None:
    plain = [(2, 0)] * 97 + [(0, 2), (4, 5), (3, 3)]  # 0 is before 2, 2 never before 0
    assert audit(data_of(), plain)["answer outside of the history"] == 2
    leaks = [(8, 3), (2, 1), (8, 8), (9, 11)]  # 1 is before 2, but not of the user whose test label is 2
    found = audit(data_of(), leaks)
    assert leaking(found) and found["answer outside of the history"] == 2


@pytest.mark.parametrize("only_from_tests, leaks", [(4, False), (5, True), (100, True)])
def test_a_few_pairs_by_chance_are_no_leak(only_from_tests: int, leaks: bool) -> None:
    found = audit(data_of(), [(8, 3)] * only_from_tests + [(2, 0)] * (100 - only_from_tests))
    assert leaking(found) == leaks and ("no sign" in verdict(found)) != leaks
    assert f"{only_from_tests} of 100 pairs" in verdict(found)


@pytest.mark.parametrize(
    "changes, leaks",
    [
        ({}, False),
        ({"targets": "every", "both_ways": True}, False),
        ({"candidates": "co-occurrence", "selector": "random"}, False),
        ({"variant": "released"}, True),
        ({"target_from_train": False, "targets": "every", "both_ways": True}, True),
    ],
)
def test_our_own_pairs_leak_with_s1_released_alone(tmp_path: Path, changes: Dict[str, Any], leaks: bool) -> None:
    home = make_tiny_dataset(tmp_path, covers=False)
    rng = np.random.default_rng(0)  # many items: two users seldom have two items in common
    sequences = [rng.choice(300, size=7, replace=False).tolist() for _ in range(40)]
    write_sequences(home, sequences)
    (home / "Tiny_item_sort.csv").write_text("".join(f"{item},title {item},title {item}\n" for item in range(300)))
    llm_driven_sample.run(pairs_settings(tmp_path, strategy="own", **changes))
    pairs = read_pairs(pairs_path(pairs_dir(home, "own"), "id"), 300)
    found: Numbers = audit(load_dataset(home, "Tiny"), pairs)
    assert leaking(found) == leaks and (found["only from a test label"] > 0) == leaks


@pytest.mark.parametrize("pairs, code", [("2,0\n0,2\n", 0), ("8,3\r\n\r\n8,3\r\n", 1)])
def test_the_script_prints_the_verdict_and_its_exit_code_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: str, code: int
) -> None:
    home = make_tiny_dataset(tmp_path, covers=False)
    write_sequences(home, SEQUENCES)
    (tmp_path / "published.txt").write_text(pairs)
    words: List[str] = ["-d", "Tiny", str(tmp_path / "published.txt"), f"datasets_dir={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        audit_pairs.main(words)
    assert ended.value.code == code
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("verdict: test labels leak: 2 of 2" if code else "verdict: no sign")
    with pytest.raises(UserError, match="nowhere.txt: no such file"):
        audit_pairs.main(["-d", "Tiny", "nowhere.txt", f"datasets_dir={tmp_path}"])
    with pytest.raises(SystemExit):
        audit_pairs.main(["-d", "Tiny", f"datasets_dir={tmp_path}", str(tmp_path / "published.txt")])
    assert capsys.readouterr().err.startswith("error: argument FILE: give FILE before the settings")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,1\nx,2\n", ":2: 'x,2' is not a pair of item ids; write two numbers"),
        (
            "0,99\n",
            ":1: 0,99: the item ids of the data set are 0 to 11; correct the pair, or name its data set with -d",
        ),
        ("0-1\n", ":1: 1 column instead of 2 .*; put a comma between fields"),
        ("0,1,2\n", ":1: 3 columns instead of 2 .*; put fields that hold commas in double quotes"),
        (None, ": a folder, not a file; make it with llm_driven_sample.py, or correct"),
    ],
)
def test_what_is_no_file_of_pairs_is_an_error(tmp_path: Path, content: Optional[str], message: str) -> None:
    path = tmp_path / "pairs.txt"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=f"pairs.txt{message}"):
        read_pairs(path, 12)
