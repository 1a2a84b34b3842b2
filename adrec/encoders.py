"""The text encoder (texts → item vectors) and the sequence encoder (item vectors of a history → its vector)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adrec.data import Texts, Tokens
from adrec.ragged import Ragged
from adrec.settings import ADRecSettings
from common.dropout import Dropout, dropout
from common.errors import UserError

if TYPE_CHECKING:
    from transformers import BertModel
    from transformers.models.bert.modeling_bert import BertLayer


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

    def __init__(self, d: int, heads: int, inner: int, eps: float, p: float, activation: str) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(p)
        self.activation: Callable[[Tensor], Tensor] = F.gelu if activation == "gelu" else F.relu  # A10
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.dense_1, self.dense_2 = nn.Linear(d, inner), nn.Linear(inner, d)

    def forward(self, x: Tensor, layout: Ragged) -> Tensor:
        """(T, d) → (T, d)."""
        normed = self.attention_norm(x)
        mixed = layout.attention(self.query(normed), self.key(normed), self.value(normed), self.heads, 0.0)
        x = x + self.dropout(self.out(mixed))
        return x + self.dropout(self.dense_2(self.activation(self.dense_1(self.feed_forward_norm(x)))))


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
            PreNormLayer(d, s.n_heads, s.inner_size, s.layer_norm_eps, s.sequence_dropout, str(s.sequence_act))
            for _ in range(s.n_layers)
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
        x = items
        if self.positions is not None:  # ours: learned, counted from the end
            x = x + self.positions(layout.lengths[layout.segments] - 1 - layout.positions)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, layout)
        last = x[layout.last].float()
        return (last + layout.mean(items)) / 2 if self.add_mean else last


def identity(d: int) -> nn.Linear:
    """A linear layer that starts as the identity."""
    linear = nn.Linear(d, d)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
