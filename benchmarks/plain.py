"""Stage 2 written the plain way: the baseline of the speed benchmark, and of tests of the models.

Every prefix is a row padded to 50, the adapters run at every position, dropout is torch's, attention and loss are
written out, all in fp32. Layers are RecBole's own. Parameter names are the same, so that weights can be copied;
without dropout, losses and scores must agree.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Dict, Sequence

import torch
from recbole.model.layers import FeedForward, MultiHeadAttention, TransformerLayer
from torch import Tensor, nn

from reproduce.baselines.networks import RecBoleSASRec
from stage2_sequence_preference_learning.layers import LoRA
from stage2_sequence_preference_learning.ranking_model import RecBoleConfig


class LoraLayer(TransformerLayer):  # type: ignore[misc]
    """RecBole's transformer layer, with a LoRA map after each sub-layer."""

    def __init__(self, s: Any) -> None:
        super().__init__(*layer_arguments(s))
        self.att_lora_layer, self.ffw_lora_layer = (LoRA(s.hidden_size, s.lora_rank) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, 50, d)."""
        x = self.att_lora_layer(self.multi_head_attention(x, mask))
        out: Tensor = self.ffw_lora_layer(self.feed_forward(x))
        return out


def layer_arguments(s: Any) -> Sequence[Any]:
    """What RecBole's `TransformerLayer` takes."""
    dropout = (s.hidden_dropout_prob, s.attn_dropout_prob)
    return (s.n_heads, s.hidden_size, s.inner_size, *dropout, s.hidden_act, s.layer_norm_eps)


class Stack(nn.Module):
    """Layers under the published name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, 50, d)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class CrossAttention(MultiHeadAttention):  # type: ignore[misc]
    """RecBole's attention with keys and values from another sequence."""

    def forward(self, query: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """(B, 50, d)."""
        heads, size = self.num_attention_heads, self.attention_head_size
        b, t, d = query.shape
        q = self.query(query).view(b, t, heads, size).transpose(1, 2)
        k = self.key(context).view(b, t, heads, size).transpose(1, 2)
        v = self.value(context).view(b, t, heads, size).transpose(1, 2)
        weights = self.attn_dropout(torch.softmax(q @ k.transpose(2, 3) / math.sqrt(size) + mask, dim=-1))
        mixed = (weights @ v).transpose(1, 2).reshape(b, t, d)
        out: Tensor = self.LayerNorm(self.out_dropout(self.dense(mixed)) + query)
        return out


class CrossLayer(nn.Module):
    """Cross-attention and feed-forward."""

    def __init__(self, s: Any) -> None:
        super().__init__()
        attention = (s.n_heads, s.hidden_size, s.hidden_dropout_prob, s.attn_dropout_prob, s.layer_norm_eps)
        self.cross_attention = CrossAttention(*attention)
        self.feed_forward = FeedForward(
            s.hidden_size, s.inner_size, s.hidden_dropout_prob, s.hidden_act, s.layer_norm_eps
        )


class Adapter(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, d: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, d)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, d)."""
        out: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return out


def causal_mask(item_seq: Tensor) -> Tensor:
    """RecBole's additive mask: 0 where a position may look, −10000 elsewhere; (B, 1, 50, 50)."""
    visible = torch.tril((item_seq != 0)[:, None, None, :].expand(-1, -1, item_seq.shape[1], -1))
    return torch.where(visible, 0.0, -10000.0)


def last(x: Tensor, lengths: Tensor) -> Tensor:
    """The output at each row's last item: (B, 50, d) → (B, d)."""
    return x[torch.arange(len(x), device=x.device), lengths - 1]


