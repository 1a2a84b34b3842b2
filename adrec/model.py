"""ADRec: bidirectional alignment of sequences and items, decoupled contrast, two momentum queues.

`ADRec.forward` is the paper's method, in its order. Switches A1 … A9: docs/deviations.md. What is ours: additions.py.
"""

from __future__ import annotations

import copy
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.additions import Adapter, Offsets, count_items_once, refined_logq
from adrec.data import Batch, Rows, Split, Tokens, by_length
from adrec.encoders import SequenceEncoder, TextEncoder, Vocabulary
from adrec.losses import angular_margin_infonce
from adrec.ragged import Ragged
from adrec.settings import ADRecSettings
from common.compute import Compute, Processes, fp32_product
from common.ranking import ITEMS_AT_ONCE, TOP, Ranking, rank_batches, users_at_once

NO_ITEM = -1  # the item of a fresh queue's random vectors
TEXTS_AT_ONCE = 256
REMEMBERED = 2**30  # largest number of values that frozen layers leave for all tokens: 4 GB
TABLE = "text.embeddings.word_embeddings.weight"
ALONE = Processes()


class Encoders(nn.Module):
    """Text encoder and sequence encoder: the query side; a second copy is the key side."""

    def __init__(self, text: TextEncoder, settings: ADRecSettings, n_items: int) -> None:
        super().__init__()
        self.text, self.sequence = text, SequenceEncoder(text.width, settings)
        self.adapter = Adapter(text.width) if settings.adapter else None
        s, d = settings, text.width
        self.offsets = Offsets(n_items, d, s.offset_dropout, s.offset_directions) if s.item_offsets else None
        self.fixed: Optional[Tensor] = None  # (n_items, d): the texts' vectors, if the text encoder is not trained

    def forward(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Unit vectors of the B histories, (B, d), and of the n distinct items, (n, d); float32."""
        texts = self.text(batch.texts) if self.fixed is None else self.fixed[batch.items]
        items = self.adapted(texts, batch.items)  # (n, d)
        sequences = self.sequence(items[batch.history], batch.layout)
        return F.normalize(sequences, dim=1), F.normalize(items, dim=1)

    def adapted(self, texts: Tensor, items: Optional[Tensor]) -> Tensor:
        """Ours: item vectors from the vectors of their texts, (n, d) → (n, d); without adapter and offsets the same.

        Args:
            items: (n,) ids; None for items without training data.
        """
        adapted = texts if self.adapter is None else self.adapter(texts)
        return adapted if self.offsets is None or items is None else adapted + self.offsets(items)

    # Full ranking by cosine, in evaluation mode

    @torch.no_grad()
    def encode_texts(self, tokens: Tokens, compute: Compute) -> Tensor:
        """Vectors of texts: (n, d) float32 on the device."""
        self.eval()
        out = torch.empty(len(tokens), self.text.width, device=compute.device)
        for chosen in by_length(tokens.lengths, TEXTS_AT_ONCE):
            with compute.autocast():
                vectors = self.text(tokens.texts(chosen).to(compute.device))
            out[torch.from_numpy(chosen).to(compute.device)] = vectors.float()
        return out

    @torch.no_grad()
    def encode_items(self, tokens: Tokens, compute: Compute, new: bool = False) -> Tensor:
        """Item vectors, not normalised: (n, d) float32 on the device.

        Args:
            tokens: of all items of the data set by id; with ``new``, of other items.
        """
        self.eval()
        texts = self.encode_texts(tokens, compute) if self.fixed is None else self.fixed.clone()
        for ids in torch.arange(len(tokens), device=compute.device).split(ITEMS_AT_ONCE):
            texts[ids] = self.adapted(texts[ids], None if new else ids)
        return texts

    @torch.no_grad()
    def encode_histories(self, items: Tensor, rows: Rows, chosen: np.ndarray) -> Tensor:
        """Unit vectors of the histories of some rows, sorted by their lengths; fp32.

        Args:
            items: (n, d) of `encode_items`.
        """
        history, lengths = rows.histories(chosen)
        layout = Ragged.of(lengths).to(items.device)
        return F.normalize(self.sequence(items[torch.from_numpy(history).to(items.device)], layout), dim=1)

    def scored(
        self, rows: Rows, items: Tensor, processes: Processes = ALONE
    ) -> Iterator[Tuple[np.ndarray, Tensor, Tensor]]:
        """This process's share of some rows, in batches of similar length: places, scores of all items, targets.

        Args:
            items: (n, d) of `encode_items`.
        """
        self.eval()
        unit = F.normalize(items, dim=1)
        size = users_at_once(len(rows), len(items), processes)
        for chosen in list(by_length(rows.stop - rows.start, size))[processes.rank :: processes.size]:
            scores = fp32_product(self.encode_histories(items, rows, chosen), unit)
            yield chosen, scores, torch.from_numpy(rows.targets[chosen]).to(items.device)


class Queue(nn.Module):
    """K unit vectors, first in, first out; buffers, so that checkpoints hold them."""

    vectors: Tensor
    items: Tensor
    pointer: Tensor

    def __init__(self, size: int, d: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(size, d), dim=1))
        self.register_buffer("items", torch.full((size,), NO_ITEM))  # of each key: itself, or its sequence's target
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor, items: Tensor) -> None:
        """Replace the B oldest by keys (B, d); of more than K keys, the last K stay."""
        size = len(self.vectors)
        first = max(0, len(keys) - size)  # of the keys that stay
        places = (self.pointer + torch.arange(first, len(keys), device=keys.device)) % size
        self.vectors[places] = keys[first:].to(self.vectors.dtype)
        self.items[places] = items[first:]
        self.pointer.add_(len(keys)).remainder_(size)


class ADRec(nn.Module):
    """The trained encoders, their momentum copies, the two queues, and the loss.

    Args:
        text: the text encoder, cut to ``vocabulary``.
        vocabulary: of `TextEncoder.keep_tokens`.
        target_counts: (n_items,) training rows by their target.
    """

    shares: Tensor

    def __init__(
        self,
        text: TextEncoder,
        vocabulary: Vocabulary,
        settings: ADRecSettings,
        target_counts: np.ndarray,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.n_rows = int(target_counts.sum())
        self.register_buffer("shares", torch.from_numpy(target_counts / self.n_rows).float(), persistent=False)
        self.query = Encoders(text, settings, len(target_counts))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.item_queue = Queue(settings.queue_size, text.width)
        self.sequence_queue = Queue(settings.queue_size, text.width)
        self.vocabulary, self.settings, self.processes = vocabulary, settings, processes

    def forward(self, batch: Batch) -> Dict[str, Tensor]:
        """The four weighted terms of the loss, scalars; their sum is minimised.

        It also moves the key encoders and the queues one step on.
        """
        s = self.settings
        sequences, items = self.query(batch)  # (B, d), (n, d)
        with torch.no_grad():
            if s.momentum_first:  # A11
                self.momentum_update()
            sequence_keys, keys_of_items = self.key(batch)
            if not s.momentum_first:
                self.momentum_update()
        targets, item_keys = items[batch.targets], keys_of_items[batch.targets]  # (B, d) each

        with torch.autocast(sequences.device.type, enabled=False):  # a cosine in bf16 is off by up to 0.004, times s
            terms = self.contrast(sequences, targets, sequence_keys, item_keys, batch)
            self.enqueue(sequence_keys, item_keys, batch)
            if not s.enqueue_last:  # A6 released: the last two terms have this batch's keys among their negatives
                late = self.contrast(sequences, targets, sequence_keys, item_keys, batch)
                terms = {**terms, "seq_seq": late["seq_seq"], "item_item": late["item_item"]}
        return {
            "seq_item": s.weight_seq_item * terms["seq_item"],
            "item_seq": s.weight_item_seq * terms["item_seq"],
            "seq_seq": s.weight_seq_seq * terms["seq_seq"],
            "item_item": s.weight_item_item * terms["item_item"],
        }

    def train(self, mode: bool = True) -> ADRec:
        """Training mode, in which keys have dropout: they are other views than their queries (A12 released: none)."""
        super().train(mode)
        self.key.train(mode and bool(self.settings.key_dropout))
        return self

    @torch.no_grad()
    def momentum_update(self) -> None:
        """key = m · key + (1 − m) · query."""
        pairs = zip(self.key.parameters(), self.query.parameters())
        keys, queries = map(list, zip(*((key, query) for key, query in pairs if query.requires_grad)))
        torch._foreach_mul_(keys, self.settings.momentum)
        torch._foreach_add_(keys, queries, alpha=1 - self.settings.momentum)

    def contrast(
        self, sequences: Tensor, targets: Tensor, sequence_keys: Tensor, item_keys: Tensor, batch: Batch
    ) -> Dict[str, Tensor]:
        """The four terms with the queues as they are, each a mean over the batch. Vectors: (B, d)."""
        s = self.settings
        queries = torch.cat([sequences, targets])  # (2B, d)
        terms = {}
        for kind, keys in (("seq", sequence_keys), ("item", item_keys)):
            negatives = self.negatives(queries, keys, kind, batch)  # (2, B, K)
            for name, query, cosines in zip(("seq", "item"), (sequences, targets), negatives):
                positive = (query * keys).sum(dim=1)
                terms[f"{name}_{kind}"] = angular_margin_infonce(positive, cosines, s.scale, s.margin).mean()
        return terms

    def negatives(self, queries: Tensor, keys: Tensor, kind: str, batch: Batch) -> Tensor:
        """Cosines of the queries (2B, d) with the negatives of a kind, ``seq`` or ``item``: (2, B, K).

        In the paper these are the K keys of the queue; the conditions are ours.

        Args:
            keys: (B, d) of the batch.
        """
        s = self.settings
        queue, name = (self.item_queue, "items") if kind == "item" else (self.sequence_queue, "sequences")
        own_items = batch.target_items
        if name in s.queues:
            vectors, items = queue.vectors.clone(), queue.items  # queues move before backward
        else:
            vectors, items = keys, own_items
        cosines = (queries @ vectors.T).view(2, len(keys), -1)
        if s.queue_correction == "logq":
            key_shares = self.shares[items] if kind == "item" else self.shares.new_full((), 1 / self.n_rows)
            return refined_logq(cosines, items, own_items, self.shares, key_shares, s.scale)
        if s.queue_correction == "once_per_item" and kind == "item":
            cosines = count_items_once(cosines, items, s.scale)
        if s.mask_same_item or name not in s.queues:
            cosines = cosines.masked_fill(items == own_items[:, None], -torch.inf)
        return cosines

    def enqueue(self, sequence_keys: Tensor, item_keys: Tensor, batch: Batch) -> None:
        """Put the keys of all processes into the queues."""
        parts = [self.processes.gather_rows(rows) for rows in (batch.target_items, sequence_keys, item_keys)]
        if batch.same_in_all_processes:  # keep the first process's keys
            parts = [rows[: len(batch)] for rows in parts]
        items, sequence_keys, item_keys = parts
        self.sequence_queue.push(sequence_keys, items)
        self.item_queue.push(item_keys, items)

    def compute_constants(self, tokens: Tokens, compute: Compute) -> None:
        """Ours: compute once what training does not change: frozen layers, untrained text vectors, whitening.

        Args:
            tokens: of all items, by id.
        """
        s, sides, text = self.settings, (self.query, self.key), self.query.text
        if s.frozen_text_layers and tokens.padded_to is None and len(tokens.ids) * text.width <= REMEMBERED:
            out = torch.empty(len(tokens.ids), text.width, device=compute.device)
            for items in by_length(tokens.lengths, TEXTS_AT_ONCE):
                texts = tokens.texts(items).to(compute.device)
                with compute.autocast():
                    out[texts.places] = text.frozen_part(texts).to(out)
            for side in sides:
                side.text.remembered = out
        if s.adapter or not s.train_text:
            vectors = self.query.encode_texts(tokens, compute)
            for side in sides:
                if side.adapter is not None:
                    directions = side.adapter.fit(vectors)
                    if side.offsets is not None:
                        side.offsets.directions.copy_(directions[: len(side.offsets.directions)])
                if not s.train_text:
                    side.fixed = vectors
                    side.text.requires_grad_(False)

    # What the training loop asks for

    @property
    def ranking_side(self) -> Encoders:
        """The encoders that rank."""
        return self.key if self.settings.rank_by == "key" else self.query

    def rank(self, split: Split, compute: Compute, processes: Processes) -> np.ndarray:
        """The target's rank for each row of a split: (N,) float64."""
        items = self.ranking_side.encode_items(split.tokens, compute)
        batches = self.ranking_side.scored(split.rows, items, processes)
        ranks, _, _ = rank_batches(batches, len(split.rows), processes)
        return ranks

    def weights_to_continue(self) -> Dict[str, Tensor]:
        """Both sides and the queues."""
        return dict(self.state_dict())

    def weights_to_use(self) -> Dict[str, Tensor]:
        """The side that ranks, with BERT's whole embedding table."""
        weights = dict(self.ranking_side.state_dict())
        return {**weights, TABLE: self.vocabulary.whole(weights[TABLE])}


def ranking_of(encoders: Encoders, items: Tensor, rows: Rows, users: np.ndarray) -> Ranking:
    """A test: ranks with the history unmasked and masked, and the best items.

    Args:
        items: (n, d) of `Encoders.encode_items`.
        users: (N,) ids.
    """

    def history(chosen: np.ndarray) -> List[Tensor]:
        inside, lengths = rows.histories(chosen)
        return [torch.from_numpy(index) for index in (np.repeat(np.arange(len(chosen)), lengths), inside)]

    batches, top = encoders.scored(rows, items), min(TOP, len(items))
    ranks, masked, best = rank_batches(batches, len(rows), ALONE, history, top)
    return Ranking(users, rows.targets, ranks, masked, best)
