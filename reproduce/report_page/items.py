"""Titles and small covers of the items that the page shows, each once, however often it is shown."""

from __future__ import annotations

from typing import Any, Dict, Iterable

from common.dataset import Dataset
from stage1_content_modality_semantic_alignment.pair_report import cover_data

SIDE = 72  # pixels of a cover's longer side


class Shelf:
    """Collects items; the first ``most`` of them get a cover, so that the page stays small.

    Args:
        most: covers in the page.
    """

    def __init__(self, dataset: Dataset, most: int) -> None:
        self.dataset, self.most = dataset, most
        self.shown: Dict[int, None] = {}

    def add(self, items: Iterable[int]) -> None:
        """Items that the page shows; what is added first gets its cover first."""
        self.shown.update(dict.fromkeys(map(int, items)))

    def content(self) -> Dict[str, Any]:
        """``titles``: item → its distinct titles; ``covers``: item → data URI; ``uncovered``: left out for ``most``."""
        cn, en = self.dataset.titles_cn, self.dataset.titles_en
        has_covers = self.dataset.covers is not None
        chosen = list(self.shown)[: self.most] if has_covers else []
        covers = {item: cover_data(self.dataset, item, SIDE, "WEBP") for item in chosen}
        return {
            "titles": {item: list(dict.fromkeys((en[item], cn[item]))) for item in self.shown},
            "covers": {item: uri for item, uri in covers.items() if uri},
            "uncovered": len(self.shown) - len(chosen) if has_covers else 0,
        }
