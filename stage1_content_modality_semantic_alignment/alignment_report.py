"""How well pairs and modalities are aligned, before and after: report.json, report.md, alignment.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict

import numpy as np
import torch
from torch.nn.functional import normalize

from common.compute import Compute
from common.errors import Diverged
from common.files import atomic, write_json, write_text
from stage1_content_modality_semantic_alignment.model import ContentModel

if TYPE_CHECKING:
    from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings

Spaces = Dict[str, torch.Tensor]  # by name, such as "adapter text": (items, width), vectors of length 1
Metrics = Dict[str, Dict[str, float]]  # by space and name

ITEMS_AT_ONCE = 128
AT_MOST = 2048  # items for uniformity, whose cost is their square
COLOURS = {"text": "#3b6fb6", "image": "#d1742f"}
MEANINGS = {
    "pair_cosine": "mean cosine of target and similar item; higher than random_cosine is better",
    "random_cosine": "mean cosine of as many random pairs",
    "alignment": "mean squared distance of a pair (Wang & Isola), lower is better",
    "uniformity": "log mean exp(-2 squared distance) over items (Wang & Isola), lower is better",
    "recall@1": "text finds its own image first, higher is better",
    "recall@10": "text finds its own image among the first ten, higher is better",
}


@torch.no_grad()
def encode_items(model: ContentModel, n_items: int, compute: Compute) -> Spaces:
    """Vectors of length 1 on the CPU: ``encoder text`` (n, width), ``adapter text`` (n, 64), and so for images.

    Raises:
        Diverged: some are not finite: the last step has ruined the weights, or they are too large for fp16.
    """
    model.eval()
    spaces: Spaces = {}
    for name, adapter in model.adapters.items():
        encoded, adapted = [], []
        for positions in torch.arange(n_items).split(ITEMS_AT_ONCE):
            with compute.autocast():
                vectors = model.items[name].vectors(positions.tolist())
                adapted.append(adapter(vectors).float().cpu())
            encoded.append(vectors.float().cpu())
        spaces[f"encoder {name}"], spaces[f"adapter {name}"] = torch.cat(encoded), torch.cat(adapted)
    broken = [space for space, vectors in spaces.items() if not torch.isfinite(vectors).all()]
    if broken:
        raise Diverged(f"vectors are not finite: {', '.join(broken)}")
    return {space: normalize(vectors, dim=-1) for space, vectors in spaces.items()}


def pair_metrics(vectors: torch.Tensor, pairs: np.ndarray, seed: int) -> Dict[str, float]:
    """Metrics of one space: vectors (n, D) of length 1, pairs (P, 2) of positions."""
    chosen = np.random.default_rng(seed)
    random_pairs = chosen.integers(len(vectors), size=pairs.shape)
    some = torch.from_numpy(np.sort(chosen.permutation(len(vectors))[:AT_MOST]))
    target, similar = vectors[pairs[:, 0]], vectors[pairs[:, 1]]
    cosine = (target * similar).sum(-1)
    random_cosine = (vectors[random_pairs[:, 0]] * vectors[random_pairs[:, 1]]).sum(-1)
    distances = torch.pdist(vectors[some]).square()
    return {
        "pair_cosine": cosine.mean().item(),
        "random_cosine": random_cosine.mean().item(),
        "alignment": (target - similar).square().sum(-1).mean().item(),
        "uniformity": (-2 * distances).exp().mean().log().item(),
    }


def retrieval_metrics(text: torch.Tensor, image: torch.Tensor) -> Dict[str, float]:
    """Recall of each item's own image, (n, D) each; a tied image counts as ranked before it."""
    scores = text @ image.T  # (n, n)
    own = scores.diagonal()[:, None]
    rank = (scores >= own).sum(1)  # own included: the first is 1
    return {f"recall@{k}": (rank <= k).float().mean().item() for k in (1, 10)}


def measure(spaces: Spaces, pairs: np.ndarray, seed: int) -> Metrics:
    """Metrics by space, and ``t2i`` if there are both modalities."""
    found = {space: pair_metrics(vectors, pairs, seed) for space, vectors in spaces.items()}
    if "adapter text" in spaces and "adapter image" in spaces:
        found["t2i"] = retrieval_metrics(spaces["adapter text"], spaces["adapter image"])
    return found


def write_report(folder: Path, before: Spaces, after: Spaces, pairs: np.ndarray, settings: Settings) -> Path:
    """Write and print the metrics before and after fine-tuning: report.md, alignment.png, report.json (returned)."""
    about = {"dataset": settings.dataset, "strategy": settings.strategy_name, "pairs": len(pairs)}
    old, new = measure(before, pairs, settings.seed), measure(after, pairs, settings.seed)
    lines = [f"{key}: {value}  " for key, value in about.items()]
    lines += ["", "| space | metric | before | after |", "|---|---|---|---|"]
    for space, metrics in old.items():
        lines += [f"| {space} | {name} | {value:.4f} | {new[space][name]:.4f} |" for name, value in metrics.items()]
    lines += ["", *(f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items())]
    print("\n".join(lines))
    title, picture = "# Alignment before and after fine-tuning", "![PCA](alignment.png)"
    write_text(folder / "report.md", "\n".join([title, "", *lines, "", picture, ""]))
    plot_alignment(folder / "alignment.png", before, after)
    write_json(folder / "report.json", {"before": old, "after": new, **about})
    return folder / "report.json"


def plot_alignment(path: Path, before: Spaces, after: Spaces) -> None:
    """A PNG: the items' adapter outputs on their first two principal components, before and after."""
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, title, spaces in zip(figure.subplots(1, 2), ("before fine-tuning", "after fine-tuning"), (before, after)):
        adapted = {name: spaces[f"adapter {name}"] for name in COLOURS if f"adapter {name}" in spaces}
        plane = PCA(2, random_state=0).fit_transform(torch.cat(list(adapted.values())).numpy())
        start = 0
        for name, vectors in adapted.items():
            points = plane[start : start + len(vectors)]
            start += len(vectors)
            axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.6, linewidths=0, color=COLOURS[name], label=name)
        axes.set_title(title)
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(markerscale=2, frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
