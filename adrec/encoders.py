"""The text encoder (texts → item vectors) and the sequence encoder (item vectors of a history → its vector).

Texts and histories of different lengths are end to end in one flat tensor (`Ragged`), so that no padding is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.settings import ADRecSettings
from common.arrays import ranges
from common.dropout import Dropout, dropout
from common.errors import UserError

if TYPE_CHECKING:
    from transformers import BertModel
    from transformers.models.bert.modeling_bert import BertLayer

    from adrec.data import Tokens

STEP = 8  # sequences whose lengths are in the same step of eight are padded together for attention


class OnDevice:
    """A dataclass whose tensors move together."""

    def to(self: Any, device: torch.device) -> Any:
        """The same on a device."""
        return replace(self, **{f.name: moved(getattr(self, f.name), device) for f in fields(self)})


def moved(value: Any, device: torch.device) -> Any:
    """A field of an `OnDevice` on a device."""
    if isinstance(value, list):
        return [moved(one, device) for one in value]
    return value.to(device) if isinstance(value, (Tensor, OnDevice)) else value


@dataclass
class Group(OnDevice):
    """G neighbouring sequences of similar length, padded to L positions for attention."""

    start: int  # of their positions in the flat tensor
    stop: int
    places: Tensor  # (G, L) place of each position in the group's part of the flat tensor; padding has place 0
    real: Tensor  # (G, L) bool, not padding
    keys: Tensor  # (G, 1, 1, L) bool, positions that may be attended to


@dataclass
class Ragged(OnDevice):
    """The layout of S sequences in a flat tensor of T positions.

    Dense layers run on the flat tensor. Attention alone pads, within groups of similar length.
    """

    lengths: Tensor  # (S,)
    segments: Tensor  # (T,) the sequence of each position
    positions: Tensor  # (T,) its place in the sequence
    last: Tensor  # (S,) the position of each sequence's end
    groups: List[Group]

    @classmethod
    def of(cls, lengths: np.ndarray, key_lengths: Optional[np.ndarray] = None) -> Ragged:
        """The layout of sequences.

        Args:
            lengths: (S,), ascending or descending.
            key_lengths: (S,), positions beyond them are never attended to; default: ``lengths``.
        """
        key_lengths = lengths if key_lengths is None else key_lengths
        ends = np.cumsum(lengths)
        starts = ends - lengths
        cuts = [0, *(np.flatnonzero(np.diff((lengths - 1) // STEP)) + 1).tolist(), len(lengths)]
        groups = []
        for first, beyond in zip(cuts[:-1], cuts[1:]):
            columns = np.arange(int(lengths[first:beyond].max()))[None]
            real = columns < lengths[first:beyond, None]
            places = np.where(real, starts[first:beyond, None] - starts[first] + columns, 0)
            keys = columns < key_lengths[first:beyond, None]
            tensors = map(torch.from_numpy, (places, real, keys[:, None, None]))
            groups.append(Group(int(starts[first]), int(ends[beyond - 1]), *tensors))
        segments = np.repeat(np.arange(len(lengths)), lengths)
        positions = ranges(np.zeros_like(lengths), lengths)
        tensor = torch.from_numpy
        return cls(tensor(lengths), tensor(segments), tensor(positions), tensor(ends - 1), groups)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, p: float) -> Tensor:
        """Bidirectional attention inside each sequence; query, key, value (T, d) → (T, d).

        Args:
            p: dropout on the attention weights; 0 in evaluation.
        """
        out = [_attend(group, query, key, value, heads, p) for group in self.groups]
        return torch.cat(out) if len(out) > 1 else out[0]

    def mean(self, x: Tensor, counts: Optional[Tensor] = None) -> Tensor:
        """(T, d) → (S, d): the sum over each sequence divided by its length, or by ``counts`` (S,)."""
        sums = x.new_zeros(len(self.lengths), x.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, self.segments, x.float())
        return sums / (self.lengths if counts is None else counts)[:, None]


def _attend(group: Group, query: Tensor, key: Tensor, value: Tensor, heads: int, p: float) -> Tensor:
    n, length = group.places.shape

    def padded(flat: Tensor) -> Tensor:  # (T, d) → (G, heads, L, d/heads)
        rows = flat[group.start : group.stop].index_select(0, group.places.flatten())
        return rows.view(n, length, heads, -1).transpose(1, 2)

    q, k, v = padded(query), padded(key), padded(value)
    if q.device.type == "cpu":  # torch's kernel is slow here: for short sequences, and with dropout
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~group.keys, -torch.inf).softmax(dim=-1)
        mixed = dropout(weights, p, p > 0).to(v.dtype) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=group.keys, dropout_p=p)
    return mixed.transpose(1, 2).reshape(n * length, -1)[group.real.flatten()]


# --- texts ---


@dataclass
class Texts(OnDevice):
    """The tokens of n texts, end to end."""

    tokens: Tensor  # (T,) rows of the embedding table
    layout: Ragged
    counts: Tensor  # (n,) real tokens; fewer than the layout's lengths where padding is run too (A2 released)
    places: Tensor  # (T,) of the tokens among those of all items; empty where padding is run too


@dataclass
class Vocabulary:
    """The rows of BERT's embedding table that a catalogue uses, and the whole table."""

    rows: Tensor  # (V',)
    table: Tensor  # (V, d)

    def whole(self, kept: Tensor) -> Tensor:
        """The whole table (V, d) with the trained rows (V', d) in their places."""
        table = self.table.clone()
        table[self.rows] = kept.detach().to(table)
        return table


