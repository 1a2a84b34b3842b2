"""Seconds, floating-point operations and memory of one training step of ADRec, ours against the plain way, in one run.

    python -m benchmarks.adrec -d Scientific
    python -m benchmarks.adrec -d Scientific plain_batch=0            ours alone
    python -m benchmarks.adrec                                        on the quickstart's ml-100k

BERT of BERT-base's shape with random weights (speed does not depend on their values), plm_layer 1, queues of
10,000. The plain way: every layer of BERT is run though one is used (A1), every history is padded to 20 items
and padding is encoded as the text "None" (A3), every occurrence of an item is encoded again (A4), every
text is padded to 60 tokens, and all embeddings are trained; fp32. Its step is measured on ``plain_batch``
rows and scaled to ``train_batch_size``. Operations are torch's count of matrix products, forward and backward.
"""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass
from typing import Any, List, Optional

import numpy as np
import torch
from common.device import Compute, pick_compute
from common.seeding import seed_everything
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, BertConfig, BertModel

from adrec.data import Batches, Rows, Tokens, cached_tokens, epoch_batches, item_texts, tokenise, train_rows
from adrec.model import ADRec
from adrec.ragged import Ragged
from adrec.sequence_encoder import SequenceEncoder
from adrec.settings import SWITCHES, ADRecSettings
from adrec.text_encoder import TextEncoder
from adrec.training import make_optimizer
from benchmarks.measured import Measured
from common.dataset import load_dataset
from common.errors import run_script
from common.settings import ComputeSettings, parse, resolve_switches, setting
from common.text_encoders import SMALL, text_model_path


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    tokenizer: str = setting(SMALL, "folder of a BERT tokenizer; small: one made from the data set's titles")
    steps: int = setting(8, "steps of ours, after two to warm up; the median counts", minimum=1)
    train_batch_size: int = setting(64, "rows per step", minimum=1)
    plain_batch: int = setting(4, "rows of the plain way's step; 0 leaves it out", minimum=0)


def peak_memory() -> float:
    """The most that this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def bert_base(vocabulary: int) -> BertModel:
    """BERT-base's shape with random weights."""
    return BertModel(BertConfig(vocab_size=max(30_522, vocabulary)), add_pooling_layer=False)


def ours(rows: Rows, tokens: Tokens, own: ADRecSettings, compute: Compute, settings: Settings, pad: int) -> Measured:
    """Median seconds of a step, batches made included; operations of one."""
    text = TextEncoder(bert_base(int(tokens.ids.max()) + 1), own.plm_layer)
    used = tokens.vocabulary(pad)
    text.keep_tokens(used)
    model = ADRec(text, own, len(tokens)).to(compute.device)
    optimizer, scaler = make_optimizer(model, own), compute.scaler()
    batches = Batches(rows, tokens.renumbered(used), compute.device)
    order = epoch_batches(rows, own, 0)
    model.train()

    def step(chosen: np.ndarray) -> float:
        start = time.perf_counter()
        with compute.autocast():
            loss, _ = model(batches.of(chosen))
        optimizer.zero_grad(set_to_none=True)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        loss.item()
        return time.perf_counter() - start

    for chosen in order[:2]:
        step(chosen)
    seconds = statistics.median(step(chosen) for chosen in order[2 : 2 + settings.steps])
    memory = peak_memory()
    with FlopCounterMode(display=False) as counter:
        step(order[0])
    name = f"ours, {compute.precision}, batch_by={own.batch_by}"
    return Measured(name, seconds, float(counter.get_total_flops()), memory)


