"""The tables of a suite, from the runs that are done: Markdown, LaTeX, CSV and HTML.

    python -m reproduce.table quickstart
    python -m reproduce.table bili dataset=Bili_Food data_dir=DIR/{dataset} --masked     the words of reproduce.run

Of several data sets HIT@10 and NDCG@10 side by side. Per data set: mean ± standard deviation over seeds, best bold,
second underlined; the suite's own rows (its ``against``) compared with the strongest other row by each metric, paired
by user; published values in a table of their own, with source and protocol; accuracy against cost; NDCG@10 by groups of
targets and users; coverage and Gini of what is recommended.

Writes <results_dir>/suites/<suite>/table.{md,tex,csv,html}; with dataset=, rows=, --masked table-<set>-rows-masked.*
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from common.dataset import Dataset, load_dataset
from common.errors import UserError, run_script
from common.files import read_text, write_text
from reproduce.formats import Cell, Table, as_csv, latex, markdown, page
from reproduce.rows import Row, collect, history_of, incomplete, runs_listed
from reproduce.run import Asked, command_line
from reproduce.significance import (
    compare,
    coverage_and_gini,
    gain,
    groups,
    holm,
    mean_over_seeds,
    read_ranks,
    same_targets,
)
from reproduce.suite import Suite
from reproduce.test import METRICS, mean_and_deviation

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
    return Table(
        title, ["model", "seeds", *(m.upper() for m in METRICS)], cells, [*incomplete(rows), *uncompared(rows, suite)]
    )


def overview(rows: List[Row], split: str) -> Table:
    """One table of several data sets: HIT@10 and NDCG@10 of each, as papers print them."""
    names, datasets = (list(dict.fromkeys(getattr(row, of) for row in rows)) for of in ("name", "dataset"))
    header, columns = ["model"], []
    for dataset in datasets:
        on_it = {row.name: row for row in rows if row.dataset == dataset}
        for metric in ("hit@10", "ndcg@10"):
            values = {name: row.values(split, metric) for name, row in on_it.items()}
            marks = dict(zip(values, _marks([float(np.mean(v)) for v in values.values()])))
            header.append(f"{dataset} {metric.upper()}")
            cells = {n: Cell(mean_and_deviation(v), marks[n], on_it[n].anchor) for n, v in values.items()}
            columns.append([cells.get(name, Cell("–")) for name in names])
    lines = [[Cell(name), *line] for name, line in zip(names, zip(*columns))]
    return Table(f"{', '.join(datasets)}: {_protocol(rows, split)}", header, lines, incomplete(rows))


def sides(rows: List[Row], suite: Suite) -> Tuple[List[Row], List[Row]]:
    """The rows that are compared, and those that they are compared with."""
    ours = [row for row in rows if (row.name in suite.against if suite.base is None else row.name != suite.base)]
    return ours, [row for row in rows if row not in ours]


def uncompared(rows: List[Row], suite: Suite) -> List[str]:
    """The note of a table without a test of significance, or none."""
    ours, others = sides(rows, suite)
    if ours and others:
        return []
    if suite.base is not None:
        missing = "all rows but it are missing" if others else "it is not done"
        return [f"Nothing is compared with {suite.base}, the suite's base: {missing}."]
    if not suite.against:
        return ["Nothing is compared: the suite's YAML names no row in against, and no base."]
    missing = "no other row is done" if ours else "none of them is done"
    return [f"Nothing is compared: the suite's own rows are {', '.join(suite.against)}, and {missing}."]


def significance(rows: List[Row], suite: Suite, split: str) -> Optional[Table]:
    """The suite's own rows against the strongest of the others, or all against its base; Holm over the table."""
    ours, others = sides(rows, suite)
    if not others or not ours:
        return None
    strongest = {  # for each metric its own: the highest on test, which is the hardest to beat
        metric: max(others, key=lambda row: float(np.mean(row.values(split, metric)))) for metric in METRICS
    }
    users = {
        row.name: [read_ranks(folder, split == "test_masked") for folder in row.folders]
        for row in {row.name: row for row in (*ours, *strongest.values())}.values()
    }
    same_targets([(name, ranks) for name, runs in users.items() for ranks in runs])
    family = [(row, metric, strongest[metric]) for row in ours for metric in METRICS]
    found = [
        compare(mean_over_seeds(users[row.name], metric), mean_over_seeds(users[other.name], metric))
        for row, metric, other in family
    ]
    lines = []
    for (row, metric, other), one, p in zip(family, found, holm([one.p for one in found])):
        base = float(np.mean(other.values(split, metric)))
        share = f"{100 * one.difference / base:+.2f} %" if base else "–"
        interval = f"{one.low:+.4f} … {one.high:+.4f}"
        texts = [
            row.name,
            metric.upper(),
            other.name,
            f"{one.difference:+.4f}",
            share,
            interval,
            f"{p:.2g}",
            "yes" if p < 0.05 else "no",
        ]
        lines.append([Cell(text, anchor=row.anchor) for text in texts])
    header = ["model", "metric", "against", "difference", "improvement", "95 % interval", "p (Holm)", "p < 0.05"]
    against = suite.base or "the strongest of the others"
    why = "" if suite.base else f" ({', '.join(row.name for row in others)}), for each metric the one highest on test"
    note = (
        f"Against {against}{why}, {history_of(split)}. Paired by user, each averaged over seeds: bootstrap over "
        "users, paired t-test, Holm's correction over this table. What another seed would change is not in the "
        "intervals: see the deviations over seeds above."
    )
    return Table(f"{rows[0].dataset}: against {against}", header, lines, [*incomplete(rows), note])


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
    return Table(f"{rows[0].dataset}: accuracy against cost", header, lines, [*incomplete(rows), *notes])


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
    return Table(f"{dataset.name}: by groups", header, lines, [*incomplete(rows), note])


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
            quality(rows, asked.suite, split),
            significance(rows, asked.suite, split),
            published(name),
            cost(rows, split),
            by_groups(rows, load_dataset(Path(asked.datasets_dir) / name, name), split),
        ]
        tables += [table for table in made if table is not None]
    if len({row.dataset for row in everything}) > 1:
        tables.insert(0, overview(everything, split))
    if not tables:
        raise UserError(f"no run of {asked.suite.name} is done; python -m reproduce.run with the same words runs them")
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
    asked = command_line(__doc__, argv, {"--masked": "the metrics with the history masked (NineRec's protocol)"})
    make(asked, "test_masked" if asked.flags.masked else "test")


if __name__ == "__main__":
    run_script(main)
