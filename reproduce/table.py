"""The tables of a suite, from the runs that are done: Markdown, LaTeX, CSV and HTML.

    python -m reproduce.table quickstart
    python -m reproduce.table bili dataset=Bili_Food data_dir=DIR/{dataset} --masked     the words of reproduce.run

Of several data sets HIT@10 and NDCG@10 side by side. Per data set: it in short; mean ± standard deviation over seeds,
best bold, second underlined; the suite's own rows (its ``against``) compared with the strongest other row by each
metric, or with base=ROW all rows with that one, over users, and over users and seeds; published values in a table of
their own, with source and protocol; accuracy against cost; NDCG@10 by groups of targets and users; coverage and Gini
of what is recommended.

Writes <results_dir>/suites/<suite>/table.{md,tex,csv,html}; a part of the suite, or masked metrics, have files of
        their own: table-<set>-seeds-<…>-rows-<…>-masked.*
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from common.dataset import Dataset, load_dataset
from common.errors import UserError, run_script
from common.files import read_text, write_text
from reproduce.comparison import compared, uncompared
from reproduce.formats import Cell, Table, as_csv, latex, markdown, page
from reproduce.ranks import coverage_and_gini, gain, groups, read_ranks, same_targets
from reproduce.rows import Row, collect, history_of, incomplete, runs_listed
from reproduce.run import Asked, command_line
from reproduce.suite import Suite
from reproduce.test import MASKED, METRICS, mean_and_deviation

PUBLISHED = Path(__file__).parent / "published.csv"


def _marks(means: Sequence[float]) -> List[str]:
    """Best and second of a column; equal values, as printed, share the mark."""
    printed = [round(mean, 4) for mean in means]
    ranked = sorted(set(printed), reverse=True)
    names = dict(zip(ranked, ("best", "second")))
    return [names.get(value, "") for value in printed]


def _protocol(rows: List[Row], split: str) -> str:
    """What the numbers of a table are."""
    seeds = sorted({run.seed for row in rows for run in row.runs})
    over = "mean ± standard deviation over seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"test, all items ranked, {history_of(split)}, {over}"


def quality(rows: List[Row], suite: Suite, split: str) -> Table:
    """The main table: each metric's mean and standard deviation over seeds."""
    cells = [[Cell(row.name, anchor=row.anchor), Cell(f"{len(row.runs)}", anchor=row.anchor)] for row in rows]
    for metric in METRICS:
        values = [row.values(split, metric) for row in rows]
        for line, row, own, mark in zip(cells, rows, values, _marks([float(np.mean(v)) for v in values])):
            line.append(Cell(mean_and_deviation(own), mark, row.anchor))
    title = f"{rows[0].dataset}: {_protocol(rows, split)}"
    notes = [*incomplete(rows, suite, [rows[0].dataset]), *uncompared(rows, suite)]
    return Table(title, ["model", "seeds", *(m.upper() for m in METRICS)], cells, notes)


def _short(values: Sequence[float]) -> str:
    """A metric's mean and deviation in few signs: ``.1932 ± .0029``; none that four digits do not show."""
    return re.sub(r"\b0\.", ".", mean_and_deviation(list(values)).replace(" ± 0.0000", ""))


def overview(rows: List[Row], suite: Suite, split: str) -> Table:
    """One table of several data sets: HIT@10 and NDCG@10 of each, as papers print them."""
    names, datasets = (list(dict.fromkeys(getattr(row, of) for row in rows)) for of in ("name", "dataset"))
    header, columns = ["model"], []
    for dataset in datasets:
        on_it = {row.name: row for row in rows if row.dataset == dataset}
        for metric in ("hit@10", "ndcg@10"):
            values = {name: row.values(split, metric) for name, row in on_it.items()}
            marks = dict(zip(values, _marks([float(np.mean(v)) for v in values.values()])))
            header.append(f"{dataset} {metric.upper()}")
            cells = {n: Cell(_short(v), marks[n], on_it[n].anchor) for n, v in values.items()}
            columns.append([cells.get(name, Cell("–")) for name in names])
    lines = [[Cell(name), *line] for name, line in zip(names, zip(*columns))]
    return Table(
        f"{', '.join(datasets)}: {_protocol(rows, split)}", header, lines, incomplete(rows, suite, suite.datasets)
    )


