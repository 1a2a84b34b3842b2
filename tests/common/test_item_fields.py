"""The optional file of items' further fields."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.item_fields import item_fields_path, read_item_fields, write_item_fields

# what UTF-8 holds; csv has no NUL on Python 3.9 and 3.10
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
FIELDS = st.integers(1, 5).flatmap(
    lambda n: st.dictionaries(
        st.from_regex("[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(lambda name: name != "item"),
        st.lists(TEXT, min_size=n, max_size=n),
        min_size=1,
        max_size=3,
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FIELDS)
def test_what_is_written_is_read(tmp_path: Path, fields: Dict[str, List[str]]) -> None:
    write_item_fields(tmp_path, "D", fields)
    n_items = len(next(iter(fields.values())))
    read = read_item_fields(tmp_path, "D", n_items)
    assert read == fields
    assert list(read) == list(fields)


def test_the_file_is_optional_and_plain(tmp_path: Path) -> None:
    assert read_item_fields(tmp_path, "D", 3) == {}
    write_item_fields(tmp_path, "D", {"brand": ["A, B", ""], "category": ['6" pipes', "x"]})
    assert item_fields_path(tmp_path, "D").read_text() == 'item,brand,category\n0,"A, B","6"" pipes"\n1,"","x"\n'


@pytest.mark.parametrize(
    "text, message",
    [
        ("", ":1: the header is not item,<field>"),
        ("item\n0\n", ":1: the header"),
        ("id,brand\n0,a\n", ":1: the header"),
        ("item,Brand\n0,a\n", ":1: the header"),
        ("item,brand,brand\n0,a,b\n", ":1: the header"),
        ("item,brand\n0,a,b\n1,b\n", ":2: 3 columns instead of 2"),
        ("item,brand\n0,a\n2,b\n", ":3: item '2' instead of item 1"),
        ("item,brand\n0,a\n1,b\n2,c\n", ":4: item '2' instead of the end"),
        ("item,brand\n0,a\n", ": 1 items instead of 2"),
        ('item,brand\n0,"a\n', ":2: not CSV"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    item_fields_path(tmp_path, "D").write_text(text)
    with pytest.raises(UserError) as raised:
        read_item_fields(tmp_path, "D", 2)
    assert str(raised.value).startswith(f"{item_fields_path(tmp_path, 'D')}{message}")


def test_a_text_may_be_longer_than_csvs_own_limit(tmp_path: Path) -> None:
    write_item_fields(tmp_path, "Tiny", {"description": ["x" * 200_000]})
    assert len(read_item_fields(tmp_path, "Tiny", 1)["description"][0]) == 200_000
