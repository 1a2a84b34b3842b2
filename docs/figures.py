"""Draw the figures of the documents from the measured numbers in results.csv and differences.csv.

    python docs/figures.py

Reads:  docs/results.csv (mean and sample standard deviation over seeds), docs/differences.csv
Writes: docs/methods.png, docs/results.png, docs/results-<data set>.png, docs/ablation-<method>.png

A suite that was run on this machine is drawn by ``python -m reproduce.figure`` instead, from the ranks of each user.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.stats import t

from reproduce.figure import ADREC, OTHER, SICSREC, dots

DOCS = Path(__file__).resolve().parent
SPLITS = {"test": "unmasked", "test_masked": "masked"}  # the history, when items are ranked


def save(figure: Figure, name: str) -> None:
    """Write a PNG into docs/."""
    figure.savefig(DOCS / name, dpi=160)
    print(DOCS / name)


def colour_of(model: str) -> str:
    """One colour for each paper, one for the other models."""
    return SICSREC if model.startswith("SICSRec") else ADREC if model.startswith("ADRec") else OTHER


def t_intervals(rows: pd.DataFrame) -> List[Tuple[float, float]]:
    """95 % intervals of the means over seeds; NaN for a model without seeds."""
    half = t.ppf(0.975, rows["seeds"] - 1) * rows["std"] / rows["seeds"] ** 0.5
    return list(zip(rows["mean"] - half, rows["mean"] + half))


def results(table: pd.DataFrame, data_set: str) -> Figure:
    """NDCG@10 and HIT@10 of each model, history unmasked and masked, with 95 % t-intervals over seeds."""
    found = table[table["data_set"] == data_set]
    order = found[(found["split"] == "test") & (found["metric"] == "NDCG@10")].sort_values("mean")["model"].tolist()
    colours = [colour_of(model) for model in order]
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("NDCG@10", "HIT@10")):
        for split in SPLITS:
            rows = found[(found["split"] == split) & (found["metric"] == metric)].set_index("model").loc[order]
            filled = split == "test"
            drawn = list(zip(order, rows["mean"], t_intervals(rows), colours))
            dots(axes, drawn, 0.13 if filled else -0.17, filled)
        axes.set_xlabel(metric)
    marks = [
        Line2D([], [], color=OTHER, marker="o", linestyle="", markerfacecolor=inside, label=f"history {name}")
        for inside, name in ((OTHER, "unmasked"), ("none", "masked"))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(
        f"{data_set}: test, all items ranked; bars are 95 % t-intervals over three seeds", x=0.01, ha="left"
    )
    return figure


def overview(table: pd.DataFrame) -> Figure:
    """NDCG@10 of both methods and of the five baselines that are strongest on validation, for each data set."""
    scores = table[table["metric"] == "NDCG@10"]
    data_sets = list(scores["data_set"].unique())
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, data_set in zip(figure.subplots(1, len(data_sets)), data_sets):
        found = scores[scores["data_set"] == data_set]
        valid = found[found["split"] == "valid"].set_index("model")["mean"]
        own = [model for model in valid.index if colour_of(model) != OTHER]
        shown = [*own, *valid.drop(own).nlargest(5).index]
        rows = found[(found["split"] == "test") & found["model"].isin(shown)].sort_values("mean")
        names = rows["model"].str.replace("Ensemble of ", "").str.replace(" and ", " + ")
        colours = [colour_of(model) for model in rows["model"]]
        dots(axes, list(zip(names, rows["mean"], t_intervals(rows), colours)))
        axes.set_title(data_set, loc="left", weight="bold")
        axes.set_xlabel("NDCG@10, test")
    return figure


def ablation(table: pd.DataFrame, suite: str, title: str) -> Figure:
    """Difference in NDCG@10 of each row to the full method, with 95 % intervals over users."""
    found = table[(table["suite"] == suite) & (table["metric"] == "NDCG@10")]
    names = list(dict.fromkeys(found["row"]))[::-1]
    figure = Figure(figsize=(9, 1.3 + 0.32 * len(names)), layout="constrained")
    for axes, (split, history) in zip(figure.subplots(1, 2, sharex=True, sharey=True), SPLITS.items()):
        rows = found[found["split"] == split].set_index("row").loc[names]
        colours = [SICSREC if significant == "yes" else OTHER for significant in rows["significant"]]
        dots(axes, list(zip(names, rows["difference"], zip(rows["low"], rows["high"]), colours)))
        axes.set_yticks(range(len(names)), names, color="black", weight="normal")  # one name for both panels
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(f"Δ NDCG@10, history {history}")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def box(axes: Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    """A step of a method."""
    shape = FancyBboxPatch(
        (x, y), width, 0.8, boxstyle="round,pad=0.02,rounding_size=0.1", fc="white", ec=colour, lw=1.6
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=8.5)


def arrow(axes: Axes, start: Tuple[float, float], end: Tuple[float, float]) -> None:
    """What a step passes on."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="#667080", lw=1.2))


