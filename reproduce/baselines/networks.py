"""RecBole's sequential networks on the batches of stage 2.

The networks are RecBole's own; this module adapts the batches. A causal network, in which a position sees only earlier
ones, reads a history once for all its prefixes. Any other network reads each prefix as a row. Rows are read in groups
of similar length, so that few positions are padding (padded.py: networks whose output depends on the padding).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Tuple, Type

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.bert4rec import BERT4Rec as RecBoleBERT4Rec
from recbole.model.sequential_recommender.core import CORE as RecBoleCORE
from recbole.model.sequential_recommender.fdsa import FDSA as RecBoleFDSA
from recbole.model.sequential_recommender.gru4rec import GRU4Rec as RecBoleGRU4Rec
from recbole.model.sequential_recommender.narm import NARM as RecBoleNARM
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec
from recbole.utils import FeatureType
from torch import Tensor, nn
from torch.nn import functional as F

from common.dataset import items_path, load_dataset
from common.dropout import Dropout
from reproduce.baselines.histories import histories, latest, prefixes
from reproduce.baselines.settings import (
    AttentionSettings,
    BaselineSettings,
    BERT4RecSettings,
    CORESettings,
    FDSASettings,
    GRU4RecSettings,
    NARMSettings,
)
from stage2_sequence_preference_learning.data import SequenceData
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, RecBoleConfig, Terms
from stage2_sequence_preference_learning.settings import HistorySettings

torch.autograd.set_detect_anomaly(False)  # importing RecBole turns it on, and training takes twice as long

GROUPS = 4  # of rows of similar length, in a batch


class RecBoleData:
    """What RecBole's networks read of RecBole's data set."""

    def __init__(self, data: SequenceData) -> None:
        self.sizes = {"item_id": data.n_items}
        self.field2seqlen = {"item_id_list": int(data.test.lengths.max())}  # the longest history
        self.field2type: Dict[str, FeatureType] = {}
        self.item_feat: Dict[str, Tensor] = {}

    def num(self, field: str) -> int:
        """The number of values of a field, padding included."""
        return self.sizes[field]

    def get_item_feature(self) -> Interaction:
        """The features by row of the item tables."""
        return Interaction(self.item_feat)


class RecBoleModel(RankingModel):
    """A network of RecBole's: ``net(items, lengths)`` gives preferences, ``net.item_embedding`` the candidates."""

    net_class: ClassVar[Type[Any]]
    causal: ClassVar[bool] = False  # a position sees only earlier ones

    def __init__(self, settings: BaselineSettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.temperature = 1.0
        config, read = RecBoleConfig(self.settings), RecBoleData(self.data)
        self.adapt(config, read)
        self.net: Any = self.net_class(config, read)
        use_fast_dropout(self.net)
        if self.causal:
            self.net.gather_indexes = self._at_places

    def adapt(self, config: RecBoleConfig, data: RecBoleData) -> None:
        """Add what the network reads under names that are not those of settings."""

    def _at_places(self, output: Tensor, _: Tensor) -> Tensor:
        """In place of RecBole's gather_indexes, (R, L, d) → (N, d): every place that is predicted."""
        return output[self._places]

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L), (R,) → (R, d); for a causal network (predictions of these rows, d)."""
        out: Tensor = self.net(items, lengths)
        return out

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        items, lengths = histories(batch) if self.causal else prefixes(batch)
        row_of, column_of = batch.sequences, batch.positions[batch.rows, batch.columns]
        if items.device.type != "cpu":  # one group: to cut groups a GPU would have to wait
            self._places = (row_of, column_of)
            return self.encode(items, lengths)
        parts: List[Tensor] = []
        predicted: List[Tensor] = []
        for rows in lengths.argsort(stable=True).chunk(GROUPS):
            if self.causal:
                place = torch.full_like(lengths, -1).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
                here = (place[row_of] >= 0).nonzero().flatten()
                self._places = (place[row_of[here]], column_of[here])
            predicted.append(here if self.causal else rows)
            parts.append(self.encode(items[rows, : int(lengths[rows].max())], lengths[rows]))
        return torch.cat(parts)[torch.cat(predicted).argsort()]

    def candidates(self) -> Tensor:
        """(n_items, d)."""
        table: Tensor = self.net.item_embedding.weight
        return table

    def loss_terms(self, batch: Batch) -> Terms:
        """The loss of the next item, at the network's temperature."""
        items = self.candidates()
        return {"rec": self.recommendation_loss(self.preference(batch) / self.temperature, items, batch.targets)}


def use_fast_dropout(net: nn.Module) -> None:
    """Replace torch's dropout by `common.dropout`, which is faster on CPUs."""
    for module in net.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))


class SASRec(RecBoleModel):
    """Kang and McAuley 2018."""

    schema: ClassVar[Type[HistorySettings]] = AttentionSettings
    net_class, causal = RecBoleSASRec, True


class GRU4Rec(RecBoleModel):
    """Hidasi et al. 2016."""

    schema, net_class, causal = GRU4RecSettings, RecBoleGRU4Rec, True


class NARM(RecBoleModel):
    """Li et al. 2017."""

    schema, net_class = NARMSettings, RecBoleNARM

    def adapt(self, config: RecBoleConfig, data: RecBoleData) -> None:
        """Both dropout rates in one list."""
        config["dropout_probs"] = [config["embedding_dropout"], config["context_dropout"]]


