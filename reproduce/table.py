"""Tables of a suite's finished runs, as Markdown, LaTeX, CSV and HTML.

    python -m reproduce.table quickstart
    python -m reproduce.table figures dataset=Bili_Food 'rows=[SASRec,"ADRec, ours"]' base=SASRec
    python -m reproduce.table figures --masked

For each data set: quality (mean ± standard deviation over seeds, best bold, second underlined) with coverage, Gini and
novelty of the recommended items; the suite's own rows compared with the strongest other row, or all rows with base, by
a bootstrap over users and seeds (significance.py); cost of training; quality by groups of users; published values.

Reads:  <results_dir>/suites/<suite>/runs.csv, which reproduce.run writes, the runs' folders, the prepared data set
Writes: <results_dir>/suites/<suite>/table.{md,tex,csv,html}; for a part of the suite table-<part>.*, and with --masked
        table-masked.*
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

import numpy as np
import pandas as pd

from common.dataset import load_dataset
from common.files import write_text
from common.settings import setting
from reproduce.formats import BEST, Table, as_csv, best_and_second, latex, markdown, mean_and_std, page
from reproduce.ranks import METRICS, Catalogue, catalogue_of, times_shown
from reproduce.rows import Results, ResultsSettings, command_line
from reproduce.significance import compare_means, holm, resampled_means

PUBLISHED = Path(__file__).parent / "published.csv"
NONE = "–"
COST = {  # value of metrics.json → column, format
    "valid.ndcg@10": ("valid NDCG@10", "{:.4f}"),
    "parameters.trained": ("trained", "{:,.0f}"),
    "parameters.frozen": ("frozen", "{:,.0f}"),
    "epochs": ("epochs", "{:.0f}"),
    "seconds": ("train s", "{:,.0f}"),
    "operations": ("operations", "{:.3g}"),  # of all epochs
    "energy.kwh": ("kWh", "{:.2g}"),
    "gco2e": ("gCO₂e", "{:.2g}"),
}
COLUMNS = [*COST, "operations_per_epoch", "energy.measured"]


@dataclass
class Settings(ResultsSettings):
    """Settings of the tables."""

    grid_factor: float = setting(475.0, "gCO₂e per kWh; the default is the world's (IEA 2019)", minimum=0)
    power_watts: Optional[float] = setting(
        None, "power of a run in watts where its energy was not measured; null: the run's own estimate", minimum=0
    )


def catalogue(results: Results, dataset: str) -> Catalogue:
    """What the tables need of a data set: from the prepared data set, or from an archive."""
    archived = results.home / f"{dataset}.npz"
    if archived.is_file():
        with np.load(archived, allow_pickle=False) as content:
            return Catalogue(**content)
    first, data = results.of(dataset)[0], load_dataset(results.datasets_dir / dataset, dataset)
    return catalogue_of(data, first.splits(data), results.ranks(dataset)[first.name])


def overview(results: Results) -> Table:
    """HIT@10 and NDCG@10 of all data sets in one table."""
    names = list(dict.fromkeys(row.name for row in results.rows))
    columns, marks = {"model": names}, {}
    for dataset in results.datasets:
        for metric in ("hit@10", "ndcg@10"):
            values = {row.name: row.values(results.split, metric) for row in results.of(dataset)}
            column = f"{dataset} {metric.upper()}"
            columns[column] = [mean_and_std(values[name]) if name in values else NONE for name in names]
            marks[column] = best_and_second([float(np.mean(values.get(name, np.nan))) for name in names])
    return Table(f"All data sets: test, {results.history}", pd.DataFrame(columns), marks)


def quality(results: Results, dataset: str, items: Catalogue) -> Table:
    """Mean and standard deviation over seeds of each metric; coverage, Gini and novelty of the recommended items."""
    rows = results.of(dataset)
    columns = {"model": [row.name for row in rows], "seeds": [str(len(row.seeds)) for row in rows]}
    marks = {}
    for metric in METRICS:
        values = [row.values(results.split, metric) for row in rows]
        columns[metric.upper()] = [mean_and_std(own) for own in values]
        marks[metric.upper()] = best_and_second([float(np.mean(own)) for own in values])
    shown = [[times_shown(folder, len(items.counts)) for folder in row.folders] for row in rows]
    spread = [[items.spread(own) for own in of_row if own is not None] or [3 * [np.nan]] for of_row in shown]
    for name, values in zip(("coverage", "Gini", "novelty"), np.array([np.mean(own, axis=0) for own in spread]).T):
        columns[name] = [NONE if np.isnan(value) else f"{value:.3f}" for value in values]
    note = (
        "Of the ten recommended items, history unmasked: coverage, the share of all items that are recommended; Gini "
        "of how often; novelty, the mean −log2 of an item's share of the training interactions (one added to each)."
    )
    title = f"{dataset}: test, all items ranked, {results.history}"
    return Table(title, pd.DataFrame(columns), marks, [note, *results.unfinished(dataset)])


def comparison(results: Results, dataset: str) -> Optional[Table]:
    """The suite's own rows against the strongest other row of each metric, or all rows against the base."""
    ours, others = results.sides(dataset)
    if not ours or not others:
        return None
    ranks = results.ranks(dataset)
    gains = {(name, metric): one.gains(metric) for name, one in ranks.items() for metric in METRICS}
    means = {key: float(values.mean()) for key, values in gains.items()}
    strongest = {metric: max(others, key=lambda row: means[row.name, metric]).name for metric in METRICS}
    family = [(row.name, metric, strongest[metric]) for row in ours for metric in METRICS]
    needed = list(dict.fromkeys((name, metric) for own, metric, other in family for name in (own, other)))
    drawn = dict(zip(needed, resampled_means([gains[key] for key in needed])))
    lines = []
    for own, metric, other in family:
        a, b = (own, metric), (other, metric)
        found = compare_means(means[a] - means[b], drawn[a], drawn[b])
        relative = f"{100 * found.difference / means[b]:+.2f} %" if means[b] else NONE
        bounds = f"{found.low:+.4f} to {found.high:+.4f}"
        lines.append([own, metric.upper(), other, f"{found.difference:+.4f}", relative, bounds, found.p])
    frame = pd.DataFrame(lines, columns=["model", "metric", "against", "difference", "relative", "95 % interval", "p"])
    adjusted = holm(frame["p"].tolist())
    frame["p"] = [f"{p:.2g}" for p in adjusted]
    against = results.base or "the strongest other row of each metric on test"
    note = (
        "Bootstrap over users and seeds; over users alone for a row with one seed. p is two-sided, with Holm's "
        "correction over this table, and bold below 0.05. The intervals are not corrected."
    )
    marks = {"p": [BEST if p < 0.05 else "" for p in adjusted]}
    return Table(f"{dataset}: against {against}, {results.history}", frame, marks, [note])


