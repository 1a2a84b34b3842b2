"""The page's charts as plotly figures, ready for JSON; page.js draws them."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import plotly.graph_objects as go

from reproduce.formats import Table
from reproduce.report_page.curves import Curves
from reproduce.report_page.embeddings import Plane
from reproduce.report_page.sensitivity import Sweep
from reproduce.rows import Row, history_of
from reproduce.table import operations_of

COLOURS = ("#0b6e99", "#c8553d", "#3f7d20", "#7d4e9e", "#b07d00", "#d1508f", "#4a4e69", "#1b998b")  # on white ≥ 3:1
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "diamond", "square")
Figure = Dict[str, Any]


def _plain(traces: Sequence[Any], x: str, y: str, **layout: Any) -> Figure:
    """A figure as plain containers; what all figures share stands in page.js."""
    figure = go.Figure(list(traces), {"template": "none", "xaxis": {"title": {"text": x}}, **layout})
    figure.update_layout(yaxis={"title": {"text": y}})
    made: Figure = json.loads(str(figure.to_json()))
    made["layout"].pop("template", None)
    return made


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _turn(choices: Sequence[str], place: int) -> str:
    """What tells apart rows of the same colour."""
    return choices[place // len(COLOURS) % len(choices)]


def validation_curves(curves: Sequence[Tuple[str, str, Curves]], metric: str) -> Figure:
    """The validation metric of each run, given as (row, run's name, curves); the chosen epoch is a dot.

    Runs of a row have its colour, and one line in the legend.
    """
    rows = list(dict.fromkeys(row for row, _, _ in curves))
    traces: List[Any] = []
    legends = set()
    for row, name, one in curves:
        place, values = rows.index(row), one.valid[metric]
        line = {"color": _colour(place), "dash": _turn(DASHES, place), "width": 2}
        sizes = [9 if number == one.best else 0 for number in range(len(values))]
        marker = {"size": sizes, "color": _colour(place), "opacity": 1}
        trace = go.Scatter(x=one.at, y=values, name=name, mode="lines+markers", line=line, marker=marker)
        traces.append(trace.update(legendgroup=row, showlegend=row not in legends))
        legends.add(row)
    return _over_epochs(traces, f"validation {metric.upper()}")


def _over_epochs(traces: List[Any], y: str) -> Figure:
    figure = _plain(traces, "epochs done", y, showlegend=True)
    if max(epoch for trace in traces for epoch in trace.x) <= 12:
        figure["layout"]["xaxis"]["dtick"] = 1
    return figure


def loss_curves(one: Curves) -> Figure:
    """The terms of one run's loss."""
    traces = [
        go.Scatter(x=one.at, y=values, name=name, mode="lines+markers", line={"color": _colour(place)})
        for place, (name, values) in enumerate(one.terms.items())
    ]
    return _over_epochs(traces, "mean over the epoch")


def sweep(one: Sweep) -> Figure:
    """Scores over a setting's values; the best is marked."""
    numbers = all(isinstance(value, (int, float)) for value in one.values)
    errors = {"type": "data", "array": one.deviations, "visible": bool(one.deviations) and any(one.deviations)}
    repeated = len(set(one.values)) < len(one.values)
    mode = "markers" if repeated or not numbers else "lines+markers"
    colours = [COLOURS[1] if mean == max(one.means) else COLOURS[0] for mean in one.means]
    marker = {"size": 9, "color": colours}
    values = one.values if numbers else [str(value) for value in one.values]
    line = {"color": COLOURS[0]}
    trace = go.Scatter(x=values, y=one.means, mode=mode, marker=marker, line=line, error_y=errors)
    wide = numbers and min(one.values) > 0 and max(one.values) / min(one.values) >= 16
    figure = _plain([trace], "α" if one.setting == "alpha" else one.setting, one.metric.replace("ndcg", "NDCG"))
    figure["layout"]["xaxis"]["type"] = "log" if wide else "linear" if numbers else "category"
    return figure


def against_cost(rows: List[Row], split: str, key: str, label: str) -> Figure:
    """Test NDCG@10 of each row over ``seconds``, ``parameters`` or ``operations``; means over seeds."""
    traces: List[Any] = []
    for place, row in enumerate(rows):
        values = [value_of(result, key) for result in row.results]
        if all(values):
            cost = float(np.mean([value for value in values if value]))
            score = float(np.mean(row.values(split, "ndcg@10")))
            marker = {"size": 12, "color": _colour(place), "symbol": _turn(SYMBOLS, place)}
            traces.append(go.Scatter(x=[cost], y=[score], name=row.name, mode="markers", marker=marker))
    figure = _plain(traces, label, f"test NDCG@10, {history_of(split)}", showlegend=True)
    figure["layout"]["xaxis"]["type"] = "log"
    return figure


def value_of(result: Mapping[str, Any], key: str) -> Any:
    """What a run cost; None where it was not recorded, 0 where nothing is trained."""
    if key == "operations":
        return operations_of(result)
    return result.get("parameters", {}).get("trained") if key == "parameters" else result.get(key)


def by_groups(table: Table, split: str) -> Figure:
    """NDCG@10 of each group of users, as the table of `reproduce.table.by_groups` prints it for ``split``."""
    columns = [column for column in range(1, len(table.header) - 2) if table.rows[0][column].text != "–"]  # has users
    labels = [table.header[column].replace(" (", "<br>(") for column in columns]
    traces = []
    for place, cells in enumerate(table.rows):
        values = [float(cells[column].text) for column in columns]
        marker = {"size": 10, "color": _colour(place), "symbol": _turn(SYMBOLS, place)}
        traces.append(go.Scatter(x=labels, y=values, name=cells[0].text, mode="markers", marker=marker))
    return _plain(traces, "", f"test NDCG@10, {history_of(split)}", showlegend=True)


def item_map(plane: Plane, items: np.ndarray, popularity: np.ndarray) -> Figure:
    """Items as points, coloured by how often they occur in training; the second trace is the item looked at."""
    points = np.round(plane.points, 4)
    colours = np.log10(1 + popularity[items])
    ticks = [value for value in (0, 1, 10, 100, 1000, 10000) if value <= max(popularity[items].max(), 1)]
    bar = {"title": {"text": "training<br>interactions"}, "thickness": 10, "len": 0.8}
    bar.update(tickvals=np.log10(1 + np.array(ticks)).round(4).tolist(), ticktext=list(map(str, ticks)))
    marker = {"size": 7, "color": colours.round(3).tolist(), "colorscale": "Viridis", "colorbar": bar, "opacity": 0.8}
    shown = go.Scatter(
        x=[None if np.isnan(x) else x for x in points[:, 0].tolist()],
        y=[None if np.isnan(y) else y for y in points[:, 1].tolist()],
        customdata=items.tolist(),
        mode="markers",
        marker=marker,
        hoverinfo="none",
    )
    ring = {"size": 16, "color": "rgba(0,0,0,0)", "line": {"color": COLOURS[1], "width": 3}}
    looked_at = go.Scatter(x=[], y=[], mode="markers", marker=ring, hoverinfo="skip")
    first, second = (f"{100 * share:.0f} %" for share in plane.shares)
    figure = _plain([shown, looked_at], f"first component ({first} of variance)", f"second ({second})")
    figure["layout"]["showlegend"] = False
    return figure
