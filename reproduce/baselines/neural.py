"""RecBole's sequential models, trained and ranked as stage 2's own: full cross entropy, the same batches.

RecBole's network is used as it is. What is ours: how a batch reaches it. A network in which a position
sees only what stands before it reads a user's history once for all its prefixes; any other reads each
prefix as a row. Rows are taken in groups alike in length, so that little is padding (`padded`: networks
whose output depends on it).
"""

from __future__ import annotations

import re
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

from common.dataset import load_dataset
from stage2_sequence_preference_learning.layers import Dropout
from stage2_sequence_preference_learning.losses import recommendation_loss
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms

# a module of RecBole's (sine) switches it on, and training takes twice as long
torch.autograd.set_detect_anomaly(False)

GROUPS = 4  # of rows alike in length, in a batch


def histories(batch: Batch) -> Tuple[Tensor, Tensor]:
    """The batch's sequences unpacked: items (S, L) right-padded with 0, lengths (S,)."""
    real = batch.segments >= 0
    numbers, positions = batch.segments[real], batch.positions[real]
    n_sequences, longest = int(numbers.max()) + 1, int(positions.max()) + 1
    items = batch.items.new_zeros(n_sequences, longest)
    items[numbers, positions] = batch.items[real]
    return items, torch.bincount(numbers, minlength=n_sequences)


def prefixes(batch: Batch) -> Tuple[Tensor, Tensor]:
    """Each prediction's own history: items (N, L) right-padded with 0, lengths (N,)."""
    items, _ = histories(batch)
    lengths = batch.positions[batch.rows, batch.columns] + 1
    inside = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
    return items[batch.sequences] * inside, lengths


def latest(items: Tensor, lengths: Tensor, width: int) -> Tuple[Tensor, Tensor]:
    """Histories (N, L) cut to their last ``width`` items: (N, min(L, width)), lengths (N,)."""
    over = (lengths - width).clamp(min=0)
    columns = torch.arange(min(items.shape[1], width), device=items.device) + over[:, None]
    return items.gather(1, columns), lengths - over


def use_fast_dropout(net: nn.Module) -> None:
    """Put stage 2's dropout, which is quicker on CPUs, in the place of torch's."""
    for module in net.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))


class RecBoleModel(RankingModel):
    """A network of RecBole's; ``net(items, lengths)`` gives the preference, ``net.item_embedding`` the candidates."""

    net_class: ClassVar[Type[Any]]
    causal: ClassVar[bool] = False  # a position sees only what stands before it
    temperature: float = 1.0

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.net = self.make_net(config, dataset)
        use_fast_dropout(self.net)
        if self.causal:
            self.net.gather_indexes = self._at_places

    def make_net(self, config: Any, dataset: Any) -> Any:
        """RecBole's network."""
        return self.net_class(config, dataset)

    def _at_places(self, output: Tensor, _: Tensor) -> Tensor:
        """In place of RecBole's gather_indexes, (R, L, d) → (N, d): every place that is predicted."""
        return output[self._places]

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L), (R,) → (R, d); of a causal network (predictions of these rows, d)."""
        out: Tensor = self.net(items, lengths)
        return out

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        items, lengths = histories(batch) if self.causal else prefixes(batch)
        row_of, column_of = batch.sequences, batch.positions[batch.rows, batch.columns]
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

    def terms(self, batch: Batch) -> Terms:
        """Cross entropy over all items."""
        items = self.candidates()
        return {"rec": recommendation_loss(self.preference(batch) / self.temperature, items, batch.targets)}


class SASRec(RecBoleModel):
    """Kang and McAuley 2018."""

    net_class, causal = RecBoleSASRec, True


class GRU4Rec(RecBoleModel):
    """Hidasi et al. 2016."""

    net_class, causal = RecBoleGRU4Rec, True


class NARM(RecBoleModel):
    """Li et al. 2017."""

    net_class = RecBoleNARM

    def make_net(self, config: Any, dataset: Any) -> Any:
        """RecBole takes both rates in one list."""
        config["dropout_probs"] = [config["embedding_dropout"], config["context_dropout"]]
        return self.net_class(config, dataset)


class CORE(RecBoleModel):
    """Hou et al. 2022."""

    net_class = RecBoleCORE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature = config["temperature"]

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L) → (R, d), of length 1."""
        out: Tensor = self.net(items)
        return out

    def candidates(self) -> Tensor:
        """(n_items, d), of length 1."""
        return F.normalize(self.net.item_dropout(self.net.item_embedding.weight), dim=-1)


