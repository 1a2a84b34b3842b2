"""eSASRec (Tikhonovich et al. 2025, arXiv 2508.06450): SASRec with LiGR blocks and sampled softmax.

As in the authors' benchmark with RecTools, except that a training row there is the last max_seq_length + 1 items of a
user; here earlier targets are trained too, each on its own history. RecTools before 0.16, with which the published
results were made, has ``item_dropout=dropout_prob``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.dropout import Dropout, dropout
from reproduce.baselines.settings import ESASRecSettings
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.layers import attention
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


class LiGRBlock(nn.Module):
    """Pre-norm attention and SwiGLU; a gate on the input of each scales what it adds. No LayerNorm at the end."""

    def __init__(self, settings: ESASRecSettings) -> None:
        super().__init__()
        d, inner = settings.hidden_size, settings.inner_size
        self.heads, self.p = settings.n_heads, settings.dropout_prob
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query_key_value, self.attention_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.attention_gate, self.feed_forward_gate = nn.Linear(d, d), nn.Linear(d, d)
        self.swish, self.linear = nn.Linear(d, inner, bias=False), nn.Linear(d, inner, bias=False)
        self.feed_forward_out = nn.Linear(inner, d, bias=False)
        self.dropout = Dropout(self.p)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.attention_out.bias)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """(R, L, d); allowed: (R, 1, L, L) → (R, L, d)."""
        rows, length, d = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(rows, length, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (R, heads, L, d/heads)
        mixed = attention(query, key, value, allowed, self.p, self.training)
        out = self.attention_out(mixed.transpose(1, 2).reshape(rows, length, d))
        x = x + self.attention_gate(x).sigmoid() * self.dropout(out)
        z = self.feed_forward_norm(x)
        out = self.feed_forward_out(self.dropout(F.silu(self.swish(z)) * self.linear(z)))
        return x + self.feed_forward_gate(x).sigmoid() * self.dropout(out)


class eSASRec(RankingModel):
    """A sequence is read once for all its predictions, so its last position, from which positions count, is the last
    one that is trained; in ranking it is the end of the history.
    """

    schema = ESASRecSettings

    def __init__(self, settings: ESASRecSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s = self.settings
        self.item_embedding = nn.Embedding(self.n_items, s.hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(s.max_seq_length, s.hidden_size)
        self.dropout = Dropout(s.dropout_prob)
        self.blocks = nn.ModuleList(LiGRBlock(s) for _ in range(s.n_layers))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        return self._preference(batch, self.candidates())

    def _preference(self, batch: Batch, table: Tensor) -> Tensor:
        x = F.embedding(batch.items, table) + self.position_embedding(positions_from_the_end(batch))
        x, allowed = self.dropout(x), batch.allowed()
        for block in self.blocks:
            x = block(x, allowed)
        return x[batch.rows, batch.columns]

    def candidates(self) -> Tensor:
        """(n_items, d)."""
        return self.item_embedding.weight

    def loss_terms(self, batch: Batch) -> Terms:
        """The loss of the next item; the item table has one dropout mask for histories and candidates."""
        table = dropout(self.candidates(), self.settings.item_dropout, self.training)
        return {"rec": self.recommendation_loss(self._preference(batch, table), table, batch.targets)}


def positions_from_the_end(batch: Batch) -> Tensor:
    """(R, L) position within the own sequence, its last position being 0; of padding too."""
    from_end = batch.lengths[batch.segments] - 1 - batch.positions
    return from_end.where(batch.segments >= 0, torch.zeros_like(batch.items))
