"""The rows of a suite's tables: the finished runs in ``results/suites/<suite>/runs.csv`` and what they measured."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar

import pandas as pd

from common.dataset import Dataset
from common.errors import UserError
from common.files import file_name, read_json
from common.settings import Parser, help_of_settings, setting, typed
from common.splits import Splits, split_dataset, split_of
from reproduce.ranks import Ranks, read_ranks
from reproduce.suite import Selection, check_known, read_suite, read_words, suite_path

TEST, MASKED = "test", "test_masked"  # splits of metrics.json: history unmasked (RecBole, the papers), masked (NineRec)


@dataclass
class ResultsSettings(Selection):
    """The settings of `reproduce.table`, `reproduce.figure` and `reproduce.report`."""

    results_dir: str = setting("results", "folder of all results")
    datasets_dir: str = setting("datasets", "folder of the prepared data sets")
    base: Optional[str] = setting(None, "the row to compare all others with; null: as the suite's YAML says")


S = TypeVar("S", bound=ResultsSettings)


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

    def splits(self, dataset: Dataset) -> Splits:
        """The splits of the runs, which are the same for all rows of a table."""
        return split_dataset(dataset, split_of(self.results[0].get("protocol", {}).get("split", "")))


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
    split: str  # TEST or MASKED
    datasets_dir: Path

    @property
    def datasets(self) -> List[str]:
        """Data sets with a finished run."""
        return list(dict.fromkeys(row.dataset for row in self.rows))

    @property
    def history(self) -> str:
        """How the results rank the items of a user's history."""
        return f"history {'masked' if self.split == MASKED else 'unmasked'}"

    def of(self, dataset: str) -> List[Row]:
        """The rows of a data set."""
        return [row for row in self.rows if row.dataset == dataset]

    def ranks(self, dataset: str) -> Dict[str, Ranks]:
        """The test ranks of each row of a data set; raises `UserError` if they are not of the same users and items."""
        return read_ranks({row.name: row.folders for row in self.of(dataset)}, self.split == MASKED)

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


def command_line(schema: Type[S], doc: Optional[str], argv: Optional[List[str]]) -> Tuple[S, Results]:
    """Parse ``SUITE [key=value …] [--masked]`` and read the suite's results."""
    parser = Parser(doc, help_of_settings(schema, "settings (key=value):"))
    parser.add_argument("suite", help="NAME of reproduce/suites/NAME.yaml, or the path of a YAML")
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--masked", action="store_true", help="results with the history masked (NineRec's protocol)")
    arguments: Namespace = parser.parse_intermixed_args(argv)
    settings = schema(**typed(schema, read_words(arguments.words), "command line"))
    return settings, read_results(arguments.suite, settings, MASKED if arguments.masked else TEST)


def read_results(name: str, settings: ResultsSettings, split: str = TEST) -> Results:
    """Read the finished runs of a suite, in the order of its YAML.

    Raises:
        UserError: the suite was not run, nothing selected is finished, or a selected name is unknown.
    """
    path = suite_path(name)
    suite = read_suite(path)
    names = [row.name for row in suite.rows]
    home = Path(settings.results_dir) / "suites" / path.stem
    again = f"run the suite with python -m reproduce.run {name}"
    if not (home / "runs.csv").is_file():
        raise UserError(f"{home / 'runs.csv'}: no such file; {again}, or correct results_dir")
    runs = pd.read_csv(home / "runs.csv", dtype=str, keep_default_na=False)
    runs = runs[runs["row"].isin(names)]
    runs["folder"] = [_folder(recorded, settings.results_dir) for recorded in runs["folder"]]
    base = settings.base or suite.base
    check_known("row", [settings.base] if settings.base else [], runs["row"].unique(), str(home / "runs.csv"))
    for column, chosen in (
        ("dataset", settings.dataset),
        ("row", settings.rows),
        ("seed", [*map(str, settings.seeds)]),
    ):
        check_known(column, chosen, runs[column].unique(), str(home / "runs.csv"))
        runs = runs[runs[column].isin(chosen)] if chosen else runs
    runs = runs.astype({"seed": int}).sort_values("seed", kind="stable")
    done = runs[runs["state"] == "done"].groupby(["dataset", "row"], sort=False)
    rows = [_row(group) for _, group in done]
    if not rows:
        raise UserError(f"{home / 'runs.csv'}: no selected run is finished; {again}")
    rows.sort(key=lambda row: names.index(row.name))
    against = [] if base else suite.against
    suffix = _suffix(settings) + ("-masked" if split == MASKED else "")
    return Results(path.stem, against, base, runs, rows, home, suffix, split, Path(settings.datasets_dir))


def _folder(recorded: str, results_dir: str) -> str:
    """A run's folder as recorded, or in ``results_dir`` if that was moved, for example out of an archive."""
    missing = recorded and not Path(recorded).is_dir()
    return str(Path(results_dir, *Path(recorded).parts[-3:])) if missing else recorded


def _row(runs: pd.DataFrame) -> Row:
    """The row of some lines of runs.csv, which differ by their seed."""
    folders = [Path(folder) for folder in runs["folder"]]
    measured = [read_json(folder / "metrics.json") for folder in folders]
    first = runs.iloc[0]
    for folder, result in zip(folders, measured):
        if TEST not in result:
            raise UserError(f"{folder}: trained but not tested; bash run_test.sh {first['model']} {first['dataset']}")
    return Row(first["row"], first["dataset"], runs["seed"].tolist(), folders, measured)


def _suffix(settings: ResultsSettings) -> str:
    """Part of a file name that keeps the output for a part of a suite apart from that for all of it."""
    words = list(settings.dataset)
    for key, names in (("rows", settings.rows), ("seeds", settings.seeds), ("base", [settings.base])):
        words += [key, *map(str, names)] if any(name is not None for name in names) else []
    return file_name("".join(f"-{word}" for word in words))
