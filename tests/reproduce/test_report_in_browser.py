"""The report page in headless Chromium: no error, nothing wider than the window, tables sort, users open."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, answer
from reported import made_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def path(results: Path) -> Path:
    made_page(results)
    return results.parent / "results" / "suites" / "mine" / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_and_draws_all_plots(path: Path, width: int) -> None:
    script = """const plots = [...document.querySelectorAll(".js-plotly-plot")];
    return [document.documentElement.scrollWidth, plots.map((plot) => [plot.querySelectorAll(".main-svg").length > 0,
      plot.querySelector(".main-svg").getBoundingClientRect().right])];"""
    found = answer(path, width, script)
    scroll_width, plots = found["value"]
    assert found["errors"] == [] and scroll_width <= width
    assert len(plots) == 4 and all(drawn and right <= width for drawn, right in plots)


def test_a_heading_sorts_by_value(path: Path) -> None:
    script = """const table = document.querySelector("table.data"), head = table.tHead.rows[0].cells[5];
    const column = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[5].textContent));
    const found = [column()];
    for (let click = 0; click < 2; click++) { head.firstChild.click(); found.push(column(), head.ariaSort); }
    return found;"""
    before, first, down, second, up = answer(path, 1280, script)["value"]
    assert first == sorted(before, reverse=True) and second == sorted(before) and before not in (first, second)
    assert (down, up) == ("descending", "ascending")


def test_one_user_is_open_at_a_time(path: Path) -> None:
    script = """const users = [...document.querySelectorAll("details.user")];
    const open = () => users.map((user) => user.open).indexOf(true);
    const before = open();
    users[2].firstElementChild.click();
    await new Promise((done) => setTimeout(done, 200));
    return [before, open(), users.filter((user) => user.open).length, users[2].querySelectorAll(".hit").length];"""
    before, after, n_open, hits = answer(path, 390, script)["value"]
    assert (before, after) == (0, 2) and n_open == 1 and hits >= 1
