"""The rows of a suite's tables: the finished runs in ``results/suites/<suite>/runs.csv`` and what they measured."""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, TypeVar

import pandas as pd
from omegaconf import ListConfig

from common.errors import UserError, nearest
from common.files import read_json
from common.settings import Parser, help_of_settings, setting, split_overrides, typed
from reproduce.ranks import Ranks, read_ranks

TEST, MASKED = "test", "test_masked"  # splits of metrics.json: history unmasked (RecBole, the papers), masked (NineRec)


@dataclass
class Selection:
    """The settings of `reproduce.table`, `reproduce.figure` and `reproduce.report`."""

    results_dir: str = setting("results", "folder of all results")
    datasets_dir: str = setting("datasets", "folder of the prepared data sets")
    dataset: List[str] = setting([], "data sets to show; empty: all of the suite")
    rows: List[str] = setting([], "rows to show; empty: all of the suite")
    seeds: List[int] = setting([], "seeds to use; empty: all of the suite")
    base: Optional[str] = setting(None, "the row to compare all others with; null: as the suite's YAML says")


S = TypeVar("S", bound=Selection)


@dataclass
class Row:
    """A row of a suite on one data set: its finished runs, one per seed."""

    name: str
    dataset: str
    seeds: List[int]
    folders: List[Path]
    results: List[Dict[str, Any]]  # metrics.json

    def values(self, split: str, metric: str) -> List[float]:
        """A metric of each run."""
        return [result[split][metric] for result in self.results]

    def ranks(self, split: str) -> Ranks:
        """The test ranks of all runs."""
        return read_ranks(self.folders, split == MASKED)


@dataclass
class Results:
    """What the command line selects of a suite."""

    suite: str
    against: List[str]  # rows to compare with the strongest other row
    base: Optional[str]  # or the row to compare all others with
    runs: pd.DataFrame  # runs.csv, of the selection
    rows: List[Row]
    home: Path  # <results_dir>/suites/<suite>
    suffix: str  # of output files: empty for the whole suite
    datasets_dir: Path

    @property
    def datasets(self) -> List[str]:
        """Data sets with a finished run."""
        return list(dict.fromkeys(row.dataset for row in self.rows))

    def of(self, dataset: str) -> List[Row]:
        """The rows of a data set."""
        return [row for row in self.rows if row.dataset == dataset]

    def sides(self, dataset: str) -> Tuple[List[Row], List[Row]]:
        """The rows that are compared, and the rows that they are compared with."""
        rows = self.of(dataset)
        others = [row for row in rows if (row.name == self.base if self.base else row.name not in self.against)]
        return [row for row in rows if row not in others], others

    def unfinished(self, dataset: str) -> List[str]:
        """A note that names the rows of a data set with unfinished runs, if there are any."""
        runs = self.runs[self.runs["dataset"] == dataset]
        counts = (runs["state"] == "done").groupby(runs["row"], sort=False).agg(["sum", "count"])
        left = [f"{name} ({done} of {n} runs)" for name, done, n in counts.itertuples() if done < n]
        return [f"Not complete: {', '.join(left)}."] if left else []


def history_of(split: str) -> str:
    """How a split ranks the items of a user's history."""
    return "history masked" if split == MASKED else "history unmasked"


def command_line(schema: Type[S], doc: Optional[str], argv: Optional[List[str]]) -> Tuple[S, Results, str]:
    """Parse ``SUITE [key=value …] [--masked]`` and read the suite's results: settings, results, split."""
    parser = Parser(doc, help_of_settings(schema, "settings (key=value):"))
    parser.add_argument("suite", help="NAME of reproduce/suites/NAME.yaml, or the path of a YAML")
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--masked", action="store_true", help="results with the history masked (NineRec's protocol)")
    arguments: Namespace = parser.parse_intermixed_args(argv)
    values = split_overrides(arguments.words)
    for key in {"dataset", "rows", "seeds"} & set(values):
        values[key] = values[key] if isinstance(values[key], ListConfig) else [values[key]]
    settings = schema(**typed(schema, values, "command line"))
    results = read_results(arguments.suite, settings)
    if arguments.masked:
        results.suffix += "-masked"
    return settings, results, MASKED if arguments.masked else TEST


def read_results(name: str, selection: Selection) -> Results:
    """Read the finished runs of a suite, in the order of its YAML.

    Raises:
        UserError: the suite was not run, nothing selected is finished, or a selected name is unknown.
    """
    from reproduce.suite import read_suite, suite_path

    path = suite_path(name)
    suite = read_suite(path)
    names = [row.name for row in suite.rows]
    home = Path(selection.results_dir) / "suites" / path.stem
    again = f"run the suite with python -m reproduce.run {name}"
    if not (home / "runs.csv").is_file():
        raise UserError(f"{home / 'runs.csv'}: no such file; {again}, or correct results_dir")
    runs = pd.read_csv(home / "runs.csv", dtype=str, keep_default_na=False).astype({"seed": int})
    runs = runs[runs["row"].isin(names)].sort_values("seed", kind="stable")
    base = selection.base or suite.base
    selected: List[Tuple[str, Sequence[object], str]] = [
        ("base", [selection.base] if selection.base else [], "row"),
        ("dataset", selection.dataset, "dataset"),
        ("rows", selection.rows, "row"),
        ("seeds", selection.seeds, "seed"),
    ]
    for key, chosen, column in selected:
        known = runs[column].unique().tolist()
        for one in chosen:
            if one not in known:
                suggestion = nearest(str(one), map(str, known))
                raise UserError(f"{key}={one}: not in {home / 'runs.csv'}{suggestion}; available: {known}")
        if key != "base" and chosen:
            runs = runs[runs[column].isin(chosen)]
    done = runs[runs["state"] == "done"].groupby(["dataset", "row"], sort=False)
    rows = [_row(group) for _, group in done]
    if not rows:
        raise UserError(f"{home / 'runs.csv'}: no selected run is finished; {again}")
    rows.sort(key=lambda row: names.index(row.name))
    against = [] if base else suite.against
    return Results(path.stem, against, base, runs, rows, home, _suffix(selection), Path(selection.datasets_dir))


def _row(runs: pd.DataFrame) -> Row:
    """The row of some lines of runs.csv, which differ by their seed."""
    folders = [Path(folder) for folder in runs["folder"]]
    measured = [read_json(folder / "metrics.json") for folder in folders]
    first = runs.iloc[0]
    for folder, result in zip(folders, measured):
        if TEST not in result:
            raise UserError(f"{folder}: trained but not tested; bash run_test.sh {first['model']} {first['dataset']}")
    return Row(first["row"], first["dataset"], runs["seed"].tolist(), folders, measured)


def _suffix(selection: Selection) -> str:
    """Part of a file name that keeps the output for a part of a suite apart from that for all of it."""
    words = list(selection.dataset)
    for key, names in (("rows", selection.rows), ("seeds", selection.seeds), ("base", [selection.base])):
        words += [key, *map(str, names)] if any(name is not None for name in names) else []
    text = re.sub(r"[^\w.=+-]+", "-", "".join(f"-{word}" for word in words))
    return text if len(text) <= 80 else f"{text[:70]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
