"""Figures of a metric with 95 % intervals: an overview of the suite, and all rows of each data set.

    python -m reproduce.figure figures
    python -m reproduce.figure figures dataset=Bili_Food metric=hit@10 --masked

The overview shows, for each data set, the suite's own rows (against or base of its YAML) and the five others that have
the highest NDCG@10 on validation. Rows are sorted by value; own rows are highlighted. The interval is a bootstrap over
users and seeds (significance.py). Two intervals may overlap although the paired test of reproduce.table finds a
difference.

Reads:  the same files as reproduce.table
Writes: <results_dir>/suites/<suite>/overview-<metric>.png and <data set>-<metric>.png
"""

from __future__ import annotations

from common.start import run_script

import io
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from common.files import file_name, write_bytes
from common.settings import setting
from reproduce.ranks import METRICS
from reproduce.rows import Results, ResultsSettings, command_line
from reproduce.significance import interval, resampled_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SICSREC, ADREC, OTHER = "#c8472f", "#2f6fb3", "#3d4a5c"
Dot = Tuple[str, float, Tuple[float, float], str]  # name, value, interval, colour
BASELINES = 5  # rows of an overview beside the suite's own


@dataclass
class Settings(ResultsSettings):
    """Settings of the figures."""

    metric: str = setting("ndcg@10", "the metric to draw", choices=METRICS)


def dots(axes: Axes, rows: Sequence[Dot], shift: float = 0.0, filled: bool = True) -> None:
    """A row per dot, upwards; the names of highlighted rows are bold."""
    for place, (_, value, bounds, colour) in enumerate(rows):
        axes.plot(bounds, [place + shift] * 2, color=colour, alpha=0.55, linewidth=2)
        axes.plot(value, place + shift, "o", color=colour, fillstyle="full" if filled else "none", markersize=5.5)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    for label, (*_, colour) in zip(axes.get_yticklabels(), rows):
        label.set(color=colour, weight="normal" if colour == OTHER else "bold")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", color="#dfe3e9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def panel(axes: Axes, results: Results, dataset: str, metric: str, baselines: Optional[int]) -> int:
    """The suite's own rows and the ``baselines`` strongest others on validation (None: all); returns their number."""
    ranks = results.ranks(dataset)
    own = {results.base} if results.base else set(results.against)
    others = [row for row in results.of(dataset) if row.name not in own]
    others.sort(key=lambda row: fmean(row.values("valid", "ndcg@10")), reverse=True)
    names = [*(name for name in ranks if name in own), *(row.name for row in others[:baselines])]
    names.sort(key=lambda name: ranks[name].gains(metric).mean())
    gains = [ranks[name].gains(metric) for name in names]
    means = [float(gain.mean()) for gain in gains]
    colours = [OTHER if name not in own else ADREC if name.startswith("ADRec") else SICSREC for name in names]
    dots(axes, list(zip(names, means, map(interval, resampled_means(gains)), colours)))
    for place, (mean, colour) in enumerate(zip(means, colours)):
        axes.text(1.02, place, f"{mean:.4f}", transform=axes.get_yaxis_transform(), va="center", color=colour)
    axes.set_xlabel(f"{metric.upper()} with 95 % interval\ntest, {results.history}")
    axes.set_title(dataset, loc="left", weight="bold")
    return len(names)


def draw(results: Results, datasets: Sequence[str], metric: str = "ndcg@10", baselines: Optional[int] = None) -> Figure:
    """A panel per data set."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(datasets), 3)
    lines = -(-len(datasets) // columns)
    figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.1))
    n_rows = [
        panel(figure.add_subplot(lines, columns, place), results, dataset, metric, baselines)
        for place, dataset in enumerate(datasets, 1)
    ]
    figure.set_size_inches(5 * columns, (1.1 + 0.25 * max(n_rows)) * lines)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG; a panel is 1,000 pixels wide."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200)
    return out.getvalue()


def main(argv: Optional[List[str]] = None) -> None:
    """Draw and write the figures."""
    settings, results = command_line(Settings, __doc__, argv)
    drawn = {"overview": draw(results, results.datasets, settings.metric, BASELINES)}
    drawn.update((dataset, draw(results, [dataset], settings.metric)) for dataset in results.datasets)
    for name, figure in drawn.items():
        path = results.home / f"{file_name(f'{name}-{settings.metric}{results.suffix}')}.png"
        write_bytes(path, png(figure))
        print(path)


if __name__ == "__main__":
    run_script(main)
