"""The text encoder: a BERT cut to its first ``plm_layer`` layers (A1), run on real tokens alone (A3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel

from adrec.ragged import Ragged
from common.dropout import dropout
from common.errors import UserError


@dataclass
class Texts:
    """The tokens of n texts, end to end."""

    tokens: Tensor  # (T,) rows of the embedding table
    layout: Ragged
    counts: Tensor  # (n,) real tokens; fewer than the layout's lengths where padding is run too (A2 released)


@dataclass
class Vocabulary:
    """The rows of BERT's embedding table that are trained, and the whole table."""

    rows: Tensor  # (V',)
    table: Tensor  # (V, d)

    def whole(self, kept: Tensor) -> Tensor:
        """The whole table with the trained rows (V', d) in their places."""
        table = self.table.clone()
        table[self.rows] = kept.detach().to(table)
        return table


class TextEncoder(nn.Module):
    """Texts → vectors: the mean over real tokens of the hidden states of layer ``plm_layer``.

    Args:
        bert: BERT; the layers above ``plm_layer`` and the pooler are dropped.
        plm_layer: 1 is the first layer.

    Raises:
        UserError: BERT has fewer layers.
    """

    def __init__(self, bert: BertModel, plm_layer: int) -> None:
        super().__init__()
        n_layers = len(bert.encoder.layer)
        if plm_layer > n_layers:
            raise UserError(f"plm_layer={plm_layer}: the text encoder has {n_layers} layers")
        self.embeddings, self.layers = bert.embeddings, bert.encoder.layer[:plm_layer]
        self.heads = bert.config.num_attention_heads
        self.p, self.attention_p = bert.config.hidden_dropout_prob, bert.config.attention_probs_dropout_prob

    @property
    def width(self) -> int:
        """d of the vectors."""
        return int(self.embeddings.word_embeddings.embedding_dim)

    def keep_tokens(self, tokens: np.ndarray) -> Vocabulary:
        """Keep these rows of the embedding table alone, renumbered 0, 1, …; the table as it was is returned.

        Rows of tokens that no text holds get no gradient, and Adam without weight decay leaves such
        rows as they are: training without them is the same, and cheaper.
        """
        whole = self.embeddings.word_embeddings
        table, rows = whole.weight.detach(), torch.from_numpy(tokens)
        kept_padding = np.flatnonzero(tokens == whole.padding_idx)  # BERT's [PAD] is never trained
        padding = int(kept_padding[0]) if len(kept_padding) else None
        self.embeddings.word_embeddings = nn.Embedding.from_pretrained(table[rows], freeze=False, padding_idx=padding)
        return Vocabulary(rows, table)

    def forward(self, texts: Texts) -> Tensor:
        """n texts → (n, d) float32."""
        x = self._embed(texts)
        for layer in self.layers:
            x = self._layer(layer, x, texts.layout)
        return texts.layout.mean(x, texts.counts)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

    def _embed(self, texts: Texts) -> Tensor:
        e = self.embeddings
        x = e.word_embeddings(texts.tokens) + e.token_type_embeddings.weight[0]
        return self._drop(e.LayerNorm(x + e.position_embeddings(texts.layout.positions)))

    def _layer(self, layer: Any, x: Tensor, layout: Ragged) -> Tensor:
        """One of BERT's post-norm layers, (T, d) → (T, d)."""
        own, out = layer.attention.self, layer.attention.output
        p = self.attention_p if self.training else 0.0
        mixed = layout.attention(own.query(x), own.key(x), own.value(x), self.heads, p)
        x = out.LayerNorm(self._drop(out.dense(mixed)) + x)
        return layer.output.LayerNorm(self._drop(layer.output.dense(layer.intermediate(x))) + x)
