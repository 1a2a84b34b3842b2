"""The page's charts: which figures there are, and from which of them the reader picks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from common.dataset import Dataset
from common.ranking import train_counts
from reproduce.formats import Table
from reproduce.report_page import figures
from reproduce.report_page.curves import Curves, read_curves
from reproduce.report_page.embeddings import Plane
from reproduce.report_page.sensitivity import of_rows, of_searches
from reproduce.rows import Row

STAGE_1 = "stage1_content_modality_semantic_alignment"
COSTS = {
    "seconds": "training seconds",
    "parameters": "trained parameters",
    "operations": "operations",
}
METRICS_SHOWN = ("ndcg@10", "hit@10", "mrr")


@dataclass
class Choices:
    """A chart, or charts side by side, of which a list picks: (name, one figure's number or None for each plot)."""

    id: str
    label: str
    alt: str
    picks: List[Tuple[str, List[Optional[int]]]] = field(default_factory=list)
    titles: List[str] = field(default_factory=lambda: [""])
    absent: List[str] = field(default_factory=lambda: [""])  # what stands where a plot has no figure


class Charts:
    """Collects the figures of all charts; a chart names them by number."""

    def __init__(self) -> None:
        self.figures: List[Any] = []

    def figure(self, made: Any) -> int:
        """The number of a figure."""
        self.figures.append(made)
        return len(self.figures) - 1

    def curves(self, rows: List[Row], anchor: str) -> List[Choices]:
        """Validation of all runs, by metric; the terms of the loss, by run."""
        found: List[Tuple[str, str, Curves]] = []
        for row in rows:
            for run, folder in zip(row.runs, row.folders):
                one = read_curves(folder / "train.log")
                if one is not None:
                    found.append((row.name, row.name if len(row.runs) == 1 else f"{row.name}, seed {run.seed}", one))
        if not found:
            return []
        valid = Choices(f"{anchor}-valid", "Metric", "Validation metric after each epoch, a line a run")
        for metric in METRICS_SHOWN:
            having = [(row, name, one) for row, name, one in found if metric in one.valid]
            if having:
                valid.picks.append((metric.upper(), [self.figure(figures.validation_curves(having, metric))]))
        loss = Choices(f"{anchor}-loss", "Run", "Terms of the training loss, epoch by epoch")
        loss.picks = [(name, [self.figure(figures.loss_curves(one))]) for _, name, one in found]
        return [valid, loss]

    def sensitivity(self, rows: List[Row], split: str, anchor: str) -> Optional[Choices]:
        """Scores over one setting, of rows and of searches."""
        swept = [(f"{one.setting}, rows of {one.model}", one) for one in of_rows(rows, split)]
        swept += [(f"{one.setting}, search of {row}", one) for row, one in of_searches(rows)]
        made = Choices(f"{anchor}-sweep", "Setting", "NDCG@10 over the values of a setting")
        made.picks = [(name, [self.figure(figures.sweep(one))]) for name, one in swept]
        return made if swept else None

    def cost(self, rows: List[Row], split: str, anchor: str) -> Choices:
        """NDCG@10 over each cost that was recorded."""
        made = Choices(f"{anchor}-against-cost", "Cost", "Test NDCG@10 of each row over what its training cost")
        for key, label in COSTS.items():
            if any(all(figures.value_of(result, key) for result in row.results) for row in rows):
                made.picks.append((label, [self.figure(figures.against_cost(rows, split, key, label))]))
        return made

    def groups(self, table: Table, split: str, anchor: str) -> Choices:
        """NDCG@10 by groups."""
        return Choices(f"{anchor}-by-groups", "", table.title, [("", [self.figure(figures.by_groups(table, split))])])

    def map(
        self, found: Dict[str, Dict[str, Plane]], dataset: Dataset, before_dir: str, items: np.ndarray, anchor: str
    ) -> Choices:
        """Two pictures for each modality; where features are missing, the command that makes them."""
        sides = ("before", "after")
        popularity = train_counts(dataset.sequences, dataset.n_items)
        made = Choices(f"{anchor}-item-map", "Vectors", f"Items of {dataset.name} in the plane", titles=list(sides))
        make = f"python {STAGE_1}/use_finetune_bert.py -d {dataset.name}"
        made.absent = [
            f"No features from before stage 1 lie in {before_dir}. This makes them, NAME being the encoder that stage "
            f"1 starts from: {make} model_path=NAME features_dir={before_dir} (covers: use_finetune_swinbase.py). "
            "ADRec trains its vectors in one go: they have no before.",
            f"No features from after stage 1. This makes them: {make} (covers: use_finetune_swinbase.py)",
        ]
        for modality, of_side in found.items():
            drawings = {side: figures.item_map(plane, items, popularity) for side, plane in of_side.items()}
            numbers = [self.figure(drawings[side]) if side in drawings else None for side in sides]
            made.picks.append((modality, numbers))
        return made
