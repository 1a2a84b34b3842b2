"""One figure per data set: a metric of each row with its 95 % interval.

    python -m reproduce.figure figures
    python -m reproduce.figure figures dataset=Bili_Food metric=hit@10 --masked

The rows are sorted by value; the suite's own rows (against or base of its YAML) are highlighted. The interval is a
bootstrap over users and seeds (significance.py). Two intervals may overlap although the paired test of
reproduce.table finds a difference.

Reads:  the same files as reproduce.table
Writes: <results_dir>/suites/<suite>/<data set>-<metric>.png
"""

from __future__ import annotations

from common.start import run_script

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, List, Optional

from common.files import file_name, write_bytes
from common.settings import setting
from reproduce.ranks import METRICS
from reproduce.rows import Results, ResultsSettings, command_line
from reproduce.significance import interval, resampled_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN, OTHER = "#c8472f", "#3d4a5c"


@dataclass
class Settings(ResultsSettings):
    """Settings of the figure."""

    metric: str = setting("ndcg@10", "the metric to draw", choices=METRICS)


def draw(results: Results, dataset: str, metric: str = "ndcg@10") -> Figure:
    """A horizontal dot plot."""
    from matplotlib.figure import Figure

    rows = sorted(results.of(dataset), key=lambda row: sum(row.values(results.split, metric)) / len(row.seeds))
    ranks = results.ranks(dataset)
    gains = [ranks[row.name].gains(metric) for row in rows]
    own = {results.base} if results.base else set(results.against)
    figure = Figure(figsize=(5.6, 1.1 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (row, gain, drawn) in enumerate(zip(rows, gains, resampled_means(gains))):
        low, high = interval(drawn)
        colour = OWN if row.name in own else OTHER
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(gain.mean(), place, "o", color=colour, markersize=6)
        axes.text(1.02, place, f"{gain.mean():.4f}", transform=axes.get_yaxis_transform(), va="center", color=colour)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set(color=OWN if row.name in own else "black", weight="bold" if row.name in own else "normal")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"{metric.upper()} with 95 % interval\ntest, {results.history}")
    axes.set_title(dataset, loc="left", weight="bold")
    axes.grid(axis="x", color="#dfe3e9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def save(figure: Figure, out: BinaryIO) -> None:
    """Write as PNG, 1,120 pixels wide."""
    figure.savefig(out, format="png", dpi=200)


def main(argv: Optional[List[str]] = None) -> None:
    """Draw and write the figures."""
    settings, results = command_line(Settings, __doc__, argv)
    for dataset in results.datasets:
        path = results.home / f"{file_name(f'{dataset}-{settings.metric}{results.suffix}')}.png"
        out = io.BytesIO()
        save(draw(results, dataset, settings.metric), out)
        write_bytes(path, out.getvalue())
        print(path)


if __name__ == "__main__":
    run_script(main)