def methods() -> Figure:
    """Both methods from the raw files to a ranking."""
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 12.1), ylim=(0.05, 4.3))
    axes.axis("off")
    axes.text(0, 4.05, "SICSRec", color=SICSREC, weight="bold", fontsize=11)
    box(axes, 0.05, 2.55, 1.7, "histories,\ntitles, covers", OTHER)
    box(axes, 2.3, 2.55, 2.0, "an LLM chooses\nsimilar items", SICSREC)
    box(axes, 4.85, 2.55, 2.1, "text and image\nencoders aligned", SICSREC)
    box(axes, 7.5, 3.05, 2.0, "ID branch\n(LoRA)", SICSREC)
    box(axes, 7.5, 2.0, 2.0, "content branch", SICSREC)
    box(axes, 10.0, 2.55, 1.9, "mix decoder →\nranked items", SICSREC)
    for start, end in (((1.8, 2.95), (2.25, 2.95)), ((4.35, 2.95), (4.8, 2.95)), ((7.0, 2.85), (7.45, 2.45))):
        arrow(axes, start, end)
    for y in (3.35, 2.45):
        arrow(axes, (9.55, y), (9.95, 2.95))
    axes.annotate(
        "",
        (7.45, 3.6),
        (0.9, 3.42),
        arrowprops={
            "arrowstyle": "-|>",
            "color": "#667080",
            "lw": 1.2,
            "connectionstyle": "angle,angleA=90,angleB=180,rad=4",
        },
    )
    axes.text(0, 1.42, "ADRec", color=ADREC, weight="bold", fontsize=11)
    box(axes, 0.05, 0.2, 1.7, "histories,\nitem texts", OTHER)
    box(axes, 2.3, 0.2, 2.0, "BERT: a vector\nof each item", ADREC)
    box(axes, 4.85, 0.2, 2.1, "sequence\nencoder", ADREC)
    box(axes, 7.5, 0.2, 2.0, "four contrastive terms,\ntwo queues", ADREC)
    box(axes, 10.0, 0.2, 1.9, "cosine →\nranked items", ADREC)
    for x in (1.8, 4.35, 7.0, 9.55):
        arrow(axes, (x, 0.6), (x + 0.45, 0.6))
    return figure


def main() -> None:
    """Draw all figures."""
    table, differences = pd.read_csv(DOCS / "results.csv"), pd.read_csv(DOCS / "differences.csv")
    save(methods(), "methods.png")
    save(overview(table), "results.png")
    for data_set in table["data_set"].unique():
        save(results(table, data_set), f"results-{data_set}.png")
    red = "red: p < .05 by Holm over the table"
    title = f"SICSRec without a part: Bili_Food, 95 % intervals over users; {red}"
    save(ablation(differences, "ablation-sicsrec", title), "ablation-sicsrec.png")
    title = f"ADRec, ours without a part: Scientific, 95 % intervals over users; {red}"
    save(ablation(differences, "ablation-adrec-ours", title), "ablation-adrec.png")


if __name__ == "__main__":
    main()