class PlainIDSeqEncoder(RecBoleSASRec):  # type: ignore[misc]
    """`ID_SeqEncoder` is RecBole's SASRec."""

    def __init__(self, s: Any, n_items: int) -> None:
        super().__init__(RecBoleConfig(s), SimpleNamespace(num=lambda _: n_items))

    def scores(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """(B, n_items)."""
        out: Tensor = self(item_seq, lengths) @ self.item_embedding.weight.T
        return out

    def terms(self, item_seq: Tensor, lengths: Tensor, targets: Tensor) -> Dict[str, Tensor]:
        """The loss's terms."""
        return {"rec": self.loss_fct(self.scores(item_seq, lengths), targets)}


class PlainSICSRec(nn.Module):
    """`SICSRec`, padded, with the switches S8 (trained or not, no matter here), S9, S10 and S11 written out."""

    def __init__(self, s: Any, n_items: int, widths: Dict[str, int]) -> None:
        super().__init__()
        d = s.hidden_size
        self.s, self.modalities = s, list(widths)
        self.position_embedding = nn.Embedding(s.max_seq_length, d)
        for modality, width in widths.items():
            self.add_module(f"plm_{modality}_embedding", nn.Embedding(n_items, width, padding_idx=0))
            self.add_module(f"{modality}_adapter", Adapter(width, d))
        self.item_embedding = nn.Embedding(n_items, d, padding_idx=0)
        norms = ("LayerNorm", "content_LayerNorm", "query_LayerNorm", "value_LayerNorm")
        for name in norms:
            self.add_module(name, nn.LayerNorm(d, eps=s.layer_norm_eps))
        self.dropout = nn.Dropout(s.hidden_dropout_prob)
        self.trm_encoder = Stack(*(LoraLayer(s) for _ in range(s.n_layers)))
        self.content_trm_decoder = Stack(*(TransformerLayer(*layer_arguments(s)) for _ in range(s.n_layers)))
        self.id_content_trm_decoder = nn.ModuleDict({"layers": nn.ModuleList(CrossLayer(s) for _ in range(s.n_layers))})
        self.aggregation_layer = nn.Linear(3 * d, d)

    def content(self, items: Tensor) -> Tensor:
        """Content of item ids of any shape."""
        total: Any = 0
        for modality in self.modalities:
            features = self.get_submodule(f"plm_{modality}_embedding")(items)
            total = total + self.get_submodule(f"{modality}_adapter")(features)
        return total / total.norm(dim=-1, keepdim=True)

    def preference(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """(B, 50) → (B, d)."""
        mask, norm = causal_mask(item_seq), self.get_submodule
        position: Tensor = self.position_embedding.weight[: item_seq.shape[1]]
        by_id = self.trm_encoder(self.dropout(norm("LayerNorm")(self.item_embedding(item_seq) + position)), mask)
        x = self.dropout(norm("content_LayerNorm")(self.content(item_seq) + position))
        by_content = self.content_trm_decoder(x, mask)
        first = self.dropout(norm("query_LayerNorm")(by_id))
        context = self.dropout(norm("value_LayerNorm")(by_content))
        mixed = first
        layers: Any = self.id_content_trm_decoder["layers"]
        for layer in layers:
            query = mixed if self.s.stack_mix_layers else first  # S9
            mixed = layer.feed_forward(layer.cross_attention(query, context, mask))
        u = self.aggregation_layer(torch.cat([last(x, lengths) for x in (by_id, by_content, mixed)], dim=-1))
        return u / u.norm(dim=-1, keepdim=True)

    def scores(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """(B, n_items)."""
        table = self.item_embedding.weight
        if self.s.rank_normalized:  # S11
            table = table / table.norm(dim=-1, keepdim=True)
        return self.preference(item_seq, lengths) @ table.T

    def tables(self) -> Sequence[Tensor]:
        """ID, text and image table."""
        named = dict(self.named_parameters())
        return [self.item_embedding.weight, *(named[f"plm_{m}_embedding.weight"] for m in self.modalities)]

    def terms(self, item_seq: Tensor, lengths: Tensor, targets: Tensor) -> Dict[str, Tensor]:
        """The loss's terms."""
        s, n = self.s, len(targets)
        u = self.preference(item_seq, lengths)
        items = self.dropout(self.item_embedding.weight)
        logits = u @ (items / items.norm(dim=-1, keepdim=True).clamp_min(1e-12)).T / s.temperature
        rec = (logits.exp().sum(dim=1).log() - logits.gather(1, targets[:, None])[:, 0]).mean()
        similarity = u @ self.content(targets).T / s.temperature
        same = (targets[:, None] == targets[None, :]) & ~torch.eye(n, dtype=torch.bool, device=u.device)
        powers = similarity.masked_fill(same, 0.0).exp()  # S10: as released, a masked logit adds e⁰
        if s.mask_same_target:
            powers = powers * ~same
        contrastive = (powers.sum(dim=1).log() - similarity.diagonal()).mean()
        regularization: Any = sum(table.pow(2).sum().sqrt() for table in self.tables())
        return {"rec": rec, "reg": s.lamba * regularization, "contrastive": s.alpha * contrastive}
