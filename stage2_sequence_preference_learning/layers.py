"""Transformer layers of SICSRec (paper, section on sequence preference learning).

Post-norm layers as in RecBole's ``TransformerEncoder``, with its parameter names, so that published weights load. A row
holds several sequences end to end, which the attention mask separates, so that hardly any position is padding
(`packing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.dropout import Dropout, dropout

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class LayerSizes:
    """The sizes that all layers of a model share."""

    d: int
    heads: int
    inner: int
    hidden_dropout: float
    attn_dropout: float
    activation: str
    eps: float


def attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, p: float, training: bool) -> Tensor:
    """Scaled dot-product attention with dropout on its weights.

    On the CPU torch's kernel has no fast path with dropout, so the product is written out there.

    Args:
        query, key, value: (R, heads, L, d/heads).
        allowed: (R, 1, L, L) bool, true where a query may attend to a key; each row has at least one.

    Returns:
        (R, heads, L, d/heads).
    """
    if not training or p == 0.0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=p if training else 0.0)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    return dropout(weights, p, training).to(value.dtype) @ value


class MultiHeadAttention(nn.Module):
    """Attention of ``x`` over ``context``, then residual and LayerNorm."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        d = sizes.d
        self.heads, self.attn_dropout = sizes.heads, sizes.attn_dropout
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.dense = nn.Linear(d, d)
        self.out_dropout = Dropout(sizes.hidden_dropout)
        self.LayerNorm = nn.LayerNorm(d, eps=sizes.eps)

    def forward(self, x: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        """x, context: (R, L, d); allowed: (R, 1, L, L) → (R, L, d)."""
        rows, length, d = x.shape

        def split(projected: Tensor) -> Tensor:  # (R, L, d) → (R, heads, L, d/heads)
            return projected.view(rows, length, self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(context)), split(self.value(context))
        mixed = attention(query, key, value, allowed, self.attn_dropout, self.training)
        out = self.dense(mixed.transpose(1, 2).reshape(rows, length, d))
        return self.LayerNorm(self.out_dropout(out) + x)


class FeedForward(nn.Module):
    """Two dense layers, then residual and LayerNorm."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.dense_1, self.dense_2 = nn.Linear(sizes.d, sizes.inner), nn.Linear(sizes.inner, sizes.d)
        self.activation = ACTIVATIONS[sizes.activation]
        self.dropout = Dropout(sizes.hidden_dropout)
        self.LayerNorm = nn.LayerNorm(sizes.d, eps=sizes.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, d) → (R, L, d)."""
        return self.LayerNorm(self.dropout(self.dense_2(self.activation(self.dense_1(x)))) + x)


class LoRA(nn.Module):
    """x + B(Ax), rank r; B starts at zero, so that the layer starts as the identity."""

    def __init__(self, d: int, rank: int) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(d, rank, bias=False), nn.Linear(rank, d, bias=False)

    def reset(self, std: float) -> None:
        """A ~ N(0, std), B = 0."""
        nn.init.normal_(self.lora_A.weight, std=std)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, d) → (R, L, d)."""
        return x + self.lora_B(self.lora_A(x))


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward sub-layer, each followed by a LoRA map if ``lora_rank`` is given."""

    def __init__(self, sizes: LayerSizes, lora_rank: Optional[int] = None) -> None:
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(sizes)
        self.feed_forward = FeedForward(sizes)
        if lora_rank is not None:
            self.att_lora_layer, self.ffw_lora_layer = LoRA(sizes.d, lora_rank), LoRA(sizes.d, lora_rank)
        self.has_lora = lora_rank is not None

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """(R, L, d) → (R, L, d)."""
        x = self.multi_head_attention(x, x, allowed)
        if self.has_lora:
            x = self.att_lora_layer(x)
        x = self.feed_forward(x)
        return self.ffw_lora_layer(x) if self.has_lora else x


class TransformerEncoder(nn.Module):
    """A stack of `TransformerLayer`; its output is the last layer's."""

    def __init__(self, n_layers: int, sizes: LayerSizes, lora_rank: Optional[int] = None) -> None:
        super().__init__()
        self.layer = nn.ModuleList(TransformerLayer(sizes, lora_rank) for _ in range(n_layers))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """(R, L, d) → (R, L, d)."""
        for layer in self.layer:
            x = layer(x, allowed)
        return x


class CrossLayer(nn.Module):
    """Cross-attention and feed-forward sub-layer of the mix decoder."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(sizes)
        self.feed_forward = FeedForward(sizes)

    def forward(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        """(R, L, d) → (R, L, d)."""
        return self.feed_forward(self.cross_attention(query, context, allowed))


class MixDecoder(nn.Module):
    """Queries from the ID branch over keys and values from the content branch.

    Args:
        stack_layers: S9. True: the output of a layer is the query of the next. False: as released, every
            layer reads the decoder's input, so that only the last one counts.
    """

    def __init__(self, n_layers: int, sizes: LayerSizes, stack_layers: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(sizes) for _ in range(n_layers))
        self.stack_layers = stack_layers

    def forward(self, query: Tensor, context: Tensor, allowed: Tensor) -> Tensor:
        """query, context: (R, L, d) → (R, L, d)."""
        if not self.stack_layers:
            last: Tensor = self.layers[-1](query, context, allowed)
            return last
        for layer in self.layers:
            query = layer(query, context, allowed)
        return query


class Adapter(nn.Module):
    """Linear(in, in//2) → ReLU → Linear(in//2, d): stage 1's features to the model's width."""

    def __init__(self, width: int, d: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, d)

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) → (n, d)."""
        out: Tensor = self.fc2(F.relu(self.fc1(features)))
        return out