def cost(results: Results, dataset: str, settings: Settings) -> Table:
    """Validation and the cost of training; means over seeds."""
    lines = []
    for row in results.of(dataset):
        runs = pd.json_normalize(row.results).reindex(columns=COLUMNS)  # the energy may be missing
        runs["operations"] = runs["operations_per_epoch"].astype(float) * runs["epochs"]
        measured = runs["energy.measured"].eq(True)
        if settings.power_watts is not None:
            stated = runs["seconds"] * settings.power_watts / 3.6e6
            runs["energy.kwh"] = runs["energy.kwh"].where(measured, stated)
        runs["gco2e"] = runs["energy.kwh"].astype(float) * settings.grid_factor
        means = runs[list(COST)].astype(float).mean(skipna=False)
        texts = [NONE if np.isnan(mean) else form.format(mean) for mean, (_, form) in zip(means, COST.values())]
        estimate = "" if measured.all() else "≈ "
        lines.append([row.name, *texts[:-2], *(text if text == NONE else estimate + text for text in texts[-2:])])
    frame = pd.DataFrame(lines, columns=["model", *(name for name, _ in COST.values())])
    power = "the watts in metrics.json" if settings.power_watts is None else f"{settings.power_watts:g} W"
    note = (
        "Trained and frozen parameters. Seconds, floating-point operations and energy are those of the run's training, "
        "without its search and the runs that it starts from. Validation: history unmasked. Energy is counted by "
        f"CPU and GPU, or marked ≈: seconds times {power}. Emissions: {settings.grid_factor:g} gCO₂e per kWh."
    )
    return Table(f"{dataset}: validation and cost", frame, {}, [note])


def by_groups(results: Results, dataset: str, items: Catalogue) -> Table:
    """NDCG@10 by popularity of the target and length of the history."""
    gains = {name: one.gains("ndcg@10").mean(axis=0) for name, one in results.ranks(dataset).items()}
    columns, marks = {"model": list(gains)}, {}
    for group, mask in items.groups().items():
        values = [float(gain[mask].mean()) if mask.any() else np.nan for gain in gains.values()]
        column = f"{group} ({int(mask.sum())})"
        columns[column] = [NONE if np.isnan(value) else f"{value:.4f}" for value in values]
        marks[column] = best_and_second(values)
    note = (
        "NDCG@10 of groups of test users (group size in parentheses). Targets are grouped into thirds of the training "
        "interactions, most popular items first."
    )
    return Table(f"{dataset}: by groups, {results.history}", pd.DataFrame(columns), marks, [note])


def published(dataset: str) -> Optional[Table]:
    """Published values of a data set, in a table of their own because their data or protocol differ."""
    found = pd.read_csv(PUBLISHED, dtype=str).fillna(NONE)
    found = found[found["dataset"] == dataset].drop(columns="dataset")
    return None if found.empty else Table(f"{dataset}: published values", found)


def runs_table(results: Results) -> Table:
    """Every selected run: state, command, folder."""
    frame = results.runs[["row", "dataset", "seed", "state", "folder", "command"]].astype(str)
    return Table("Runs", frame.reset_index(drop=True))


def tables_of(results: Results, dataset: str, settings: Settings) -> List[Table]:
    """The tables of one data set."""
    items = catalogue(results, dataset)
    found = [
        quality(results, dataset, items),
        comparison(results, dataset),
        cost(results, dataset, settings),
        by_groups(results, dataset, items),
        published(dataset),
    ]
    return [table for table in found if table is not None]


def main(argv: Optional[List[str]] = None) -> None:
    """Write and print the tables."""
    settings, results = command_line(Settings, __doc__, argv)
    tables = [overview(results)] if len(results.datasets) > 1 else []
    for dataset in results.datasets:
        tables += tables_of(results, dataset, settings)
    shown = markdown(tables)
    tables.append(runs_table(results))
    stem = f"table{results.suffix}"
    texts = {"md": markdown(tables), "tex": latex(tables), "csv": as_csv(tables), "html": page(results.suite, tables)}
    for ending, text in texts.items():
        write_text(results.home / f"{stem}.{ending}", text)
    print(f"{shown}\n{results.home / stem}.md, .tex, .csv, .html")


if __name__ == "__main__":
    run_script(main)
