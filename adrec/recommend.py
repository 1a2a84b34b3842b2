"""What ADRec recommends next. Items without training data take part: their text is enough.

    python adrec/recommend.py -d Scientific --user 3 -k 10
    python adrec/recommend.py -d Scientific --items 12,40,7
    python adrec/recommend.py -d Scientific --user 3 --new-items new.csv

Users and items by their zero-based ids, as in sequential_data.txt and <D>_item_sort.csv. new.csv is a CSV file with
a header of text fields, with title among them, and one row per item (their ids follow the data set's). Without
--checkpoint the run of ADRec on this data set that is best on validation is used.

Reads:  a run's best.pth and text_encoder/; the data set's texts and sequences
Writes: item_embeddings.{pth,safetensors,json} beside best.pth, unless they are up to date
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional

import numpy as np

from adrec.embedding_out import item_embeddings
from adrec.settings import chosen_checkpoint
from common.dataset import load_dataset, read_rows
from common.errors import UserError
from common.recommending import ARGUMENTS, RecommendSettings, history_of, labels, print_recommendations
from common.settings import PrecisionSettings, parse

if TYPE_CHECKING:
    import torch

    from adrec.checkpoint import Loaded
    from common.compute import Compute

NEW_ITEMS = (
    ("--new-items",),
    {"type": Path, "metavar": "FILE.csv", "help": "further items: a header of text fields, one row per item"},
)


@dataclass
class Settings(RecommendSettings, PrecisionSettings):
    """Settings of ADRec's recommendations."""


def read_new_items(path: Path) -> List[Dict[str, str]]:
    """The text fields of each new item.

    Raises:
        UserError: no header with a title, no row, a row without a title, or a row of another width.
    """
    _, header = next(read_rows(path, None, "text fields"), (1, []))
    if "title" not in header:
        raise UserError(f"{path}:1: the header has no field 'title'; write for example title,brand,category")
    items = []
    for line, row in [*read_rows(path, None, ", ".join(header))][1:]:
        items.append(dict(zip(header, row)))
        if not items[-1]["title"].strip():
            raise UserError(f"{path}:{line}: the title is empty; give one, or remove the item")
    if not items:
        raise UserError(f"{path}:1: there is no item after the header; write one row per item")
    return items


def encode_new(loaded: Loaded, items: List[Dict[str, str]], compute: Compute) -> torch.Tensor:
    """Vectors of items without training data: (n, d). Warns of fields that the model does not read."""
    from adrec.data import compose, tokenise

    unread = [name for name in items[0] if name not in loaded.settings.fields]
    if unread:
        read = ", ".join(loaded.settings.fields)
        print(f"warning: new items' {', '.join(unread)} are not read; this checkpoint reads {read}")
    texts = [compose(item, loaded.settings, loaded.tokenizer) for item in items]
    tokens = tokenise(texts, loaded.settings, loaded.tokenizer)
    return loaded.encoders.encode_items(tokens, compute, new=True)


def scores_after(loaded: Loaded, items: torch.Tensor, history: np.ndarray) -> np.ndarray:
    """Cosine of every item with a history of zero-based items: (n,)."""
    from torch.nn import functional as F

    from adrec.data import Rows
    from common.compute import fp32_product

    kept = history[-loaded.settings.max_seq_length :]
    one = np.zeros(1, dtype=np.int64)
    row = Rows(kept, one, one + len(kept), one, one)
    sequence = loaded.encoders.encode_histories(items, row, np.arange(1))
    return fp32_product(sequence, F.normalize(items, dim=1))[0].cpu().numpy().astype(np.float64)


def main(argv: Optional[List[str]] = None) -> None:
    """Load, score, print the titles."""
    command = parse(Settings, __doc__, None, argv, (*ARGUMENTS, NEW_ITEMS))
    settings, arguments = command.settings, command.arguments
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    history = history_of(dataset, arguments)
    new = read_new_items(arguments.new_items) if arguments.new_items else []
    checkpoint = chosen_checkpoint(arguments.checkpoint, settings.results_dir, settings.dataset)

    import torch

    from adrec.checkpoint import load_encoders
    from common.compute import pick_compute

    compute = pick_compute(settings.device, settings.precision)
    loaded = load_encoders(checkpoint, settings.dataset, settings.datasets_dir, compute)
    items = item_embeddings(loaded, dataset, compute, command.force)
    titles = labels(dataset, settings.title_language)
    if new:
        items = torch.cat([items, encode_new(loaded, new, compute)])
        titles += [f"{item['title']} (new)" for item in new]
    scores = scores_after(loaded, items, history)
    scores[history] = -np.inf
    print_recommendations(f"ADRec ({checkpoint})", history, scores, titles, arguments.k)
    for item in range(dataset.n_items, len(titles)):  # new items are printed wherever they rank
        place = 1 + int((scores > scores[item]).sum())
        print(f"  place {place} of {len(titles)}  {scores[item]:7.4f}  {titles[item]}")


if __name__ == "__main__":
    run_script(main)
