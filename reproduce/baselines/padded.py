"""RecBole's models whose output depends on how much padding a row has: each row gets the same number of positions."""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar, Dict, List, Tuple, Type

import torch
from recbole.model.sequential_recommender.fearec import FEARec as RecBoleFEARec
from recbole.model.sequential_recommender.lightsans import LightSANs as RecBoleLightSANs
from torch import Tensor
from torch.nn import functional as F

from reproduce.baselines.neural import RecBoleModel, latest, prefixes
from stage2_sequence_preference_learning.losses import recommendation_loss
from stage2_sequence_preference_learning.packing import Batch
from stage2_sequence_preference_learning.ranking_model import RankingModel, Terms


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

    def of_same_sequence(self, batch: Batch) -> Tensor:
        """Which of the 2N − 2 negatives are of the row's own sequence: (2N, 2N − 2). Our batches group by sequence."""
        sequence = batch.sequences.repeat(2)
        same = sequence[:, None] == sequence
        return same[self.net.mask_correlated_samples(len(batch)).to(same.device)].reshape(len(sequence), -1)

    def terms(self, batch: Batch) -> Terms:
        """Cross entropy and the contrastive term, in which rows of one sequence are no negatives of each other."""
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
            logits[:, 1:].masked_fill_(self.of_same_sequence(batch), -torch.inf)
            terms[f"{left}-{right}"] = self.weights[weight] * F.cross_entropy(logits, labels)
        return terms


PADDED: Dict[str, Type[RankingModel]] = {model.__name__: model for model in (FEARec, LightSANs)}