class TextEncoder(nn.Module):
    """Texts → vectors: the mean over real tokens of the hidden states of layer ``plm_layer``.

    Args:
        bert: BERT; layers above ``plm_layer`` (A1) and the pooler are dropped.
        plm_layer: 1 is the first layer.
        frozen: ours: the embeddings and this many layers are not trained, and run without dropout; 0 trains all.

    Raises:
        UserError: BERT has fewer layers, or no layer is left to train.
    """

    def __init__(self, bert: BertModel, plm_layer: int, frozen: int = 0) -> None:
        super().__init__()
        n_layers = len(bert.encoder.layer)
        if plm_layer > n_layers:
            raise UserError(f"plm_layer={plm_layer}: the text encoder has {n_layers} layers; use at most that")
        if frozen >= plm_layer:
            fix = f"use at most {plm_layer - 1}, or train_text=false to train none"
            raise UserError(f"frozen_text_layers={frozen}: no layer of plm_layer={plm_layer} is left to train; {fix}")
        self.embeddings, self.layers = bert.embeddings, bert.encoder.layer[:plm_layer]
        self.heads = bert.config.num_attention_heads
        self.p, self.attention_p = bert.config.hidden_dropout_prob, bert.config.attention_probs_dropout_prob
        self.frozen = frozen
        self.remembered = torch.empty(0)  # (tokens of all items, d): the outputs of the frozen layers
        if frozen:
            self.embeddings.requires_grad_(False)
            self.layers[:frozen].requires_grad_(False)

    @property
    def width(self) -> int:
        """d of the vectors."""
        return int(self.embeddings.word_embeddings.embedding_dim)

    def keep_tokens(self, tokens: Tokens) -> Tuple[Vocabulary, Tokens]:
        """Keep only the rows of the embedding table that these texts use. Returns the rows, and the renumbered tokens.

        The other rows get no gradient, and Adam without weight decay does not change them: training without them gives
        the same, faster.
        """
        used = tokens.vocabulary()
        whole = self.embeddings.word_embeddings
        table, rows = whole.weight.detach(), torch.from_numpy(used)
        kept_padding = np.flatnonzero(used == whole.padding_idx)  # BERT's [PAD] is never trained
        padding = int(kept_padding[0]) if len(kept_padding) else None
        kept = nn.Embedding.from_pretrained(table[rows], freeze=self.frozen > 0, padding_idx=padding)
        self.embeddings.word_embeddings = kept
        return Vocabulary(rows, table), tokens.renumbered(used)

    def forward(self, texts: Texts) -> Tensor:
        """n texts → (n, d) float32."""
        if len(self.remembered):
            x = self.remembered[texts.places]
        elif self.frozen:
            x = self.frozen_part(texts)
        else:
            x = self._embed(texts, self.training)
        for layer in self.layers[self.frozen :]:
            x = self._layer(layer, x, texts.layout, self.training)
        return texts.layout.mean(x, texts.counts)

    @torch.no_grad()
    def frozen_part(self, texts: Texts) -> Tensor:
        """The tokens' hidden states after the frozen layers, (T, d)."""
        x = self._embed(texts, False)
        for layer in self.layers[: self.frozen]:
            x = self._layer(layer, x, texts.layout, False)
        return x

    def _embed(self, texts: Texts, training: bool) -> Tensor:
        e = self.embeddings
        x = e.word_embeddings(texts.tokens) + e.token_type_embeddings.weight[0]
        return dropout(e.LayerNorm(x + e.position_embeddings(texts.layout.positions)), self.p, training)

    def _layer(self, layer: BertLayer, x: Tensor, layout: Ragged, training: bool) -> Tensor:
        """One of BERT's post-norm layers, (T, d) → (T, d)."""
        own, out = layer.attention.self, layer.attention.output
        mixed = layout.attention(own.query(x), own.key(x), own.value(x), self.heads, self.attention_p * training)
        x = out.LayerNorm(dropout(out.dense(mixed), self.p, training) + x)
        result: Tensor = layer.output.dense(layer.intermediate(x))
        return layer.output.LayerNorm(dropout(result, self.p, training) + x)


