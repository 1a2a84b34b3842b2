"""The models of stage 2: `ID_SeqEncoder`, `Content_SeqEncoder`, `SICSRec` (paper, sequence preference learning).

Parameter names are those of the published weights.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Type, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.dropout import Dropout, dropout
from common.ranking import ITEMS_AT_ONCE
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.layers import Adapter, LayerSizes, LoRA, MixDecoder, TransformerEncoder
from stage2_sequence_preference_learning.losses import contrastive_loss, table_regularization
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms
from stage2_sequence_preference_learning.settings import (
    ContentSettings,
    IDSettings,
    SICSRecSettings,
    TransformerSettings,
)


class SequenceModel(RankingModel):
    """What the three models share: sizes and initial weights."""

    settings: TransformerSettings

    def __init__(self, settings: TransformerSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s = self.settings
        self.d, self.n_layers, self.eps = s.hidden_size, s.n_layers, s.layer_norm_eps
        self.sizes = LayerSizes(
            d=s.hidden_size,
            heads=s.n_heads,
            inner=s.inner_size,
            hidden_dropout=s.hidden_dropout_prob,
            attn_dropout=s.attn_dropout_prob,
            activation=s.hidden_act,
            eps=s.layer_norm_eps,
        )
        self.dropout = Dropout(s.hidden_dropout_prob)
        self.position_embedding = nn.Embedding(s.max_seq_length, s.hidden_size)

    def initialize(self, normal: bool = True) -> None:
        """Weights ~ N(0, initializer_range), biases 0, LayerNorm 1 and 0, LoRA's B 0.

        Args:
            normal: S16. False: as released, weights keep torch's defaults, and the layers of a stack start equal.
        """
        std = self.settings.initializer_range
        for module in self.modules():
            if normal and isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.requires_grad:
                nn.init.normal_(module.weight, std=std)
            if normal and isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, LoRA):
                module.reset(std)
        for module in self.modules():
            if not normal and isinstance(module, nn.ModuleList):
                for layer in module[1:]:
                    layer.load_state_dict(module[0].state_dict())


class ID_SeqEncoder(SequenceModel):
    """Step 1: SASRec with full cross entropy (`RankingModel.loss_terms`)."""

    schema = IDSettings

    def __init__(self, settings: IDSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.item_embedding = nn.Embedding(self.n_items, self.d, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(self.d, eps=self.eps)
        self.trm_encoder = TransformerEncoder(self.n_layers, self.sizes)
        self.initialize()

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        x = self.item_embedding(batch.items) + self.position_embedding(batch.positions)  # (R, L, d)
        x = self.trm_encoder(self.dropout(self.LayerNorm(x)), batch.allowed())
        return x[batch.rows, batch.columns]

    def candidates(self) -> Tensor:
        """(n_items, d)."""
        return self.item_embedding.weight


class ContentModel(SequenceModel):
    """What the two models with a content branch share: stage 1's features and their adapters."""

    settings: ContentSettings

    def __init__(self, settings: ContentSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s = self.settings
        self.temperature, self.alpha, self.lamba = s.temperature, s.alpha, s.lamba
        self.mask_same_target = bool(s.mask_same_target)
        self.modalities: List[str] = list(s.modalities)
        for modality in self.modalities:
            features = self.data.features[modality]  # (n_items, width), row 0 is padding
            if s.train_features:
                table = nn.Embedding(features.shape[0], features.shape[1], padding_idx=0)
            else:
                table = nn.Embedding.from_pretrained(features, padding_idx=0)  # frozen, without a copy
            self.add_module(f"plm_{modality}_embedding", table)
            self.add_module(f"{modality}_adapter", Adapter(features.shape[1], self.d))
        self._fixed_contents: Optional[Tensor] = None

    def add_content_branch(self) -> None:
        """The encoder over contents."""
        self.content_LayerNorm = nn.LayerNorm(self.d, eps=self.eps)
        self.content_trm_decoder = TransformerEncoder(self.n_layers, self.sizes)

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """As in `RankingModel`, with the contents of all items."""
        self._fixed_contents = torch.cat([self.content(ids) for ids in self.all_items().split(ITEMS_AT_ONCE)])
        try:
            with super().fixed_items():
                yield
        finally:
            self._fixed_contents = None

    def all_items(self) -> Tensor:
        """(n_items,) ids, the padding item's first."""
        return torch.arange(self.n_items, device=self.position_embedding.weight.device)

    def fill_tables(self) -> None:
        """Start the trained feature tables from stage 1."""
        for modality in self.modalities if self.settings.train_features else ():
            self.get_submodule(f"plm_{modality}_embedding").weight.data.copy_(self.data.features[modality])

    def trained_tables(self) -> List[Tensor]:
        """The tables T and I, those of ``modalities``; none if they are frozen."""
        tables = [self.get_submodule(f"plm_{modality}_embedding").weight for modality in self.modalities]
        return [table for table in tables if table.requires_grad]

    def weights_to_continue(self) -> Dict[str, Tensor]:
        """All weights but frozen tables of features."""
        names = () if self.settings.train_features else tuple(f"plm_{modality}_" for modality in self.modalities)
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith(names)}

    def content(self, items: Optional[Tensor] = None) -> Tensor:
        """c = normalize(text_adapter(T) + image_adapter(I)) of item ids (…), or of all: (…, d)."""
        items = self.all_items() if items is None else items
        parts = [
            self.get_submodule(f"{modality}_adapter")(self.get_submodule(f"plm_{modality}_embedding")(items))
            for modality in self.modalities
        ]
        return F.normalize(torch.stack(parts).sum(dim=0).float(), dim=-1)

    def content_branch(self, content: Tensor, batch: Batch) -> Tensor:
        """The encoder over content + position: (R, L, d) → (R, L, d)."""
        x = self.dropout(self.content_LayerNorm(content + self.position_embedding(batch.positions)))
        return self.content_trm_decoder(x, batch.allowed())

    def content_of(self, batch: Batch) -> Tuple[Tensor, Tensor]:
        """Contents of the batch's items (R, L, d) and targets (N, d); each item goes through the adapters once."""
        fixed = self._fixed_contents
        contents = self.content(batch.distinct) if fixed is None else F.embedding(batch.distinct, fixed)
        content = F.embedding(batch.places, contents)
        inside, targets = content.split([batch.items.numel(), len(batch)])
        return inside.view(*batch.items.shape, -1), targets