def in_short(rows: List[Row]) -> Table:
    """One data set at a glance: validation, test by both protocols, seconds."""
    columns = {"valid NDCG@10": ("valid", "ndcg@10")}
    for split, told in (("test", ""), ("test_masked", ", masked")):
        columns.update({f"{metric.upper()}{told}": (split, metric) for metric in ("hit@10", "ndcg@10")})
    lines = [[Cell(row.name, anchor=row.anchor), Cell(f"{len(row.runs)}")] for row in rows]
    for split, metric in columns.values():
        values = [row.values(split, metric) for row in rows]
        marks = _marks([float(np.mean(v)) for v in values]) if split != "valid" else [""] * len(rows)
        for line, own, mark in zip(lines, values, marks):
            line.append(Cell(_short(own), mark))
    for line, row in zip(lines, rows):
        line.append(Cell(f"{np.mean([result['seconds'] for result in row.results]):,.0f}"))
    return Table(f"{rows[0].dataset}: in short", ["model", "seeds", *columns, "train s"], lines)


def operations_of(result: Mapping[str, Any]) -> Optional[float]:
    """Floating-point operations of a run's training, by its metrics.json; None where they were not counted."""
    of_epoch = result.get("operations_per_epoch")
    return None if of_epoch is None else of_epoch * result["epochs"]


def cost(rows: List[Row], split: str) -> Table:
    """Accuracy, on test by ``split`` and on validation, against cost."""

    def mean(row: Row, of: Callable[[Dict[str, Any]], Optional[float]], form: str) -> str:
        values = [of(result) for result in row.results]
        known = [value for value in values if value is not None]
        return form.format(float(np.mean(known))) if len(known) == len(values) else "–"

    lines = []
    for row in rows:
        texts = [
            row.name,
            mean(row, lambda r: r[split]["ndcg@10"], "{:.4f}"),
            mean(row, lambda r: r["valid"]["ndcg@10"], "{:.4f}"),
            mean(row, lambda r: r.get("parameters", {}).get("trained"), "{:,.0f}"),
            mean(row, lambda r: r.get("parameters", {}).get("frozen"), "{:,.0f}"),
            mean(row, lambda r: r.get("epochs"), "{:.0f}"),
            mean(row, lambda r: r.get("seconds"), "{:.0f}"),
            mean(row, operations_of, "{:.3g}"),
        ]
        lines.append([Cell(text, anchor=row.anchor) for text in texts])
    header = ["model", "NDCG@10", "valid NDCG@10", "trained", "frozen", "epochs", "train s", "operations"]
    notes = [
        f"NDCG@10: of test, {history_of(split)}; valid NDCG@10: history unmasked. Epochs are chosen on validation, "
        "history unmasked, by each run's valid_metric.",
        "Seconds and operations of the chosen run's training alone; its search and what it starts from (SICSRec: the "
        "ID encoder; Ensemble: both models) are not in them. Seconds: of this machine, with validation.",
        "Operations: floating-point, forward and backward, counted by torch on one batch (common/operations.py) and "
        "scaled to all epochs, a multiplication and an addition as two; validation and element-wise work not counted.",
    ]
    return Table(f"{rows[0].dataset}: accuracy against cost", header, lines, notes)


