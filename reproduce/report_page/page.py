"""The page: a part for each suite on each data set, filled into template.html.

An item's title, a setting or a name from a file reaches the page as text: Jinja2 escapes it, page.js sets textContent.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from common.dataset import Dataset, load_dataset
from common.errors import UserError
from common.files import commit, read_text
from reproduce import table
from reproduce.comparison import compared
from reproduce.formats import Table
from reproduce.report_page.charts import Charts
from reproduce.report_page.embeddings import planes
from reproduce.report_page.items import Shelf
from reproduce.report_page.pairs import drawn_pairs
from reproduce.report_page.users import drawn_users
from reproduce.rows import Row, anchor_of, collect, links_of
from reproduce.run import Asked

HERE = Path(__file__).parent
SECTIONS = [
    ("tables", "results"),
    ("curves", "training curves"),
    ("sensitivity", "sensitivity"),
    ("cost", "cost"),
    ("groups", "groups"),
    ("map", "items"),
    ("pairs", "pairs"),
    ("browser", "recommendations"),
    ("runs", "runs"),
]


class Page:
    """Collects what the template shows, and the data that page.js reads."""

    def __init__(self, settings: Any, split: str, home: Path) -> None:
        self.settings, self.split, self.home = settings, split, home
        self.charts = Charts()
        self.shelves: Dict[str, Shelf] = {}
        self.browsers: Dict[str, Any] = {}
        self.parts: List[Dict[str, Any]] = []
        self.overviews: List[Table] = []

    def add_suite(self, asked: Asked) -> None:
        """Add a suite: a part for each of its data sets, and of several one table before them."""
        found = {name: collect(asked.suite, asked.results_dir, name) for name in asked.suite.datasets}
        done = {name: rows for name, rows in found.items() if rows}
        if len(done) > 1:
            everything = [row for rows in done.values() for row in rows]
            self.overviews.append(table.overview(everything, asked.suite, self.split))
        for name, rows in done.items():
            self.add(asked, name, rows)

    def add(self, asked: Asked, name: str, rows: List[Row]) -> None:
        """Add the part of one suite on one data set."""
        dataset = load_dataset(Path(asked.datasets_dir) / name, name)
        first = name not in self.shelves
        if first:
            self.shelves[name] = Shelf(dataset, self.settings.covers)
        anchor = anchor_of(asked.suite.name, name)
        if any(part["anchor"] == anchor for part in self.parts):  # YAMLs of one name in two folders
            anchor = f"{anchor}-{len(self.parts) + 1}"
        made = [
            table.quality(rows, asked.suite, self.split),
            compared(rows, asked.suite, self.split),
            table.published(name),
        ]
        groups = table.by_groups(rows, dataset, self.split)
        part: Dict[str, Any] = {
            "suite": asked.suite.name,
            "dataset": name,
            "anchor": anchor,
            "command": shlex.join(["python", "-m", "reproduce.run", asked.given, *asked.words]),
            "tables": [one for one in made if one is not None],
            "cost_table": table.cost(rows, self.split),
            "groups_table": groups,
            "runs": self.runs(rows, asked.results_dir),
            "curves": self.charts.curves(rows, anchor),
            "sensitivity": self.charts.sensitivity(rows, self.split, anchor),
            "cost": self.charts.cost(rows, self.split, anchor),
            "groups": self.charts.groups(groups, self.split, anchor),
            "items": self.items(rows, dataset, anchor) if first else None,
        }
        part["browser"] = self.browser(rows, dataset, anchor)
        self.parts.append(part)

    def runs(self, rows: List[Row], results_dir: str) -> List[Dict[str, Any]]:
        """Each row's runs: command, settings, links to what they wrote."""
        return [
            {
                "name": row.name,
                "anchor": row.anchor,
                "runs": [
                    {
                        "seed": run.seed,
                        "command": run.command,
                        "links": links_of(run, folder, results_dir, self.home),
                        "log": str(folder / "train.log"),
                        "settings": read_text(folder / "settings.yaml"),
                    }
                    for run, folder in zip(row.runs, row.folders)
                ],
            }
            for row in rows
        ]

    def items(self, rows: List[Row], dataset: Dataset, anchor: str) -> Dict[str, Any]:
        """The map before and after stage 1, and pairs."""
        pairs = drawn_pairs(dataset, self.settings.pairs, self.settings.seed)
        shelf = self.shelves[dataset.name]
        for strategy in pairs:
            shelf.add(item for pair in strategy["pairs"] for item in pair["items"])
        count = min(self.settings.map_items, dataset.n_items)
        drawn = np.sort(np.random.default_rng(self.settings.seed).permutation(dataset.n_items)[:count])
        default = str(dataset.folder / "before_stage1")
        before_dir = (self.settings.before_dir or default).replace("{dataset}", dataset.name)
        found, fault = {}, ""
        try:
            found = planes(rows, dataset, Path(before_dir), drawn) if count else {}
        except UserError as error:
            fault = f"{error}."
        return {
            "map": self.charts.map(found, dataset, before_dir, drawn, anchor) if found else None,
            "sources": [(m, side, plane.source) for m, sides in found.items() for side, plane in sides.items()],
            "fault": fault,
            "drawn": drawn.tolist() if found else [],
            "pairs": pairs,
        }

    def browser(self, rows: List[Row], dataset: Dataset, anchor: str) -> Dict[str, Any]:
        """What each row shows to the drawn users."""
        own = self.settings
        found = drawn_users(rows, dataset, own.users, own.history, own.seed, self.split == "test_masked")
        shelf = self.shelves[dataset.name]
        for user in found["users"]:
            shelf.add([*user["history"], user["next"], *(item for top in user["top"] for item in top)])
        self.browsers[anchor] = {**found, "dataset": dataset.name}
        return found

    def html(self, title: str) -> str:
        """The whole page."""
        for part in self.parts:  # items of the map alone come last: theirs are the covers that are left out first
            if part["items"]:
                self.shelves[part["dataset"]].add(part["items"]["drawn"])
        shelves = {name: shelf.content() for name, shelf in self.shelves.items()}
        environment = Environment(
            loader=FileSystemLoader(str(HERE)),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("template.html").render(
            title=title,
            parts=self.parts,
            overviews=self.overviews,
            sections=SECTIONS,
            commit=commit(),
            settings=self.settings,
            masked=self.split == "test_masked",
            shelves=shelves,
            data={"figures": self.charts.figures, "items": shelves, "browsers": self.browsers},
            css=read_text(HERE / "page.css"),
            js=read_text(HERE / "page.js"),
            plotly=get_plotlyjs(),
        )


def html_of(asked: List[Asked], settings: Any, split: str, home: Path) -> str:
    """The page of some suites.

    Args:
        split: ``test`` or ``test_masked``.
        home: where the page will lie; its links start there.

    Raises:
        UserError: no run is done.
    """
    page = Page(settings, split, home)
    for one in asked:
        page.add_suite(one)
    names = ", ".join(dict.fromkeys(one.suite.name for one in asked))
    if not page.parts:
        raise UserError(f"no run of {names} is done; python -m reproduce.run with the same words runs them")
    return page.html(names)
