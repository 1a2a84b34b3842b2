"""A suite's rows on a data set: their finished runs, what these measured, and where their files are."""

from __future__ import annotations

import html
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence

from common.errors import UserError
from common.files import read_json
from reproduce.run import log_of
from reproduce.suite import Suite, SuiteRun


def anchor_of(*names: str) -> str:
    """Names as an anchor of a page; A+ and A-, x=1 and x=-1 have anchors of their own."""
    signs = {"+": " plus ", "-": " minus "}
    names = tuple(re.sub(r"(?<![^\s=])[+-](?=\d)|[+-]$", lambda sign: signs[sign[0]], name) for name in names)
    return re.sub(r"[\W_]+", "-", " ".join(names).lower()).strip("-")


def history_of(split: str) -> str:
    """How a split of metrics.json ranks: ``history unmasked``, ``history masked`` for ``test_masked``."""
    return "history masked" if split == "test_masked" else "history unmasked"


@dataclass
class Row:
    """A row of a suite on one data set: its finished runs, their folders and results."""

    name: str
    dataset: str
    runs: List[SuiteRun]
    folders: List[Path]
    results: List[Dict[str, Any]]

    @property
    def anchor(self) -> str:
        """Of its list of runs."""
        return anchor_of(self.dataset, self.name)

    def values(self, split: str, metric: str) -> List[float]:
        """One a run."""
        return [result[split][metric] for result in self.results]


def collect(suite: Suite, results_dir: str, dataset: str) -> List[Row]:
    """Rows with at least one finished run, in the suite's order."""
    rows = []
    for name in suite.rows:
        planned = [run for run in suite.runs if (run.name, run.dataset) == (name, dataset)]
        told = [(run, run.state(results_dir)) for run in planned]
        done = [(run, Path(state["folder"])) for run, state in told if state["state"] == "done"]
        if done:
            results = [read_json(folder / "metrics.json") for _, folder in done]
            for (run, folder), result in zip(done, results):
                if "test" not in result:
                    cure = f"bash run_test.sh {run.model} {dataset} results_dir={results_dir} tests it"
                    raise UserError(f"{folder}: {name}, seed {run.seed}, is trained and not tested; {cure}")
            rows.append(Row(name, dataset, [r for r, _ in done], [f for _, f in done], results))
    return rows


def incomplete(rows: List[Row], suite: Suite, datasets: Sequence[str]) -> List[str]:
    """For each data set with runs that are not done, the note that names their rows, those without any run too."""
    notes = []
    for dataset in datasets:
        planned = Counter(run.name for run in suite.runs if run.dataset == dataset)
        done = {row.name: len(row.runs) for row in rows if row.dataset == dataset}
        left = [f"{name} ({done.get(name, 0)} of {n} runs)" for name, n in planned.items() if done.get(name, 0) < n]
        notes += [f"Not complete on {dataset}: {', '.join(left)}."] if left else []
    return notes


def links_of(run: SuiteRun, folder: Path, results_dir: str, home: Path) -> Dict[str, str]:
    """Paths of a run's files that are there, from ``home``."""
    links = {
        "log": log_of(run, results_dir),
        "training": folder / "train.log",
        "settings": folder / "settings.yaml",
        "results": folder / "metrics.json",
    }
    return {name: Path(os.path.relpath(path, home)).as_posix() for name, path in links.items() if path.is_file()}


def runs_listed(rows: List[Row], results_dir: str, home: Path, as_html: bool) -> str:
    """Under each row's anchor: log, settings and command of each of its runs."""
    lines = ["<h2>Runs</h2>" if as_html else "## Runs\n"]
    for row in rows:
        lines.append(f"<h3 id='{row.anchor}'>{html.escape(f'{row.dataset} {row.name}')}</h3>" if as_html else "")
        if not as_html:
            lines.append(f"<a id='{row.anchor}'></a>**{row.dataset}, {row.name}**\n")
        for run, folder in zip(row.runs, row.folders):
            paths = links_of(run, folder, results_dir, home)
            if as_html:
                anchors = " ".join(f"<a href='{html.escape(path)}'><u>{name}</u></a>" for name, path in paths.items())
                lines.append(f"<p>seed {run.seed}: {anchors}<br><code>{html.escape(run.command)}</code>")
            else:
                anchors = ", ".join(f"[{name}]({path})" for name, path in paths.items())
                lines.append(f"- seed {run.seed}: {anchors}; `{run.command}`")
        lines.append("")
    return "\n".join(lines)
