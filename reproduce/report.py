"""One HTML page of a suite's results, which needs neither a network nor a server.

    python -m reproduce.report quickstart
    python -m reproduce.report figures dataset=Bili_Food users=100 out=page.html --masked

It starts with the overview of reproduce.figure. For each data set: the tables of reproduce.table, training curves, item
vectors before and after stage 1, pairs of stage 1, and what each row recommends to some test users.

Reads:  the same files as reproduce.table, and history.csv of the runs, pairs and features of stage 1
Writes: <results_dir>/suites/<suite>/report.html, or out
"""

from __future__ import annotations

from common.start import run_script

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from common.dataset import load_dataset
from common.files import check_folder, commit, read_text, write_text
from common.settings import setting
from reproduce.formats import as_html
from reproduce.rows import Results, Row, command_line
from reproduce.table import Settings as TableSettings
from reproduce.table import tables_of

PAGE = Path(__file__).parent / "report_page"


@dataclass
class Settings(TableSettings):
    """Settings of the page and of its tables."""

    out: Optional[str] = setting(None, "the file to write; null: report.html in <results_dir>/suites/<suite>/")
    before_dir: Optional[str] = setting(
        None, "item features from before stage 1; null: <datasets_dir>/<D>/features/before_stage1", may_be_empty=False
    )
    users: int = setting(40, "number of test users whose recommendations are shown", minimum=0)
    seed: int = setting(2024, "seed of the draws of users, pairs and items", minimum=0)


def runs_of(row: Row, results: Results, home: Path) -> List[Dict[str, Any]]:
    """Seed, command, settings, and paths of the files of each run, relative to ``home``."""
    found = []
    for seed, folder in zip(row.seeds, row.folders):
        of_run = results.runs[results.runs["folder"] == str(folder)].iloc[0]
        names = ("train.log", "settings.yaml", "metrics.json", "history.csv", "ranks.csv")
        paths = [folder / name for name in names if (folder / name).is_file()]
        files = {path.name: Path(os.path.relpath(path, home)).as_posix() for path in paths}
        settings = read_text(folder / "settings.yaml")
        found.append({"seed": seed, "command": of_run["command"], "files": files, "settings": settings})
    return found


def part_of(results: Results, dataset_name: str, settings: Settings, home: Path) -> Dict[str, Any]:
    """What the template shows of one data set."""
    from reproduce.figure import BASELINES, draw, png
    from reproduce.report_page.items import covers_of, drawn_pairs, drawn_users, items_shown
    from reproduce.report_page.plots import plots_of

    rows = results.of(dataset_name)
    dataset = load_dataset(results.datasets_dir / dataset_name, dataset_name)
    before_dir = Path(settings.before_dir or dataset.folder / "features" / "before_stage1")
    strategies = drawn_pairs(dataset, settings.seed)
    users = drawn_users(rows, dataset, settings.users, settings.seed)
    shown = items_shown(strategies, users)
    curves, maps = plots_of(rows, dataset, before_dir, settings.seed)
    figure = png(draw(results, [dataset_name], baselines=BASELINES))
    return {
        "dataset": dataset_name,
        "id": re.sub(r"\W+", "-", dataset_name),
        "figure": base64.b64encode(figure).decode(),
        "tables": [(table, as_html(table)) for table in tables_of(results, dataset_name, settings)],
        "curves": curves,
        "maps": maps,
        "before_dir": before_dir,
        "strategies": strategies,
        "users": users,
        "titles": {item: list(dict.fromkeys((dataset.titles_en[item], dataset.titles_cn[item]))) for item in shown},
        "covers": covers_of(dataset, shown),
        "runs": [(row.name, runs_of(row, results, home)) for row in rows],
    }


def main(argv: Optional[List[str]] = None) -> None:
    """Collect and write. Jinja2 escapes titles and names."""
    settings, results = command_line(Settings, __doc__, argv)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    path = check_folder(Path(settings.out), "out") if settings.out else results.home / f"report{results.suffix}.html"
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("template.html").render(
        title=results.suite,
        commit=commit(),
        parts=[part_of(results, dataset, settings, path.parent) for dataset in results.datasets],
        plotly=get_plotlyjs(),
    )
    write_text(path, page)
    print(f"{path}: {len(page.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