class Content_SeqEncoder(ContentModel):
    """Baseline: the content branch alone. Items are scored by their content, under the same two tasks."""

    schema = ContentSettings

    def __init__(self, settings: ContentSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.add_content_branch()
        self.initialize(bool(self.settings.normal_init))
        self.fill_tables()

    def preference(self, batch: Batch) -> Tensor:
        """u = normalized output of the content branch: (N, d)."""
        inside, _ = self.content_of(batch)
        return self._at_predictions(inside, batch)

    def _at_predictions(self, inside: Tensor, batch: Batch) -> Tensor:
        outputs = self.content_branch(inside, batch)
        return F.normalize(outputs[batch.rows, batch.columns].float(), dim=-1)

    def candidates(self) -> Tensor:
        """Contents of all items: (n_items, d)."""
        return self.content() if self._fixed_contents is None else self._fixed_contents

    def loss_terms(self, batch: Batch) -> Terms:
        """rec + λ·Σ‖table‖₂ + α·contrastive."""
        contents: Union[Tensor, Callable[..., Tensor]]
        if self.settings.loss == "cross_entropy":
            contents = self.candidates()  # every item once: the loss needs all of them
            inside, own = F.embedding(batch.items, contents), F.embedding(batch.targets, contents)
        else:
            contents = self.content
            inside, own = self.content_of(batch)
        u, tables = self._at_predictions(inside, batch), self.trained_tables()
        return {
            "rec": self.recommendation_loss(u, contents, batch.targets, self.temperature),
            **({"reg": self.lamba * table_regularization(tables)} if tables else {}),
            "contrastive": self.alpha
            * contrastive_loss(u, own, batch.targets, batch.sequences, self.temperature, self.mask_same_target),
        }


class SICSRec(ContentModel):
    """Step 2: ID branch with LoRA, content branch, mix decoder, contrastive task.

    Ablations: ``branches`` that are left out have no parameters; LoRA has parameters only with ``id_tuning=lora``.
    """

    schema = SICSRecSettings
    settings: SICSRecSettings

    def __init__(self, settings: SICSRecSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        s = self.settings
        self.rank_normalized = s.rank_normalized
        self.branches: List[str] = s.branches.split("+")
        if "content" in self.branches:
            self.add_content_branch()
        self.item_embedding = nn.Embedding(self.n_items, self.d, padding_idx=0)
        if "id" in self.branches:
            lora_rank = s.lora_rank if s.id_tuning == "lora" else None
            self.LayerNorm = nn.LayerNorm(self.d, eps=self.eps)
            self.trm_encoder = TransformerEncoder(self.n_layers, self.sizes, lora_rank)
        if "mix" in self.branches:
            self.query_LayerNorm = nn.LayerNorm(self.d, eps=self.eps)
            self.value_LayerNorm = nn.LayerNorm(self.d, eps=self.eps)
            self.id_content_trm_decoder = MixDecoder(self.n_layers, self.sizes, stack_layers=bool(s.stack_mix_layers))
        self.aggregation_layer = nn.Linear(len(self.branches) * self.d, self.d)
        self.initialize(bool(s.normal_init))
        self.fill_tables()
        self._freeze(s.id_tuning, train_ffw_lora=bool(s.train_ffw_lora))

    def _freeze(self, id_tuning: str, train_ffw_lora: bool) -> None:
        """The ID encoder's own weights, unless ``full``; as released also the LoRA after its feed-forward
        sub-layers (S8) and the mix layers that nothing reads (S9).
        """
        if "mix" in self.branches and not self.id_content_trm_decoder.stack_layers:
            for layer in list(self.id_content_trm_decoder.layers)[:-1]:
                layer.requires_grad_(False)
        if "id" in self.branches and id_tuning != "full":
            for name, parameter in self.trm_encoder.named_parameters():
                is_lora = "att_lora_layer" in name or ("ffw_lora_layer" in name and train_ffw_lora)
                parameter.requires_grad_(is_lora)

    def load_id_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a trained `ID_SeqEncoder`'s state dict, or without ID branch its tables, checked by the caller."""
        self.load_state_dict(dict(weights), strict=False)

    def id_encoder_state(self) -> Dict[str, Tensor]:
        """The part of the state dict that an `ID_SeqEncoder` has, by its names."""
        parts = ("item_embedding.", "position_embedding.", "LayerNorm.", "trm_encoder.")
        return {k: v for k, v in self.state_dict().items() if k.startswith(parts) and "lora" not in k}

    def preference(self, batch: Batch) -> Tensor:
        """u = normalize(W [id; content; mix]): (N, d)."""
        inside, _ = self.content_of(batch)
        return self._preference(inside, batch)

    def _preference(self, inside: Tensor, batch: Batch) -> Tensor:
        allowed = batch.allowed()
        outputs: Dict[str, Tensor] = {}  # of each branch, (R, L, d)
        if "id" in self.branches:
            x = self.item_embedding(batch.items) + self.position_embedding(batch.positions)
            outputs["id"] = self.trm_encoder(self.dropout(self.LayerNorm(x)), allowed)
        if "content" in self.branches:
            outputs["content"] = self.content_branch(inside, batch)
        if "mix" in self.branches:
            query = self.dropout(self.query_LayerNorm(outputs["id"]))
            outputs["mix"] = self.id_content_trm_decoder(
                query, self.dropout(self.value_LayerNorm(outputs["content"])), allowed
            )
        parts = [outputs[branch][batch.rows, batch.columns] for branch in self.branches]
        return F.normalize(self.aggregation_layer(torch.cat(parts, dim=-1)).float(), dim=-1)

    def candidates(self) -> Tensor:
        """(n_items, d): the normalised ID table, as in training; as released (S11) the raw one."""
        table = self.item_embedding.weight
        return F.normalize(table, dim=-1) if self.rank_normalized else table

    def loss_terms(self, batch: Batch) -> Terms:
        """rec + λ·Σ‖table‖₂ + α·contrastive."""

        def items(rows: Optional[Tensor] = None) -> Tensor:  # dropout on the ID table: S18
            vectors = self.item_embedding.weight if rows is None else self.item_embedding(rows)
            return F.normalize(dropout(vectors, self.settings.item_dropout, self.training), dim=-1)

        inside, own = self.content_of(batch)
        u = self._preference(inside, batch)
        return {
            "rec": self.recommendation_loss(u, items, batch.targets, self.temperature),
            "reg": self.lamba * table_regularization([self.item_embedding.weight, *self.trained_tables()]),
            "contrastive": self.alpha
            * contrastive_loss(u, own, batch.targets, batch.sequences, self.temperature, self.mask_same_target),
        }


MODELS: Dict[str, Type[RankingModel]] = {
    model.__name__: model for model in (ID_SeqEncoder, Content_SeqEncoder, SICSRec)
}
