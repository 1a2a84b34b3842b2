"""ADRec: bidirectional alignment of sequences and items, decoupled contrast, two momentum queues.

The whole method; `ADRec.forward` follows the paper's order. Switches A1 … A9: docs/deviations.md.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.item_vectors import Adapter, Offsets
from adrec.losses import alignment, angular_margin_infonce, log_counts, uniformity
from adrec.ragged import Ragged
from adrec.sequence_encoder import SequenceEncoder
from adrec.text_encoder import TextEncoder, Texts
from common.device import fp32_product

TERMS = ("seq_item", "item_seq", "seq_seq", "item_item")
SUPERVISED = ("seq_item", "item_seq")
NO_ITEM = -1  # what a random vector of a fresh queue stands for


@dataclass
class Batch:
    """B rows: histories and the item that comes next. Each of the n distinct items is encoded once (A4)."""

    texts: Callable[[], Texts]  # of the n distinct items; not called where their vectors are fixed
    items: Tensor  # (n,) their ids
    history: Tensor  # (T,) place among the distinct items, histories end to end
    layout: Ragged  # of the histories
    targets: Tensor  # (B,) place among the distinct items

    def __len__(self) -> int:
        return len(self.targets)


class Encoders(nn.Module):
    """Text encoder and sequence encoder: the query side, and in a second copy the key side."""

    def __init__(
        self,
        text: TextEncoder,
        sequence: SequenceEncoder,
        adapter: Optional[Adapter] = None,
        offsets: Optional[Offsets] = None,
    ) -> None:
        super().__init__()
        self.text, self.sequence, self.adapter, self.offsets = text, sequence, adapter, offsets
        self.fixed: Optional[Tensor] = None

    def fix_items(self, vectors: Tensor) -> None:
        """Take all items' vectors (n_items, d) as they are, and train the text encoder no more."""
        self.fixed = vectors
        self.text.requires_grad_(False)

    def adapted(self, vectors: Tensor, items: Optional[Tensor]) -> Tensor:
        """The text encoder's vectors as the sequence encoder and the ranking take them: (n, d) → (n, d).

        Args:
            items: (n,) their ids; None of items that were in no training data.
        """
        adapted = vectors if self.adapter is None else self.adapter(vectors)
        return adapted if self.offsets is None or items is None else adapted + self.offsets(items)

    def forward(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Unit vectors of the B histories, (B, d), and of the n distinct items, (n, d); float32."""
        texts = self.text(batch.texts()) if self.fixed is None else self.fixed[batch.items]
        items = self.adapted(texts, batch.items)  # (n, d)
        sequences = self.sequence(items[batch.history], batch.layout)
        return F.normalize(sequences, dim=1), F.normalize(items, dim=1)


def make_encoders(text: TextEncoder, settings: Any, n_items: int) -> Encoders:
    """A text encoder, and for a catalogue of n_items a fresh sequence encoder of its width."""
    sequence = SequenceEncoder(
        text.width,
        settings.n_layers,
        settings.n_heads,
        settings.inner_size,
        settings.layer_norm_eps,
        settings.plain_init,
        settings.sequence_dropout,
        settings.max_seq_length if settings.positions else 0,
        settings.history_map,
        settings.add_mean,
    )
    adapter = Adapter(text.width) if settings.adapter else None
    offsets = Offsets(n_items, text.width, settings.offset_dropout) if settings.item_offsets else None
    return Encoders(text, sequence, adapter, offsets)


class Queue(nn.Module):
    """K unit vectors, first in, first out; a buffer, so that checkpoints hold it."""

    vectors: Tensor
    items: Tensor
    pointer: Tensor

    def __init__(self, size: int, d: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(size, d), dim=1))
        self.register_buffer("items", torch.full((size,), NO_ITEM))  # the item that each stands for or leads to
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor, items: Tensor) -> None:
        """Put keys (B, d) in the place of the B oldest; of more than K, the last K stay."""
        size = len(self.vectors)
        start = int(self.pointer)
        kept = torch.arange(max(0, len(keys) - size), len(keys), device=keys.device)
        places = (start + kept) % size
        self.vectors[places] = keys[kept].to(self.vectors.dtype)
        self.items[places] = items[kept]
        self.pointer.fill_((start + len(keys)) % size)


class ADRec(nn.Module):
    """The trained encoders, their momentum copies, the two queues, and the loss.

    Args:
        settings: ADRecSettings with its switches resolved.
        gather: rows of all processes, put together in the order of the processes.
    """

    def __init__(
        self, text: TextEncoder, settings: Any, n_items: int, gather: Callable[[Tensor], Tensor] = lambda rows: rows
    ) -> None:
        super().__init__()
        self.query = make_encoders(text, settings, n_items)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.item_queue = Queue(settings.queue_size, text.width)
        self.sequence_queue = Queue(settings.queue_size, text.width)
        self.settings, self.gather = settings, gather
        self.same_rows = False  # whether all processes have the same rows, for there are fewer rows than processes

    def take_vectors(self, vectors: Tensor, fixed: bool) -> None:
        """Fit the adapters to the catalogue's vectors (n_items, d); ``fixed``: keep these, train no text encoder."""
        for side in (self.query, self.key):
            if side.adapter is not None:
                side.adapter.fit(vectors)
            if fixed:
                side.fix_items(vectors)

    @property
    def ranking_side(self) -> Encoders:
        """The encoders that validation, testing and recommending use."""
        return self.key if self.settings.rank_by == "key" else self.query

    @torch.no_grad()
    def momentum_update(self) -> None:
        """key = m · key + (1 − m) · query."""
        pairs = zip(self.key.parameters(), self.query.parameters())
        keys, queries = map(list, zip(*((key, query) for key, query in pairs if query.requires_grad)))
        torch._foreach_mul_(keys, self.settings.momentum)
        torch._foreach_add_(keys, queries, alpha=1 - self.settings.momentum)

    def forward(self, batch: Batch, log_similarities: bool = False) -> Tuple[Tensor, Dict[str, Tensor]]:
        """The loss of a batch, and what is logged: each term and, if asked for, similarities.

        Moves the key encoders and the queues on by one step, too.
        """
        s = self.settings
        sequences, items = self.query(batch)  # (B, d), (n, d)
        with torch.no_grad():
            self.momentum_update()
            sequence_keys, keys_of_items = self.key(batch)  # dropout on: a key is another view than its query
        targets, item_keys = items[batch.targets], keys_of_items[batch.targets]  # (B, d) each
        target_ids = batch.items[batch.targets]  # (B,)

        with torch.autocast(sequences.device.type, enabled=False):  # a cosine in bf16 is off by up to 0.004, times s
            own = None
            if s.history_weight:  # a negative with e^{s cos θ} taken w times has the cosine cos θ + log(w) / s
                own = self._own_history(sequences, keys_of_items, batch) + math.log(s.history_weight) / s.scale
            first = self._terms(sequences, targets, sequence_keys, item_keys, target_ids, own)
            second = first
            if not s.enqueue_last:  # A6 released: the positives stand among the negatives of the next two terms
                self._enqueue(sequence_keys, item_keys, target_ids)
                second = self._terms(sequences, targets, sequence_keys, item_keys, target_ids, own)
        terms = {name: (first if name in SUPERVISED else second)[name] for name in TERMS}
        loss = s.weight_seq_item * terms["seq_item"] + s.weight_item_seq * terms["item_seq"]
        loss = loss + s.weight_seq_seq * terms["seq_seq"] + s.weight_item_item * terms["item_item"]
        logged = dict(terms)
        if log_similarities:
            logged.update(self._similarities(sequences, targets, item_keys))
        if s.enqueue_last:
            self._enqueue(sequence_keys, item_keys, target_ids)
        return loss, {name: value.detach() for name, value in logged.items()}

    @staticmethod
    def _own_history(sequences: Tensor, keys_of_items: Tensor, batch: Batch) -> Tensor:
        """Cosines of each sequence with the keys of its own history's items, without its target: (B, L), else −∞."""
        layout = batch.layout
        cosines = (sequences[layout.segments] * keys_of_items[batch.history]).sum(dim=1)  # (T,)
        again = batch.history == batch.targets[layout.segments]
        own = cosines.new_full((len(batch), int(layout.lengths.max())), -torch.inf)
        return own.index_put((layout.segments, layout.positions), cosines.masked_fill(again, -torch.inf))

    def _terms(
        self,
        sequences: Tensor,
        items: Tensor,
        sequence_keys: Tensor,
        item_keys: Tensor,
        target_ids: Tensor,
        own_history: Optional[Tensor],
    ) -> Dict[str, Tensor]:
        """The four terms with the queues as they are, each a mean over the batch.

        Args:
            own_history: (B, L) further negatives' cosines of the term sequence → item.
        """
        s = self.settings
        queries = torch.cat([sequences, items])  # (2B, d)
        found = {}
        for kind, plural, keys, queue in (
            ("seq", "sequences", sequence_keys, self.sequence_queue),
            ("item", "items", item_keys, self.item_queue),
        ):
            size = s.queue_size if plural in s.queues else 0
            of_items = queue.items[:size]
            negatives = queue.vectors[:size].clone()  # the queue moves on before backward
            in_batch = s.in_batch_negatives or not size
            if in_batch:
                negatives, of_items = torch.cat([negatives, keys]), torch.cat([of_items, target_ids])
            left_out = None  # (B, K)
            if s.mask_same_item or in_batch:
                left_out = of_items == target_ids[:, None]
                if not s.mask_same_item:  # in the batch alone: a row's own key, and those of the same item
                    left_out[:, :size] = False
            to_negatives = queries @ negatives.T  # (2B, K)
            if s.once_per_item and kind == "item":
                to_negatives = to_negatives - log_counts(of_items) / s.scale
            for name, query, others in zip(("seq", "item"), (sequences, items), to_negatives.split(len(keys))):
                positive = (query * keys).sum(dim=1)
                negative = others if left_out is None else others.masked_fill(left_out, -torch.inf)
                if own_history is not None and (name, kind) == ("seq", "item"):
                    negative = torch.cat([negative, own_history], dim=1)
                found[f"{name}_{kind}"] = angular_margin_infonce(positive, negative, s.scale, s.margin).mean()
        return found

    def _enqueue(self, sequence_keys: Tensor, item_keys: Tensor, target_ids: Tensor) -> None:
        gathered = [self.gather(rows) for rows in (target_ids, sequence_keys, item_keys)]
        if self.same_rows:  # each process has them all: those of the first count
            gathered = [rows[: len(target_ids)] for rows in gathered]
        self.sequence_queue.push(gathered[1], gathered[0])
        self.item_queue.push(gathered[2], gathered[0])

    @torch.no_grad()
    def _similarities(self, sequences: Tensor, items: Tensor, item_keys: Tensor) -> Dict[str, Tensor]:
        """How close positives and the item queue are to the sequences, alignment and uniformity."""
        to_queue = fp32_product(sequences, self.item_queue.vectors)  # (B, K)
        found = {
            "positive_cosine": (sequences * item_keys).sum(dim=1).mean(),
            "queue_cosine_mean": to_queue.mean(),
            "queue_cosine_max": to_queue.max(dim=1).values.mean(),
            "alignment": alignment(sequences, items),
        }
        if len(items) > 1:
            found["uniformity_items"], found["uniformity_sequences"] = uniformity(items), uniformity(sequences)
        return found
