"""ADRec: bidirectional alignment of sequences and items, decoupled contrast, two momentum queues.

The whole method; `ADRec.forward` follows the paper's order. Switches A1 … A9: docs/deviations.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.losses import alignment, angular_margin_infonce, uniformity
from adrec.ragged import Ragged
from adrec.sequence_encoder import SequenceEncoder
from adrec.text_encoder import TextEncoder, Texts
from common.device import fp32_product

TERMS = ("seq_item", "item_seq", "seq_seq", "item_item")
NO_ITEM = -1  # what a random vector of a fresh queue stands for


@dataclass
class Batch:
    """B rows: histories and the item that comes next. Each of the n distinct items is encoded once (A4)."""

    texts: Texts  # of the n distinct items
    items: Tensor  # (n,) their ids
    history: Tensor  # (T,) place among the distinct items, histories end to end
    layout: Ragged  # of the histories
    targets: Tensor  # (B,) place among the distinct items

    def __len__(self) -> int:
        return len(self.targets)


class Encoders(nn.Module):
    """Text encoder and sequence encoder: the query side, and in a second copy the key side."""

    def __init__(self, text: TextEncoder, sequence: SequenceEncoder) -> None:
        super().__init__()
        self.text, self.sequence = text, sequence

    def forward(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Unit vectors of the B histories and of the B targets, both (B, d) float32."""
        items = self.text(batch.texts)  # (n, d)
        sequences = self.sequence(items[batch.history], batch.layout)
        return F.normalize(sequences, dim=1), F.normalize(items[batch.targets], dim=1)


def make_encoders(text: TextEncoder, settings: Any) -> Encoders:
    """A text encoder and a fresh sequence encoder of its width."""
    sequence = SequenceEncoder(
        text.width,
        settings.n_layers,
        settings.n_heads,
        settings.inner_size,
        settings.layer_norm_eps,
        settings.plain_init,
        settings.max_seq_length if settings.positions else 0,
    )
    return Encoders(text, sequence)


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
        self, text: TextEncoder, settings: Any, gather: Callable[[Tensor], Tensor] = lambda rows: rows
    ) -> None:
        super().__init__()
        self.query = make_encoders(text, settings)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.item_queue = Queue(settings.queue_size, text.width)
        self.sequence_queue = Queue(settings.queue_size, text.width)
        self.settings, self.gather = settings, gather

    @torch.no_grad()
    def momentum_update(self) -> None:
        """key = m · key + (1 − m) · query."""
        keys: List[Tensor] = list(self.key.parameters())
        queries: List[Tensor] = list(self.query.parameters())
        torch._foreach_mul_(keys, self.settings.momentum)
        torch._foreach_add_(keys, queries, alpha=1 - self.settings.momentum)

    def forward(self, batch: Batch) -> Tuple[Tensor, Dict[str, Tensor]]:
        """The loss of a batch, and what is logged: each term, similarities, alignment, uniformity.

        Moves the key encoders and the queues on by one step, too.
        """
        s = self.settings
        sequences, items = self.query(batch)  # (B, d) each
        with torch.no_grad():
            self.momentum_update()
            sequence_keys, item_keys = self.key(batch)  # dropout on: a key is another view than its query
        target_ids = batch.items[batch.targets]  # (B,)

        terms = {
            "seq_item": self._contrast(sequences, item_keys, self.item_queue, target_ids),
            "item_seq": self._contrast(items, sequence_keys, self.sequence_queue, target_ids),
        }
        if not s.enqueue_last:  # A6 released: the positives stand among the negatives of the next two terms
            self._enqueue(sequence_keys, item_keys, target_ids)
        terms["seq_seq"] = self._contrast(sequences, sequence_keys, self.sequence_queue, target_ids)
        terms["item_item"] = self._contrast(items, item_keys, self.item_queue, target_ids)
        loss = sum(getattr(s, f"weight_{name}") * term for name, term in terms.items())
        logged = {**terms, **self._similarities(sequences, items, item_keys)}
        if s.enqueue_last:
            self._enqueue(sequence_keys, item_keys, target_ids)
        assert isinstance(loss, Tensor)
        return loss, {name: value.detach() for name, value in logged.items()}

    def _contrast(self, query: Tensor, positive: Tensor, queue: Queue, target_ids: Tensor) -> Tensor:
        """Mean over the batch of one term."""
        s = self.settings
        with torch.autocast(query.device.type, enabled=False):
            negatives = queue.vectors.clone()  # the queue moves on before the gradient is computed
            left_out = queue.items == target_ids[:, None] if s.mask_same_item else None  # (B, K)
            if s.in_batch_negatives:
                negatives = torch.cat([negatives, positive])
                left_out = self._left_out_of_batch(left_out, target_ids, len(queue.vectors))
            return angular_margin_infonce(query, positive, negatives, s.scale, s.margin, left_out).mean()

    def _left_out_of_batch(self, left_out: Optional[Tensor], target_ids: Tensor, size: int) -> Tensor:
        """Of the batch's keys, a row's own, and those of the same item, are none of its negatives: (B, K + B)."""
        same = target_ids[:, None] == target_ids[None]  # (B, B)
        if left_out is None:
            left_out = torch.zeros(len(target_ids), size, dtype=torch.bool, device=same.device)
        return torch.cat([left_out, same], dim=1)

    def _enqueue(self, sequence_keys: Tensor, item_keys: Tensor, target_ids: Tensor) -> None:
        ids = self.gather(target_ids)
        self.sequence_queue.push(self.gather(sequence_keys), ids)
        self.item_queue.push(self.gather(item_keys), ids)

    @torch.no_grad()
    def _similarities(self, sequences: Tensor, items: Tensor, item_keys: Tensor) -> Dict[str, Tensor]:
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
