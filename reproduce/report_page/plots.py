"""The page's interactive plots: validation curves, and item vectors in the plane."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from common.checkpoints import load_checkpoint
from common.dataset import Dataset
from common.features import MODALITIES, features_path, load_features
from common.files import read_json
from common.ranking import train_counts
from reproduce.rows import Row

COLOURS = ("#0b6e99", "#c8553d", "#3f7d20", "#7d4e9e", "#b07d00", "#d1508f", "#4a4e69", "#1b998b")
DASHES = ("solid", "dash", "dot")
MAP_ITEMS = 800  # points of a map


def as_html(figure: go.Figure, name: str) -> str:
    """A figure as a ``<div>`` with the id ``name``; the page holds plotly.js."""
    figure.update_layout(template="simple_white", margin={"l": 60, "r": 10, "t": 40, "b": 50}, hovermode="closest")
    figure.update_layout(font={"family": "system-ui, sans-serif", "size": 13})
    config = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config))


def read_history(folder: Path) -> pd.DataFrame:
    """history.csv of a run with the column ``loss``, the sum of all terms; empty for a model without epochs."""
    path = folder / "history.csv"
    if not path.is_file():
        return pd.DataFrame()
    history = pd.read_csv(path)
    return history.assign(loss=history.filter(like="train/").sum(axis=1, skipna=False))


def curves(rows: List[Row], column: str, title: str) -> Optional[go.Figure]:
    """A column of the runs' histories over the epochs, a line per run; the dot is the epoch that was chosen."""
    figure = go.Figure()
    shown = []
    for row in rows:
        for folder, seed in zip(row.folders, row.seeds):
            history = read_history(folder)
            if column in history:
                shown += [row.name] if row.name not in shown else []
                place, first = shown.index(row.name), seed == row.seeds[0]
                line = {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place // len(COLOURS) % len(DASHES)]}
                chosen = history.index == history.index[history["best"] == 1].max()  # each new best has the mark
                sizes = np.where(chosen, 9, 0).tolist()
                name = html.escape(row.name)
                values = history[column].replace([np.inf, -np.inf], np.nan)
                figure.add_scatter(
                    x=history["epoch"].tolist(), y=values.tolist(), mode="lines+markers", line=line, name=name,
                    marker={"size": sizes, "opacity": 1}, legendgroup=name, showlegend=first,
                    hovertemplate=f"{name}, seed {seed}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
                )  # fmt: skip
    figure.update_layout(title=title, height=400 + 20 * len(shown), legend={"orientation": "h", "y": -0.15})
    figure.update_xaxes(title="epochs")
    return figure if shown else None


def principal_plane(vectors: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """First two principal components of item vectors (n_items, width).

    Returns:
        Points (n_items, 2), NaN for an item whose vector is zero (it has no cover), and both components' shares of
        the variance (2,).
    """
    present = vectors.any(axis=1)
    centred = vectors - vectors[present].mean(axis=0)
    values, directions = np.linalg.eigh(centred[present].T @ centred[present])  # ascending
    points = np.where(present[:, None], centred @ directions[:, :-3:-1], np.nan)
    return points, np.maximum(values[:-3:-1], 0) / max(values.sum(), 1e-30)


def item_map(vectors: torch.Tensor, dataset: Dataset, counts: np.ndarray, items: np.ndarray, title: str) -> go.Figure:
    """Some items in the plane of all items' principal components, coloured by their counts (n_items,) in training."""
    points, shares = principal_plane(vectors.double().numpy())
    popularity = counts[items]
    titles = [html.escape(f"{dataset.titles_en[item]} ({item})") for item in items]
    bar = {"orientation": "h", "y": -0.15, "yanchor": "top", "thickness": 10}
    bar["title"] = {"text": "log10(1 + training interactions)", "side": "top"}
    marker = {"color": np.log10(1 + popularity).round(2).tolist(), "colorscale": "Viridis", "size": 7, "colorbar": bar}
    x, y = points[items].round(4).T.tolist()
    figure = go.Figure(go.Scatter(x=x, y=y, mode="markers", marker=marker, hovertext=titles, hoverinfo="text"))
    figure.update_layout(title=title, height=480)
    figure.update_xaxes(title=f"first component ({shares[0]:.0%} of the variance)", title_standoff=5)
    return figure.update_yaxes(title=f"second component ({shares[1]:.0%})")


def item_vectors(rows: List[Row], dataset: Dataset, before_dir: Path) -> Dict[str, torch.Tensor]:
    """Title → vectors (n_items, width): features before and after stage 1, and the vectors of tested ADRec runs.

    "After" are the features that the first run with this modality read.
    """
    found = {}
    for modality in MODALITIES:
        inputs = [read_json(row.folders[0] / "made.json")["inputs"] for row in rows]
        used = [Path(one[modality]["path"]) for one in inputs if modality in one]
        before = features_path(before_dir, dataset.name, modality)
        sides = [("before", before), *(("after", path) for path in used[:1])]
        for side, path in sides:
            if path.is_file():
                found[f"{modality}, {side} stage 1"] = load_features(path, dataset.n_items)
    for row in rows:
        path = row.folders[0] / "item_embeddings.pth"
        if path.is_file():
            found[f"vectors of {row.name}"] = load_checkpoint(path)["embeddings"]
    return found


def plots_of(rows: List[Row], dataset: Dataset, before_dir: Path, seed: int) -> Tuple[List[str], List[str]]:
    """The HTML of the curves and of the maps."""
    drawn = [curves(rows, "valid/ndcg@10", "validation NDCG@10"), curves(rows, "loss", "training loss")]
    items = np.sort(np.random.default_rng(seed).permutation(dataset.n_items)[:MAP_ITEMS])
    counts = train_counts(dataset, rows[0].splits(dataset))
    maps = [
        item_map(vectors, dataset, counts, items, html.escape(title))
        for title, vectors in item_vectors(rows, dataset, before_dir).items()
    ]
    return (
        [as_html(one, f"curves-{dataset.name}-{n}") for n, one in enumerate(drawn) if one is not None],
        [as_html(one, f"map-{dataset.name}-{n}") for n, one in enumerate(maps)],
    )
