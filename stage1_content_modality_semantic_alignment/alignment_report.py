"""How well pairs and modalities are aligned, before and after: report.json, report.md, alignment.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping

import numpy as np
import torch
from torch.nn.functional import normalize

from common.device import Compute
from common.errors import UserError
from common.files import atomic, write_json, write_text
from stage1_content_modality_semantic_alignment.content_model import ContentModel, ItemVectors

ITEMS_AT_ONCE = 128
AT_MOST = 2048  # items that uniformity is taken over: it costs their square
COLOURS = {"text": "#3b6fb6", "image": "#d1742f"}
MEANINGS = {
    "pair_cosine": "mean cosine of target and similar item, higher than random_cosine is better",
    "random_cosine": "mean cosine of as many random pairs",
    "alignment": "mean squared distance of a pair (Wang & Isola), lower is better",
    "uniformity": "log mean exp(-2 squared distance) over items (Wang & Isola), lower is better",
    "recall@1": "text finds its own image first, higher is better",
    "recall@10": "text finds its own image among ten, higher is better",
}


@torch.no_grad()
def encode_items(
    model: ContentModel, items: Mapping[str, ItemVectors], n_items: int, compute: Compute
) -> Dict[str, torch.Tensor]:
    """Vectors of length 1 on the CPU: ``encoder text`` (n, width), ``adapter text`` (n, 64), and so for images.

    Raises:
        UserError: some are not finite: the last step has ruined the weights, or fp16 does not hold them.
    """
    model.eval()
    found: Dict[str, List[torch.Tensor]] = {}
    for start in range(0, n_items, ITEMS_AT_ONCE):
        positions = list(range(start, min(start + ITEMS_AT_ONCE, n_items)))
        for name, adapter in model.adapters.items():
            with compute.autocast():
                vectors = items[name].vectors(positions)
                adapted = adapter(vectors)
            found.setdefault(f"encoder {name}", []).append(vectors.float().cpu())
            found.setdefault(f"adapter {name}", []).append(adapted.float().cpu())
    spaces = {space: torch.cat(parts) for space, parts in found.items()}
    broken = [space for space, vectors in spaces.items() if not torch.isfinite(vectors).all()]
    if broken:
        raise UserError(f"vectors are not finite: {', '.join(broken)}; lower learning_rate, or use precision=fp32")
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


def measure(spaces: Mapping[str, torch.Tensor], pairs: np.ndarray, seed: int) -> Dict[str, Dict[str, float]]:
    """Metrics by space, and ``t2i`` where both modalities are there."""
    found = {space: pair_metrics(vectors, pairs, seed) for space, vectors in spaces.items()}
    if "adapter text" in spaces and "adapter image" in spaces:
        found["t2i"] = retrieval_metrics(spaces["adapter text"], spaces["adapter image"])
    return found


def write_report(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """``report.json`` and ``report.md`` from two results of `measure`."""
    write_json(folder / "report.json", {"before": before, "after": after, **about})
    lines = ["# Alignment before and after fine-tuning", ""]
    lines += [f"{key}: {value}  " for key, value in about.items()]
    lines += ["", "| space | metric | before | after |", "|---|---|---|---|"]
    for space, metrics in before.items():
        lines += [f"| {space} | {name} | {value:.4f} | {after[space][name]:.4f} |" for name, value in metrics.items()]
    lines += ["", *(f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items()), "", "![PCA](alignment.png)", ""]
    write_text(folder / "report.md", "\n".join(lines))


def _principal_plane(vectors: torch.Tensor) -> np.ndarray:
    """(n, D) → (n, 2), the first two principal components."""
    centred = (vectors - vectors.mean(0)).double().numpy()
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane: np.ndarray = centred @ directions[:2].T
    return plane


def plot_alignment(path: Path, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
    """A PNG: the items' adapter outputs on their first two principal components, before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, title, spaces in zip(figure.subplots(1, 2), ("before fine-tuning", "after fine-tuning"), (before, after)):
        adapted = {name: spaces[f"adapter {name}"] for name in COLOURS if f"adapter {name}" in spaces}
        plane = _principal_plane(torch.cat(list(adapted.values())))
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
