"""The sequence encoder: pre-norm Transformer layers, bidirectional, without positions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from adrec.ragged import Ragged
from common.dropout import Dropout
from common.errors import UserError


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
    """Item vectors of a history → its vector.

    Args:
        plain_init: A7. True: weights N(0, 0.02), biases 0, LayerNorm 1 and 0. False: as released, every
            weight and bias of every layer, LayerNorm's too, from U(−1/√d, 1/√d).
        p: dropout on the items' vectors and the sub-layers' outputs; 0 in the paper.
        positions: 0, as in the paper, or how many learned positions, counted from the end, are added (ours).
        history_map: ours: the items' vectors pass through a linear map, which starts as the identity.
        add_mean: the items' mean is a part of the vector, as in the paper; false (ours): the last output is the vector.
    """

    def __init__(
        self,
        d: int,
        n_layers: int,
        heads: int,
        inner: int,
        eps: float,
        plain_init: bool,
        p: float = 0.0,
        positions: int = 0,
        history_map: bool = False,
        add_mean: bool = True,
    ) -> None:
        super().__init__()
        if d % heads:
            raise UserError(f"the text encoder's width {d} is not a multiple of n_heads={heads}")
        self.layers = nn.ModuleList(PreNormLayer(d, heads, inner, eps, p) for _ in range(n_layers))
        self.dropout = Dropout(p)
        self.positions = nn.Embedding(positions, d) if positions else None
        self.add_mean = add_mean
        for name, parameter in self.named_parameters():
            if not plain_init:
                nn.init.uniform_(parameter, -(d**-0.5), d**-0.5)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.zeros_(parameter)
        self.history_map = nn.Linear(d, d) if history_map else None
        if self.history_map is not None:
            nn.init.eye_(self.history_map.weight)
            nn.init.zeros_(self.history_map.bias)

    def forward(self, items: Tensor, layout: Ragged) -> Tensor:
        """(output at the last position + mean of the item vectors) / 2.

        Args:
            items: (T, d) the histories' item vectors, end to end.

        Returns:
            (S, d) float32.
        """
        items = items if self.history_map is None else self.history_map(items)
        x = items
        if self.positions is not None:
            from_the_end = layout.lengths[layout.segments] - 1 - layout.positions
            x = x + self.positions(from_the_end)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, layout)
        last = x[layout.last].float()
        return (last + layout.mean(items)) / 2 if self.add_mean else last
