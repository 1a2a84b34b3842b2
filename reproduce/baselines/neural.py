"""RecBole's sequential models, trained and ranked as stage 2's own: full cross entropy, the same batches.

RecBole's network is used as it is. What is ours: how a batch reaches it. A network in which a position
sees only what stands before it reads a user's history once for all its prefixes; any other reads each
prefix as a row. Rows are taken in groups alike in length, so that little is padding; a network whose
output depends on the padding gets the same number of positions for all.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Tuple, Type

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.bert4rec import BERT4Rec as RecBoleBERT4Rec
from recbole.model.sequential_recommender.core import CORE as RecBoleCORE
from recbole.model.sequential_recommender.fdsa import FDSA as RecBoleFDSA
from recbole.model.sequential_recommender.fearec import FEARec as RecBoleFEARec
from recbole.model.sequential_recommender.gru4rec import GRU4Rec as RecBoleGRU4Rec
from recbole.model.sequential_recommender.lightsans import LightSANs as RecBoleLightSANs
from recbole.model.sequential_recommender.narm import NARM as RecBoleNARM
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec
from recbole.utils import FeatureType
from torch import Tensor, nn
from torch.nn import functional as F

from common.dataset import load_dataset
from stage2_sequence_preference_learning.layers import Dropout
from stage2_sequence_preference_learning.losses import recommendation_loss
from stage2_sequence_preference_learning.models import RankingModel, Terms
from stage2_sequence_preference_learning.packing import Batch

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


class PaddedModel(RecBoleModel):
    """A network whose output depends on how much padding there is: every history gets padded_length positions."""

    def make_net(self, config: Any, dataset: Any) -> Any:
        """RecBole's network, as long as that."""
        config["MAX_ITEM_LIST_LENGTH"] = self.padded_length = config["padded_length"]
        net = self.quiet_net(config, dataset)
        config["MAX_ITEM_LIST_LENGTH"] = self.max_seq_length
        return net

    def quiet_net(self, config: Any, dataset: Any) -> Any:
        """RecBole's network."""
        return self.net_class(config, dataset)

    def padded(self, items: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """(N, L) → (N, padded_length), the latest items; lengths (N,)."""
        items, lengths = latest(items, lengths, self.padded_length)
        return F.pad(items, (0, self.padded_length - items.shape[1])), lengths

    def preference(self, batch: Batch) -> Tensor:
        """(N, d)."""
        return self.encode(*self.padded(*prefixes(batch)))


class LightSANs(PaddedModel):
    """Fan et al. 2021; RecBole's version attends to padding as well."""

    net_class = RecBoleLightSANs


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


class FEARec(PaddedModel):
    """Du et al. 2023, with the contrastive term of its `calculate_loss`."""

    net_class = RecBoleFEARec
    pairs: ClassVar[Dict[str, List[Tuple[str, str, str]]]] = {
        "none": [],
        "un": [("lmd", "own", "again")],
        "su": [("lmd_sem", "own", "same")],
        "us": [("lmd", "own", "again"), ("lmd_sem", "own", "same")],
        "us_x": [("lmd_sem", "again", "same")],
    }

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.weights = {name: config[name] for name in ("lmd", "lmd_sem")}
        self.contrast, self.tau, self.sim = config["contrast"], config["tau"], config["sim"]
        inter = dataset.inter_feat
        targets = inter[self.ITEM_ID]
        order = targets.argsort(stable=True)  # rows by target
        self.rows, self.row_lengths = self.padded(inter[self.ITEM_SEQ][order], inter[self.ITEM_SEQ_LEN][order])
        self.counts = torch.bincount(targets, minlength=self.n_items)
        self.starts = self.counts.cumsum(0) - self.counts

    def quiet_net(self, config: Any, dataset: Any) -> Any:
        """Without what RecBole prints, and without its list of rows by target, which is quadratic in the rows."""
        quick = type("FEARec", (RecBoleFEARec,), {"get_same_item_index": lambda net, dataset: {}})
        with contextlib.redirect_stdout(io.StringIO()):
            return quick(config, dataset)

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """(R, L), (R,) → (R, d), in fp32."""
        with torch.autocast(items.device.type, enabled=False):
            return super().encode(items, lengths)

    def same_target(self, items: Tensor, targets: Tensor) -> Tuple[Tensor, Tensor]:
        """For each row (N, L) a training row with its target, another one if there is: (N, padded_length), (N,)."""
        items, targets = items.cpu(), targets.cpu()
        counts = self.counts[targets]
        draw = (torch.rand(len(targets)) * counts).long()
        first = self.starts[targets] + draw
        itself = (self.rows[first] == items).all(dim=1)
        chosen = torch.where(itself, self.starts[targets] + (draw + 1) % counts, first)
        return self.rows[chosen].to(self.device), self.row_lengths[chosen].to(self.device)

    def of_same_user(self, batch: Batch) -> Tensor:
        """Which of the 2N − 2 negatives are of the row's own user: (2N, 2N − 2). Our batches group by user."""
        user = batch.sequences.repeat(2)
        same = user[:, None] == user
        return same[self.net.mask_correlated_samples(len(batch)).to(same.device)].reshape(len(user), -1)

    def terms(self, batch: Batch) -> Terms:
        """Cross entropy and the contrastive term, in which rows of one user are no negatives of each other."""
        items, lengths = self.padded(*prefixes(batch))
        views = {"own": self.encode(items, lengths)}
        terms = {"rec": recommendation_loss(views["own"], self.candidates(), batch.targets)}
        pairs = self.pairs[self.contrast]
        used = {name for _, *names in pairs for name in names}
        if "again" in used:
            views["again"] = self.encode(items, lengths)
        if "same" in used:
            views["same"] = self.encode(*self.same_target(items, batch.targets))
        for weight, left, right in pairs:
            logits, labels = self.net.info_nce(views[left], views[right], self.tau, len(batch), self.sim)
            logits[:, 1:].masked_fill_(self.of_same_user(batch), -torch.inf)
            terms[f"{left}-{right}"] = self.weights[weight] * F.cross_entropy(logits, labels)
        return terms


class FDSA(RecBoleModel):
    """Zhang et al. 2019, with the words of an item's title as its features."""

    net_class, causal = RecBoleFDSA, True

    def make_net(self, config: Any, dataset: Any) -> Any:
        """Give RecBole's data set the titles' words as a feature of items, as an .item file would."""
        prepared = load_dataset(Path(config["datasets_dir"]) / dataset.dataset_name, dataset.dataset_name)
        titles = prepared.titles_en if config["title_language"] == "en" else prepared.titles_cn
        table, words = title_words(titles, config["title_words"])
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
    model.__name__: model for model in (GRU4Rec, NARM, SASRec, BERT4Rec, CORE, FEARec, LightSANs, FDSA)
}
