"""The text encoder: a BERT cut to its first ``plm_layer`` layers (A1), run on real tokens alone (A3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from adrec.ragged import Ragged
from common.dropout import dropout
from common.errors import UserError


@dataclass
class Texts:
    """The tokens of n texts, end to end."""

    tokens: Tensor  # (T,) rows of the embedding table
    layout: Ragged
    counts: Tensor  # (n,) real tokens; fewer than the layout's lengths where padding is run too (A2 released)
    places: Optional[Tensor] = None  # (T,) on the CPU, of the tokens among all items'; None where padding is run too


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
        frozen: ours: the embeddings and so many layers stay as they are, and run without dropout; 0 trains all.

    Raises:
        UserError: BERT has fewer layers, or none would be left to train.
    """

    def __init__(self, bert: transformers.BertModel, plm_layer: int, frozen: int = 0) -> None:
        super().__init__()
        n_layers = len(bert.encoder.layer)
        if plm_layer > n_layers:
            raise UserError(f"plm_layer={plm_layer}: the text encoder has {n_layers} layers")
        if frozen >= plm_layer:
            cure = f"at most {plm_layer - 1}, or train_text=false to train none"
            raise UserError(f"frozen_text_layers={frozen}: of plm_layer={plm_layer} none is left to train; {cure}")
        self.embeddings, self.layers = bert.embeddings, bert.encoder.layer[:plm_layer]
        self.heads = bert.config.num_attention_heads
        self.p, self.attention_p = bert.config.hidden_dropout_prob, bert.config.attention_probs_dropout_prob
        self.frozen = frozen
        self.remembered = torch.empty(0)  # (all items' tokens, d): what the frozen part makes of them
        if frozen:
            self.embeddings.requires_grad_(False)
            self.layers[:frozen].requires_grad_(False)

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
        kept = nn.Embedding.from_pretrained(table[rows], freeze=self.frozen > 0, padding_idx=padding)
        self.embeddings.word_embeddings = kept
        return Vocabulary(rows, table)

    def forward(self, texts: Texts) -> Tensor:
        """n texts → (n, d) float32."""
        if texts.places is not None and len(self.remembered):
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

    def _layer(self, layer: Any, x: Tensor, layout: Ragged, training: bool) -> Tensor:
        """One of BERT's post-norm layers, (T, d) → (T, d)."""
        own, out = layer.attention.self, layer.attention.output
        mixed = layout.attention(own.query(x), own.key(x), own.value(x), self.heads, self.attention_p * training)
        x = out.LayerNorm(dropout(out.dense(mixed), self.p, training) + x)
        return layer.output.LayerNorm(dropout(layer.output.dense(layer.intermediate(x)), self.p, training) + x)
