"""A training step of ADRec, by this code and the plain way, measured (adrec.py)."""

from __future__ import annotations

from typing import List

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from adrec.data import Rows, Tokens, TrainLoader, tokenise
from adrec.encoders import SequenceEncoder, TextEncoder
from adrec.model import ADRec
from adrec.ragged import Ragged
from adrec.settings import ADRecSettings
from benchmarks.measured import Measured, measure, train_step, update
from common.compute import Compute
from common.training import make_optimizer


def bert_base(tokens: Tokens) -> BertModel:
    """BERT-base's shape with random weights."""
    return BertModel(BertConfig(vocab_size=max(30_522, int(tokens.ids.max()) + 1)), add_pooling_layer=False)


def ours(rows: Rows, tokens: Tokens, own: ADRecSettings, compute: Compute, steps: int) -> Measured:
    """A step, batches made included."""
    text = TextEncoder(bert_base(tokens), own.plm_layer)
    vocabulary, tokens = text.keep_tokens(tokens)
    model = ADRec(text, vocabulary, own, rows.target_counts(len(tokens))).to(compute.device).train()
    optimizer, scaler = make_optimizer(model, own), compute.scaler()
    loader = TrainLoader(rows, tokens, own)
    order = iter(loader.epoch(0))

    def step() -> None:
        train_step(model, loader, next(order), optimizer, scaler, compute)

    return measure(f"ours, {compute.precision}, batch_by={own.batch_by}", step, min(steps, len(loader.epoch(0)) - 2))


class PlainSide(nn.Module):
    """The query or key side of the plain way."""

    def __init__(self, tokens: Tokens, own: ADRecSettings) -> None:
        super().__init__()
        self.bert = bert_base(tokens)
        self.sequence = SequenceEncoder(BertConfig().hidden_size, own)

    def forward(self, ids: Tensor, mask: Tensor, layout: Ragged) -> List[Tensor]:
        """Texts of each row's history and target, (n, 21, 60), one by one through all of BERT → (n, d) twice."""
        flat_ids, flat_mask = ids.flatten(0, 1), mask.flatten(0, 1)
        hidden = self.bert(flat_ids, attention_mask=flat_mask, output_hidden_states=True).hidden_states[1]
        means = (hidden * flat_mask[:, :, None]).sum(dim=1) / flat_mask.sum(dim=1, keepdim=True)
        items = means.view(*ids.shape[:2], -1)  # (n, 21, d)
        sequences = self.sequence(items[:, :-1].flatten(0, 1), layout)
        return [F.normalize(sequences, dim=1), F.normalize(items[:, -1], dim=1)]


def plain(
    rows: Rows, texts: List[str], tokenizer: PreTrainedTokenizerBase, own: ADRecSettings, plain_batch: int, seed: int
) -> Measured:
    """A step of the plain way on ``plain_batch`` rows, scaled to ``train_batch_size``."""
    n, longest, history = plain_batch, own.max_text_tokens, own.max_seq_length
    tokens = tokenise([*texts, "None"], own, tokenizer)
    query, key = (PlainSide(tokens, own).train() for _ in range(2))
    key.requires_grad_(False)
    queues = [F.normalize(torch.randn(own.queue_size, BertConfig().hidden_size), dim=1) for _ in range(2)]
    optimizer = torch.optim.Adam(query.parameters(), lr=own.learning_rate)

    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    lengths = rows.stop[chosen] - rows.start[chosen]
    items = np.full((n, history + 1), len(texts))  # "None", then the target in the last place
    for place, (row, length) in enumerate(zip(chosen, lengths)):
        items[place, :length] = rows.items[rows.start[row] : rows.stop[row]]
        items[place, -1] = rows.targets[row]
    mask = np.arange(longest) < tokens.lengths[items][:, :, None]
    ids = np.full(mask.shape, tokens.pad)
    ids[mask] = np.concatenate([tokens.ids[tokens.starts[i] : tokens.starts[i + 1]] for i in items.flatten()])
    layout = Ragged.of(np.full(n, history), lengths)
    inputs = (torch.from_numpy(ids), torch.from_numpy(mask).long(), layout)

    def step() -> None:
        queries = query(*inputs)
        with torch.no_grad():
            keys = key(*inputs)
            for mine, theirs in zip(key.parameters(), query.parameters()):
                mine.mul_(own.momentum).add_(theirs, alpha=1 - own.momentum)
        losses = {}
        for a, vectors in enumerate(queries):
            for b, (positive, queue) in enumerate(zip(keys, queues)):
                logits = own.scale * torch.cat([(vectors * positive).sum(1, keepdim=True), vectors @ queue.T], dim=1)
                losses[f"{a} {b}"] = F.cross_entropy(logits, torch.zeros(n, dtype=torch.long))
        update(optimizer, losses)

    return measure("plain, fp32", step, 1, own.train_batch_size / n)