class PlainSide(nn.Module):
    """The query or key side of the plain way."""

    def __init__(self, bert: BertModel, sequence: SequenceEncoder) -> None:
        super().__init__()
        self.bert, self.sequence = bert, sequence

    def vectors(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Every text by itself through all of BERT: (n, 60) → (n, d)."""
        hidden = self.bert(rows, attention_mask=mask, output_hidden_states=True).hidden_states[1]
        summed: torch.Tensor = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return summed


def _sequence_encoder(own: ADRecSettings) -> SequenceEncoder:
    d = BertConfig().hidden_size
    return SequenceEncoder(d, own.n_layers, own.n_heads, own.inner_size, own.layer_norm_eps, plain_init=True)


def plain(rows: Rows, texts: List[str], tokenizer: Any, own: ADRecSettings, settings: Settings) -> Measured:
    """A step of the plain way on ``plain_batch`` rows, scaled to ``train_batch_size``."""
    longest = own.max_text_tokens
    tokens = tokenise([*texts, "None"], tokenizer, longest)
    table = torch.full((len(tokens), longest), int(tokenizer.pad_token_id))
    for place, length in enumerate(tokens.lengths.tolist()):
        table[place, :length] = torch.from_numpy(tokens.ids[tokens.starts[place] :][:length])
    query, key = (PlainSide(bert_base(int(tokens.ids.max()) + 1), _sequence_encoder(own)).train() for _ in range(2))
    key.requires_grad_(False)
    queues = [F.normalize(torch.randn(own.queue_size, BertConfig().hidden_size), dim=1) for _ in range(2)]
    optimizer = torch.optim.Adam(query.parameters(), lr=own.learning_rate)
    n, none = settings.plain_batch, len(texts)
    chosen = np.random.default_rng(settings.seed).permutation(len(rows))[:n]

    def encoded(side: PlainSide) -> List[torch.Tensor]:
        items = torch.full((n, own.max_seq_length + 1), none)  # the target stands last
        for place, row in enumerate(chosen):
            history = torch.from_numpy(rows.items[rows.start[row] : rows.stop[row]])
            items[place, : len(history)] = history
            items[place, -1] = int(rows.targets[row])
        ids = table[items.flatten()]
        places = torch.arange(longest) < torch.from_numpy(tokens.lengths)[items.flatten()][:, None]
        vectors = side.vectors(ids, places.long()).view(n, own.max_seq_length + 1, -1)
        lengths = np.sort(np.full(n, own.max_seq_length))
        real = rows.stop[chosen] - rows.start[chosen]
        layout = Ragged.of(lengths, vectors.device, real)
        sequences = side.sequence(vectors[:, :-1].reshape(-1, vectors.shape[-1]), layout)
        return [F.normalize(sequences, dim=1), F.normalize(vectors[:, -1], dim=1)]

    def step() -> float:
        start = time.perf_counter()
        queries = encoded(query)
        with torch.no_grad():
            keys = encoded(key)
            for mine, theirs in zip(key.parameters(), query.parameters()):
                mine.mul_(own.momentum).add_(theirs, alpha=1 - own.momentum)
        loss = torch.zeros(())
        for vectors in queries:
            for positive, queue in zip(keys, queues):
                logits = own.scale * torch.cat([(vectors * positive).sum(1, keepdim=True), vectors @ queue.T], dim=1)
                loss = loss + F.cross_entropy(logits, torch.zeros(n, dtype=torch.long))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    scale = settings.train_batch_size / n
    with FlopCounterMode(display=False) as counter:  # warms up as well
        step()
    seconds = step()
    return Measured("plain, fp32", seconds * scale, float(counter.get_total_flops()) * scale, peak_memory())


def main(argv: Optional[List[str]] = None) -> None:
    """Measure both, print the table."""
    settings = parse(Settings, __doc__, None, argv, redoes=False).settings
    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    own = ADRecSettings(
        dataset=settings.dataset,
        datasets_dir=settings.datasets_dir,
        train_batch_size=settings.train_batch_size,
    )
    resolve_switches(own, SWITCHES)
    tokenizer = AutoTokenizer.from_pretrained(text_model_path(settings.tokenizer, dataset, "en", settings.seed))
    texts = item_texts(dataset, own, tokenizer)
    tokens = cached_tokens(texts, tokenizer, own.max_text_tokens, dataset.folder)
    rows = train_rows(dataset, own.max_seq_length)
    measured, told = [], []
    for own.batch_by in ("user", "row"):
        measured.append(ours(rows, tokens, own, compute, settings, int(tokenizer.pad_token_id)))
        batch = Batches(rows, tokens, torch.device("cpu")).of(epoch_batches(rows, own, 0)[0])
        n_tokens = int(batch.texts().counts.sum())
        told.append(f"batch_by={own.batch_by}: {len(batch.items)} distinct items, {n_tokens:,} tokens")
    baseline = plain(rows, texts, tokenizer, own, settings) if settings.plain_batch else None
    print(f"{settings.dataset} on {compute.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"the first batch of {settings.train_batch_size} rows: {'; '.join(told)}")
    print(f"| step of {settings.train_batch_size} rows | seconds | faster | 10¹² operations | fewer | peak GB |")
    print("|---|---|---|---|---|---|")
    for row in ([baseline.row(None, 2)] if baseline else []) + [one.row(baseline, 2) for one in measured]:
        print(row)
    if baseline:
        print(f"the plain step was measured on {settings.plain_batch} rows; peak GB is the process's so far")


if __name__ == "__main__":
    run_script(main)