def by_groups(rows: List[Row], dataset: Dataset, split: str) -> Table:
    """NDCG@10 by popularity of the target and length of the history; coverage and Gini of the top ten."""
    ranks = {row.name: [read_ranks(folder, split == "test_masked") for folder in row.folders] for row in rows}
    same_targets([(name, one) for name, runs in ranks.items() for one in runs])
    masks = groups(dataset, ranks[rows[0].name][0])
    columns: List[List[float]] = [[] for _ in masks]
    ends = []
    for row in rows:
        for column, mask in zip(columns, masks.values()):
            values = [gain(one.ranks[mask], "ndcg@10").mean() for one in ranks[row.name]] if mask.any() else [np.nan]
            column.append(float(np.mean(values)))
        tops = [np.load(f / "top.npy", allow_pickle=False) for f in row.folders if (f / "top.npy").is_file()]
        spread = [coverage_and_gini(top, dataset.n_items) for top in tops]
        ends.append([f"{value:.3f}" for value in np.mean(spread, axis=0)] if spread else ["–", "–"])
    lines = [[Cell(row.name, anchor=row.anchor)] for row in rows]
    for column in columns:
        for line, row, value, mark in zip(lines, rows, column, _marks(column)):
            line.append(Cell("–", "", row.anchor) if np.isnan(value) else Cell(f"{value:.4f}", mark, row.anchor))
    for line, row, end in zip(lines, rows, ends):
        line += [Cell(text, anchor=row.anchor) for text in end]
    header = ["model", *(f"{key} ({int(mask.sum())})" for key, mask in masks.items()), "coverage", "Gini"]
    note = (
        f"NDCG@10 of each group of test users (their number in brackets), {history_of(split)}. Targets: items in "
        "thirds of the training interactions, the popular ones first. Coverage, Gini: of the ten items each user is "
        "shown, history unmasked."
    )
    return Table(f"{dataset.name}: by groups", header, lines, [note])


def published(dataset: str) -> Optional[Table]:
    """Published values of a data set, never in one table with ours: their data or protocol differ."""
    found = [row for row in csv.DictReader(io.StringIO(read_text(PUBLISHED))) if row["dataset"] == dataset]
    columns = ["model", "HIT@10", "NDCG@10", "source", "protocol"]
    lines = [[Cell(row[column] or "–") for column in columns] for row in found]
    return Table(f"{dataset}: published by others", columns, lines) if found else None


def make(asked: Asked, split: str) -> Path:
    """Write the four files; returns their folder."""
    tables: List[Table] = []
    everything: List[Row] = []
    for name in asked.suite.datasets:
        rows = collect(asked.suite, asked.results_dir, name)
        if not rows:
            continue
        everything += rows
        made = [
            in_short(rows),
            quality(rows, asked.suite, split),
            compared(rows, asked.suite, split),
            published(name),
            cost(rows, split),
            by_groups(rows, load_dataset(Path(asked.datasets_dir) / name, name), split),
        ]
        tables += [table for table in made if table is not None]
    if len({row.dataset for row in everything}) > 1:
        tables.insert(0, overview(everything, asked.suite, split))
    if not tables:
        on = ", ".join(asked.suite.datasets)
        raise UserError(
            f"no run of {asked.suite.name} on {on} is done; python -m reproduce.run with the same words runs them"
        )
    home = Path(asked.results_dir) / "suites" / asked.suite.name
    name = f"table{asked.selection}"
    listed = [runs_listed(everything, asked.results_dir, home, as_html) for as_html in (False, True)]
    write_text(home / f"{name}.md", f"{markdown(tables)}\n{listed[0]}")
    write_text(home / f"{name}.tex", latex(tables))
    write_text(home / f"{name}.csv", as_csv(tables))
    write_text(home / f"{name}.html", page(asked.suite.name, tables, listed[1]))
    print(markdown(tables))
    print(f"written to {home}/{name}.md, .tex, .csv and .html")
    return home


def main(argv: Optional[List[str]] = None) -> None:
    """Collect and write."""
    asked = command_line(__doc__, argv, {"--masked": MASKED})
    make(asked, "test_masked" if asked.flags.masked else "test")


if __name__ == "__main__":
    run_script(main)