class CORE(RecBoleModel):
    """Hou et al. 2022."""

    schema, net_class = CORESettings, RecBoleCORE

    def __init__(self, settings: CORESettings, data: SequenceData) -> None:
        super().__init__(settings, data)
        self.temperature = self.settings.temperature

    def adapt(self, config: RecBoleConfig, data: RecBoleData) -> None:
        """The width under another name."""
        config["embedding_size"] = config["hidden_size"]

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L) → (R, d), of length 1."""
        out: Tensor = self.net(items)
        return out

    def candidates(self) -> Tensor:
        """(n_items, d), of length 1."""
        return F.normalize(self.net.item_dropout(self.net.item_embedding.weight), dim=-1)


class BERT4Rec(RecBoleModel):
    """Sun et al. 2019. A row is a prefix with its target; in a share of the rows only the last item is masked."""

    schema, net_class = BERT4RecSettings, RecBoleBERT4Rec
    settings: BERT4RecSettings

    def with_last(self, batch: Batch, last: Tensor) -> Tuple[Tensor, Tensor]:
        """Prefixes with one more item (N,) at the end: (N, L), cut to the last max_seq_length; lengths (N,)."""
        items, lengths = prefixes(batch)
        items = F.pad(items, (0, 1)).scatter(1, lengths[:, None], last[:, None])
        return latest(items, lengths + 1, self.settings.max_seq_length)

    def predict_masked(self, items: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
        """Outputs at the true cells of ``masked`` (N, L): (cells, d + 1); the last column multiplies the bias."""
        items = items.masked_fill(masked, self.net.mask_token)
        numbers = torch.arange(masked.numel(), device=masked.device).view_as(masked)
        parts, cells = [], []
        for rows in lengths.argsort(stable=True).chunk(GROUPS):
            width = int(lengths[rows].max())
            here = masked[rows, :width]
            parts.append(self.net(items[rows, :width])[here])
            cells.append(numbers[rows, :width][here])
        out = torch.cat(parts)[torch.cat(cells).argsort()]
        return F.pad(out, (0, 1), value=1.0)

    def preference(self, batch: Batch) -> Tensor:
        """(N, d + 1), of a mask after the history."""
        items, lengths = self.with_last(batch, torch.full_like(batch.targets, self.net.mask_token))
        return self.predict_masked(items, lengths, items == self.net.mask_token)

    def candidates(self) -> Tensor:
        """(n_items, d + 1), the bias last."""
        return torch.cat([self.net.item_embedding.weight[: self.n_items], self.net.output_bias[:, None]], dim=1)

    def loss_terms(self, batch: Batch) -> Terms:
        """The loss of the masked items."""
        items, lengths = self.with_last(batch, batch.targets)
        columns = torch.arange(items.shape[1], device=items.device)
        last = columns == lengths[:, None] - 1
        drawn = (torch.rand(items.shape, device=items.device) < self.settings.mask_ratio) & (items > 0)
        alone = torch.rand(len(items), 1, device=items.device) < self.settings.ft_ratio
        masked = torch.where(alone | ~drawn.any(dim=1, keepdim=True), last, drawn)
        u = self.predict_masked(items, lengths, masked)
        return {"rec": self.recommendation_loss(u, self.candidates(), items[masked])}


class FDSA(RecBoleModel):
    """Zhang et al. 2019, with the words of an item's title as its features."""

    schema, net_class, causal = FDSASettings, RecBoleFDSA, True
    settings: FDSASettings

    @classmethod
    def parts(cls, settings: FDSASettings) -> Dict[str, Path]:
        """The titles."""
        return {"items": items_path(settings.dataset_dir, settings.dataset)}

    def adapt(self, config: RecBoleConfig, data: RecBoleData) -> None:
        """The titles' words as a feature of items, as in an ``.item`` file."""
        s = self.settings
        titles = load_dataset(s.dataset_dir, s.dataset).titles(s.title_language)
        by_item, words = title_words(titles, s.title_words)
        by_row = np.vstack([np.zeros((1, s.title_words), np.int64), by_item[self.data.item_of_row[1:]]])
        data.item_feat["title"] = torch.from_numpy(by_row)
        data.field2type["title"], data.sizes["title"] = FeatureType.TOKEN_SEQ, len(words)
        config["selected_features"] = ["title"]

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L), (R,) → (predictions of these rows, d)."""
        layer = self.net.feature_embed_layer
        layer.item_feat = layer.item_feat.to(items.device)  # it is no buffer, so the model's `to` does not move it
        layer.device = items.device
        return super().encode(items, lengths)


def title_words(titles: List[str], at_most: int) -> Tuple[np.ndarray, List[str]]:
    """The words of titles by number, in the order of a title, without words that only one title has.

    Returns:
        (n, at_most) right-padded with 0, and the words by number, the padding first.
    """
    split = [re.findall(r"[\u3400-\u9fff]|[^\W_]+", title.lower()) for title in titles]
    titles_with = Counter(word for words in split for word in set(words))
    known = ["[PAD]", *sorted(word for word, count in titles_with.items() if count > 1)]
    number = {word: i for i, word in enumerate(known)}
    table = np.zeros((len(titles), at_most), np.int64)
    for row, words in zip(table, split):
        found = [number[word] for word in words if word in number][:at_most]
        row[: len(found)] = found
    return table, known