class BERT4Rec(RecBoleModel):
    """Sun et al. 2019. Rows are prefixes with their target; a share of rows has the last item masked alone."""

    net_class = RecBoleBERT4Rec

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.mask_ratio, self.ft_ratio = config["mask_ratio"], config["ft_ratio"]

    def with_last(self, batch: Batch, last: Tensor) -> Tuple[Tensor, Tensor]:
        """Prefixes with one more item (N,) at the end: (N, L), cut to the latest max_seq_length; lengths (N,)."""
        items, lengths = prefixes(batch)
        items = F.pad(items, (0, 1)).scatter(1, lengths[:, None], last[:, None])
        return latest(items, lengths + 1, self.max_seq_length)

    def predict_masked(self, items: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
        """Outputs at the true cells of ``masked`` (N, L): (cells, d + 1); the last column meets the bias."""
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

    def terms(self, batch: Batch) -> Terms:
        """Cross entropy of the masked items over all items."""
        items, lengths = self.with_last(batch, batch.targets)
        columns = torch.arange(items.shape[1], device=items.device)
        last = columns == lengths[:, None] - 1
        drawn = (torch.rand(items.shape, device=items.device) < self.mask_ratio) & (items > 0)
        alone = torch.rand(len(items), 1, device=items.device) < self.ft_ratio
        masked = torch.where(alone | ~drawn.any(dim=1, keepdim=True), last, drawn)
        return {
            "rec": recommendation_loss(self.predict_masked(items, lengths, masked), self.candidates(), items[masked])
        }


class FDSA(RecBoleModel):
    """Zhang et al. 2019, with the words of an item's title as its features."""

    net_class, causal = RecBoleFDSA, True

    def make_net(self, config: Any, dataset: Any) -> Any:
        """Give RecBole's data set the titles' words as a feature of items, as an .item file would."""
        prepared = load_dataset(Path(config["datasets_dir"]) / dataset.dataset_name, dataset.dataset_name)
        table, words = title_words(prepared.titles(config["title_language"]), config["title_words"])
        of_row = np.vstack([np.zeros((1, table.shape[1]), np.int64), table[dataset.item_of_row()[1:]]])
        rows = torch.arange(self.n_items)
        dataset.item_feat = Interaction({dataset.iid_field: rows, "title": torch.from_numpy(of_row)})
        dataset.field2type["title"], dataset.field2id_token["title"] = FeatureType.TOKEN_SEQ, np.array(words)
        config["selected_features"] = ["title"]
        return self.net_class(config, dataset)


def title_words(titles: List[str], at_most: int) -> Tuple[np.ndarray, List[str]]:
    """Words of titles by number, in the order of a title, those of one title alone left out.

    Returns:
        (n, at_most) right-padded with 0, and the words by number, the padding's first.
    """
    split = [re.findall(r"[\u3400-\u9fff]|[^\W_]+", title.lower()) for title in titles]
    titles_with: Dict[str, int] = {}
    for words in split:
        for word in dict.fromkeys(words):
            titles_with[word] = titles_with.get(word, 0) + 1
    known = ["[PAD]", *sorted(word for word, count in titles_with.items() if count > 1)]
    number = {word: i for i, word in enumerate(known)}
    table = np.zeros((len(titles), at_most), np.int64)
    for row, words in zip(table, split):
        found = [number[word] for word in words if word in number][:at_most]
        row[: len(found)] = found
    return table, known


NEURAL: Dict[str, Type[RankingModel]] = {
    model.__name__: model for model in (GRU4Rec, NARM, SASRec, BERT4Rec, CORE, FDSA)
}
