"""Seconds, floating-point operations and memory of one training step of ADRec, ours against the plain way, in one run.

    python -m benchmarks.adrec -d Scientific
    python -m benchmarks.adrec -d Scientific plain_batch=0            # ours alone
    python -m benchmarks.adrec                                        # on the quickstart's ml-100k

BERT of BERT-base's shape with random weights (speed does not depend on their values), plm_layer 1, queues of
10,000. The plain way: every layer of BERT is run though one is used (A1), every history is padded to 20 items
and padding is encoded as the text "None" (A3), every occurrence of an item is encoded again (A4), every
text is padded to 60 tokens, and all embeddings are trained; fp32. Its step is measured on ``plain_batch``
rows and scaled to ``train_batch_size``. Operations are torch's count of matrix products, forward and backward.
Peak GB is the most memory that the process has held so far.
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from typing import List, Optional

from adrec.settings import ADRecSettings
from common.settings import ComputeSettings, parse, setting


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    tokenizer: str = setting(
        "small", "minilm, folder of a BERT tokenizer, or small: one made from the data set's titles"
    )
    steps: int = setting(8, "steps of ours, after one to warm up; the median counts", minimum=1)
    train_batch_size: int = setting(64, "rows per step", minimum=1)
    plain_batch: int = setting(4, "rows of the plain way's step; 0 leaves it out", minimum=0)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure both, print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    from transformers import AutoTokenizer

    from adrec.data import TrainLoader, item_texts, item_tokens, rows_of
    from benchmarks.adrec_steps import ours, plain
    from benchmarks.measured import print_table
    from common.compute import pick_compute, seed_everything
    from common.dataset import load_dataset
    from common.splits import split_dataset
    from common.text_encoders import ENCODER_FIX, fetch, text_model_path

    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    own = ADRecSettings(
        dataset=settings.dataset, datasets_dir=settings.datasets_dir, train_batch_size=settings.train_batch_size
    )
    name = text_model_path(settings.tokenizer, dataset, "en", settings.seed)
    tokenizer = fetch(AutoTokenizer, name, ENCODER_FIX)
    tokens, splits = item_tokens(dataset, own, tokenizer), split_dataset(dataset, own)
    rows = rows_of(dataset, splits.train, own.max_seq_length)
    measured, sizes = [], []
    for own.batch_by in ("user", "row"):
        measured.append(ours(rows, tokens, own, compute, settings.steps))
        loader = TrainLoader(rows, tokens, own)
        items = loader.batch(loader.epoch(0)[0]).items.numpy()
        sizes.append(f"batch_by={own.batch_by}: {len(items)} distinct items, {tokens.lengths[items].sum():,} tokens")
    texts = item_texts(dataset, own, tokenizer)
    baseline = plain(rows, texts, tokenizer, own, settings.plain_batch, settings.seed) if settings.plain_batch else None
    print(f"the first batch of {settings.train_batch_size} rows: {'; '.join(sizes)}")
    lines = [baseline.row()] if baseline else []
    lines += [one.row(baseline) for one in measured]
    print_table(f"step of {settings.train_batch_size} rows", f"{settings.dataset} on {compute.device}", lines)
    if baseline:
        print(f"the plain step was measured on {settings.plain_batch} rows")


if __name__ == "__main__":
    run_script(main)
