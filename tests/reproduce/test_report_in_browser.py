"""The report page in headless Chromium: nothing is complained of, tables sort, the picker and the map answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest
from browser import CHROMIUM, Browser, browser
from reported import EVIL, Ran, charts, data_of, folder_of

from common.files import read_json


@pytest.fixture(scope="module")
def tab(ran: Ran, page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[Browser, Path]]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    with browser() as one:
        yield one, path


def drawn(one: Browser, script: str) -> Any:
    """The value of an expression as soon as it is true."""
    return one.run(
        "new Promise((done, fail) => { let left = 100; const look = () => { const value = " + script + ";"
        "if (value) done(value); else if (left--) setTimeout(look, 50); else fail('never'); }; look(); })"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works(tab: Tuple[Browser, Path], width: int) -> None:
    one, path = tab
    one.open(path, width)
    assert one.run("document.documentElement.scrollWidth") <= width
    one.run("document.documentElement.style.scrollBehavior = 'auto'")
    for plot in range(one.run("document.querySelectorAll('.plot:not([hidden])').length")):
        one.run(f"document.querySelectorAll('.plot:not([hidden])')[{plot}].scrollIntoView()")
        assert drawn(one, f"document.querySelectorAll('.plot:not([hidden])')[{plot}].querySelector('svg')") is not None
    assert one.run("document.documentElement.scrollWidth") <= width  # with all charts
    assert one.run("document.querySelectorAll('script').length") == 3 and one.errors == []


def test_a_heading_sorts_by_value_and_says_so(tab: Tuple[Browser, Path], ran: Ran) -> None:
    one, path = tab
    one.open(path, 1280)
    heads = "document.querySelector('table.data').tHead.rows[0].cells"
    column = "[...document.querySelector('table.data').tBodies[0].rows].map((row) => Number(row.cells[5].textContent))"
    scores = [round(read_json(folder_of(ran, run.name) / "metrics.json")["test"]["ndcg@10"], 4) for run in ran[2]]
    assert one.run(column) == scores and one.run(f"{heads}[5].ariaSort") == "none"
    one.run(f"{heads}[5].querySelector('button').click()")
    assert one.run(column) == sorted(scores, reverse=True) and one.run(f"{heads}[5].ariaSort") == "descending"
    one.run(f"{heads}[5].querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        one.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert one.run(column) == sorted(scores) and one.run(f"{heads}[5].ariaSort") == "ascending"


def test_the_picker_shows_another_users_lists(tab: Tuple[Browser, Path], page: str) -> None:
    one, path = tab
    one.open(path, 390)
    users = data_of(page)["browsers"]["mine-tiny"]["users"]
    numbers = (
        "[...document.querySelectorAll('.browser .{}')].map((line) => Number(line.textContent.match(/item (\\d+)/)[1]))"
    )
    for click, user in ((None, 0), (".next", 1), (".next", 2), (".previous", 1)):
        if click:
            one.run(f"document.querySelector('.browser {click}').click()")
        assert one.run(numbers.format("history li")) == users[user]["history"]
        assert one.run(numbers.format("models li")) == [item for top in users[user]["top"] for item in top]
        assert set(one.run(numbers.format("models li.hit"))) <= {users[user]["next"]}
        assert one.run(numbers.format("target")) == [users[user]["next"]]
        told = one.run("[...document.querySelectorAll('.models section > p')].map((p) => p.textContent)")
        assert [float(re.findall(r"rank ([\d.]+)", text)[0]) for text in told] == users[user]["ranks"]
    one.run("document.querySelector('.browser select').selectedIndex = 5")
    one.run("document.querySelector('.browser select').dispatchEvent(new Event('change'))")
    assert one.run(numbers.format("history li")) == users[5]["history"]


def test_a_list_picks_another_chart(tab: Tuple[Browser, Path], page: str) -> None:
    one, path = tab
    one.open(path, 1280)
    select = "document.querySelector('select[data-chart$={}]')"
    pick = f"{select}.value = 1; {select}.dispatchEvent(new Event('change'))"
    one.run("document.querySelector('[id$=-curves]').scrollIntoView()")
    for chart, choice in ((charts(page)["valid"], 0), (charts(page)["valid"], 1)):
        if choice:
            one.run(pick.replace("{}", "valid"))
        drawn(one, f"document.querySelector('[id$=-valid] .plot').dataset.drawn === '{chart[choice][0]}'")
    assert "HIT@10" in one.run("document.querySelector('[id$=-valid] .ytitle').textContent")
    one.run(pick.replace("{}", "item-map"))  # image features are there from after stage 1 alone
    shown = "[...document.querySelectorAll('.map .{}')].map((part) => !part.hidden)"
    assert one.run(shown.format("plot")) == [False, True] and one.run(shown.format("absent")) == [True, False]
    assert "features_dir=" in one.run("document.querySelector('.map .absent').textContent")


def test_an_item_of_the_map_is_found_and_its_title_is_text(tab: Tuple[Browser, Path]) -> None:
    one, path = tab
    one.open(path, 1280)
    one.run("document.querySelector('.map').scrollIntoView()")
    drawn(one, "[...document.querySelectorAll('.map .plot')].every((plot) => plot.querySelector('svg'))")
    one.run(
        "{ const s = document.querySelector('.map input'); s.value = 'alert('; s.dispatchEvent(new Event('change')); }"
    )
    assert EVIL in one.run("document.querySelector('.looked-at').textContent")
    assert one.run("document.querySelectorAll('.map .plot')[1].data[1].x.length") == 1
    one.run("document.querySelector('.map .plot').emit('plotly_hover', {points: [{customdata: 7}]})")
    assert "item 7" in one.run("document.querySelector('.looked-at').textContent")
    assert one.run("document.querySelector('.looked-at img').src.startsWith('data:image/webp')")
    assert one.errors == []
