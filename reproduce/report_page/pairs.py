"""Some of the pairs that stage 1 was fine-tuned on, of each strategy."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List

import numpy as np

from common.dataset import Dataset
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.pair_report import verdicts_of
from stage1_content_modality_semantic_alignment.paths import pairs_dir


def drawn_pairs(dataset: Dataset, count: int, seed: int) -> List[Dict[str, Any]]:
    """Each strategy's counts, and some of its distinct pairs with how often they were chosen."""
    found = []
    home = pairs_dir(dataset.folder, "")
    for folder in sorted(path for path in home.glob("*") if pairs_path(path, "id").is_file()):
        counts = Counter(read_pairs(pairs_path(folder, "id"), dataset.n_items, may_be_empty=True))
        distinct = list(counts)
        places = np.sort(np.random.default_rng(seed).permutation(len(distinct))[:count])
        found.append(
            {
                "strategy": folder.name,
                "lines": sum(counts.values()),
                "distinct": len(distinct),
                "verdicts": verdicts_of(folder),
                "pairs": [{"items": distinct[place], "count": counts[distinct[place]]} for place in places],
            }
        )
    return found