# --- histories ---


class PreNormLayer(nn.Module):
    """x + Attention(LayerNorm(x)), then x + FeedForward(LayerNorm(x)), each with dropout before it is added."""

    def __init__(self, d: int, heads: int, inner: int, eps: float, p: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(p)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.dense_1, self.dense_2 = nn.Linear(d, inner), nn.Linear(inner, d)

    def forward(self, x: Tensor, layout: Ragged) -> Tensor:
        """(T, d) → (T, d)."""
        normed = self.attention_norm(x)
        mixed = layout.attention(self.query(normed), self.key(normed), self.value(normed), self.heads, 0.0)
        x = x + self.dropout(self.out(mixed))
        return x + self.dropout(self.dense_2(F.gelu(self.dense_1(self.feed_forward_norm(x)))))


class SequenceEncoder(nn.Module):
    """Item vectors of a history → its vector: pre-norm Transformer layers, bidirectional, without positions.

    Initial weights (A7): N(0, 0.02), biases 0, LayerNorm 1 and 0; with ``plain_init=false``, as released, every weight
    and bias of every layer, LayerNorm's too, from U(−1/√d, 1/√d).

    Args:
        d: width of the item vectors.
    """

    def __init__(self, d: int, settings: ADRecSettings) -> None:
        super().__init__()
        s = settings
        if d % s.n_heads:
            raise UserError(f"n_heads={s.n_heads}: the text encoder's width {d} is not a multiple of it; use another")
        self.layers = nn.ModuleList(
            PreNormLayer(d, s.n_heads, s.inner_size, s.layer_norm_eps, s.sequence_dropout) for _ in range(s.n_layers)
        )
        self.dropout = Dropout(s.sequence_dropout)
        self.positions = nn.Embedding(s.max_seq_length, d) if s.positions else None
        self.add_mean = s.add_mean
        for name, parameter in self.named_parameters():
            if not s.plain_init:
                nn.init.uniform_(parameter, -(d**-0.5), d**-0.5)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.zeros_(parameter)
        self.history_map = identity(d) if s.history_map else None

    def forward(self, items: Tensor, layout: Ragged) -> Tensor:
        """(output at the last position + mean of the item vectors) / 2.

        Args:
            items: (T, d) the histories' item vectors, end to end.

        Returns:
            (S, d) float32.
        """
        if self.history_map is not None:
            items = self.history_map(items)
        x = items if self.positions is None else items + self.positions_from_the_end(layout)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, layout)
        last = x[layout.last].float()
        return (last + layout.mean(items)) / 2 if self.add_mean else last

    def positions_from_the_end(self, layout: Ragged) -> Tensor:
        """Ours: learned positions, counted from the end: (T, d)."""
        assert self.positions is not None
        vectors: Tensor = self.positions(layout.lengths[layout.segments] - 1 - layout.positions)
        return vectors


def identity(d: int) -> nn.Linear:
    """A linear layer that starts as the identity."""
    linear = nn.Linear(d, d)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
