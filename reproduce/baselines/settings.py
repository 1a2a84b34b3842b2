"""The typed settings of the baselines, under RecBole's names and with its defaults. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Dict, List, Optional, Tuple, Type

from common.dataset import items_path
from common.errors import UserError
from common.features import MODALITIES
from common.run import VALID_METRICS, LoopSettings
from common.settings import setting
from stage2_sequence_preference_learning.settings import (
    FeatureSettings,
    HistorySettings,
    LossSettings,
    SearchSettings,
    TransformerSettings,
    check_heads,
)


@dataclass
class RankingSettings(LoopSettings, HistorySettings):
    """Every baseline."""

    train_batch_size: int = setting(2048, "predictions per step, over all processes", minimum=2)
    epochs: int = setting(200, "largest number of epochs", minimum=1)
    valid_metric: str = setting("ndcg@10", "metric that chooses the checkpoint and the trial", choices=VALID_METRICS)


@dataclass
class BaselineSettings(RankingSettings, SearchSettings):
    """A baseline with settings to search."""


@dataclass
class AttentionSettings(BaselineSettings, TransformerSettings):
    """SASRec (Kang and McAuley 2018), and the settings that other Transformers share."""

    hidden_size: int = setting(64, "width d of items, positions and layers", minimum=1)
    inner_size: int = setting(256, "inner width of the feed-forward sub-layers", minimum=1)


@dataclass
class ESASRecSettings(BaselineSettings, LossSettings):
    """eSASRec (Tikhonovich et al. 2025), with its authors' values for Amazon Beauty; its YAML has its loss."""

    betas: ClassVar[Tuple[float, float]] = (0.9, 0.98)

    hidden_size: int = setting(64, "width d of items, positions and blocks", minimum=1)
    inner_size: int = setting(256, "inner width of SwiGLU", minimum=1)
    n_layers: int = setting(1, "LiGR blocks", minimum=1)
    n_heads: int = setting(1, "attention heads", minimum=1)
    dropout_prob: float = setting(0.2, "dropout on embeddings, attention and sub-layers", minimum=0, maximum=0.99)
    item_dropout: float = setting(
        0.0,
        "dropout on the item table, for histories and candidates; in published results equal to dropout_prob",
        minimum=0,
        maximum=0.99,
        shapes="changed",
    )

    def check(self) -> None:
        """Each head has a whole number of dimensions."""
        super().check()
        check_heads(self.n_heads, hidden_size=self.hidden_size)


@dataclass
class PopSettings(RankingSettings):
    """Items by the number of users who have them."""


@dataclass
class MarkovSettings(BaselineSettings):
    """Items by how often they followed the last one."""

    window: int = setting(1, "an item counts as followed by this many next items, with weight 1 / distance", minimum=1)
    backoff: float = setting(0.001, "weight of popularity, which ranks items that never followed", minimum=0)


@dataclass
class ItemKNNSettings(BaselineSettings):
    """Items by the sum of their cosines to the history's items, over users."""

    k: int = setting(100, "neighbours kept for each item", minimum=1)
    shrink: float = setting(0.0, "added to the cosine's denominator", minimum=0)


@dataclass
class GRU4RecSettings(BaselineSettings):
    """GRU4Rec (Hidasi et al. 2016) with full cross entropy."""

    embedding_size: int = setting(64, "width of items", minimum=1)
    hidden_size: int = setting(128, "width of the recurrent state", minimum=1)
    num_layers: int = setting(1, "recurrent layers", minimum=1)
    dropout_prob: float = setting(0.3, "dropout on embeddings", minimum=0, maximum=0.99)


@dataclass
class NARMSettings(BaselineSettings):
    """NARM (Li et al. 2017)."""

    embedding_size: int = setting(64, "width of items", minimum=1)
    hidden_size: int = setting(128, "width of the recurrent state", minimum=1)
    n_layers: int = setting(1, "recurrent layers", minimum=1)
    embedding_dropout: float = setting(0.25, "dropout on embeddings", minimum=0, maximum=0.99)
    context_dropout: float = setting(0.5, "dropout on the session's vector", minimum=0, maximum=0.99)


@dataclass
class BERT4RecSettings(AttentionSettings):
    """BERT4Rec (Sun et al. 2019)."""

    hidden_dropout_prob: float = setting(0.2, "dropout on embeddings and sub-layer outputs", minimum=0, maximum=0.99)
    attn_dropout_prob: float = setting(0.2, "dropout on attention weights", minimum=0, maximum=0.99)
    mask_ratio: float = setting(0.2, "probability that an item is masked", minimum=0.01, maximum=1)
    ft_ratio: float = setting(0.5, "share of rows with only the last item masked", minimum=0, maximum=1)


@dataclass
class CORESettings(AttentionSettings):
    """CORE (Hou et al. 2022)."""

    dnn_type: str = setting("trm", "weights of the history's items: Transformer or mean", choices=("trm", "ave"))
    sess_dropout: float = setting(0.2, "dropout on the history's items", minimum=0, maximum=0.99)
    item_dropout: float = setting(0.2, "dropout on the candidates", minimum=0, maximum=0.99)
    temperature: float = setting(0.07, "temperature of the cosine", minimum=1e-6)


@dataclass
class PaddedSettings(AttentionSettings):
    """Networks that compute every position of every row, padding included."""

    padded_length: int = setting(50, "positions of each row; longer histories keep their last items", minimum=2)


@dataclass
class FEARecSettings(PaddedSettings):
    """FEARec (Du et al. 2023); its Fourier transforms run in fp32."""

    contrast: str = setting(
        "us_x", "contrastive term: a row's second view with a row of the same target, or none", choices=("none", "us_x")
    )
    lmd_sem: float = setting(0.1, "weight of the contrastive term", minimum=0)
    tau: float = setting(1.0, "temperature of the contrastive term", minimum=1e-6)
    global_ratio: float = setting(1.0, "share of the frequencies that each layer sees", minimum=0.01, maximum=1)
    topk_factor: int = setting(1, "delays aggregated: this times log(length)", minimum=1)


@dataclass
class LightSANsSettings(PaddedSettings):
    """LightSANs (Fan et al. 2021)."""

    k_interests: int = setting(5, "latent interests", minimum=1)


@dataclass
class FDSASettings(AttentionSettings):
    """FDSA (Zhang et al. 2019) with the words of titles as features."""

    pooling_mode: str = setting("mean", "pooling of a title's words", choices=("mean", "max", "sum"))
    title_language: str = setting("en", "language of the titles; Chinese is split by character", choices=("cn", "en"))
    title_words: int = setting(20, "words of a title that are read", minimum=1)

    def input_files(self) -> Dict[str, Path]:
        """The data set's files, titles included."""
        return {**super().input_files(), "items": items_path(self.dataset_dir, self.dataset)}


@dataclass
class ContentSettings(BaselineSettings, FeatureSettings):
    """A baseline on stage 1's features."""

    modalities: List[str] = setting(["text"], "item features of stage 1 to use", choices=MODALITIES, may_be_empty=False)
    whiten: Optional[int] = setting(
        None, "dimensions of each modality after PCA whitening; null: unit vectors, not whitened", minimum=1
    )


@dataclass
class NearestContentSettings(ContentSettings):
    """Items by the cosine of their features to the last items'; nothing is trained."""

    window: int = setting(1, "number of last items that count, with weight 1 / distance", minimum=1)


@dataclass
class TextSettings(AttentionSettings, ContentSettings):
    """SASRec on frozen features; SASRecIDText adds an embedding of the item's ID."""

    temperature: Optional[float] = setting(
        None, "rank by the cosine divided by this; null: by the inner product", minimum=1e-6
    )


@dataclass
class AlphaFuseSettings(TextSettings):
    """AlphaFuse (Hu et al. 2025); ``whiten`` is the number of directions of the features that are kept."""

    null_dim: int = setting(64, "width of the IDs, in the kept directions of least variance", minimum=1)

    def check(self) -> None:
        """An item's vector has room for the features and for its ID."""
        super().check()
        for name, value in (("whiten", self.whiten), ("null_dim", self.null_dim)):
            if value is None or value > self.hidden_size:
                raise UserError(f"{name}={value}: give a number up to hidden_size={self.hidden_size}")


@dataclass
class UniSRecSettings(TextSettings):
    """UniSRec (Hou et al. 2022) on one data set, without its pre-training."""

    temperature: Optional[float] = setting(
        0.07, "rank by the cosine divided by this; null: by the inner product", minimum=1e-6
    )
    n_experts: int = setting(8, "parametric whitenings in the mixture", minimum=1)
    adapter_dropout: float = setting(0.2, "dropout on features before the experts", minimum=0, maximum=0.99)


@dataclass
class EnsembleSettings(BaselineSettings):
    """(1 − w) · scores of a model on IDs + w · scores of a model on features; w is the best on validation.

    A part without a checkpoint is trained first, with its own YAML and the training settings given here
    (ID_SeqEncoder and Content_SeqEncoder: with their own YAML only).
    """

    id_checkpoint: Optional[str] = setting(None, "best.pth of the model on IDs; null: train id_part")
    text_checkpoint: Optional[str] = setting(None, "best.pth of the model on features; null: train text_part")
    id_part: str = setting("SASRec", "model on IDs", choices=("SASRec", "eSASRec", "ID_SeqEncoder", "GRU4Rec", "CORE"))
    text_part: str = setting(
        "UniSRec",
        "model on features",
        choices=("SASRecText", "UniSRec", "Content_SeqEncoder", "SASRecIDText", "NearestContent"),
    )
    part_trials: int = setting(0, "n_trials of a part that is trained here", minimum=0)
    modalities: List[str] = setting(["text"], "item features of text_part", choices=MODALITIES, may_be_empty=False)
    strategy: Optional[str] = setting(None, "strategy of text_part's features; null: paper", shapes=False)
    features_dir: Optional[str] = setting(
        None, "folder of text_part's features; null: where stage 1 writes those of strategy", shapes=False
    )
    zscore: bool = setting(True, "scale each user's scores to mean 0 and deviation 1 before they are added")
    weight_steps: int = setting(20, "w is one of 0, 1/steps, …, 1", minimum=1)

    def checkpoints(self) -> Dict[str, Path]:
        """The parts' checkpoints that are given, by setting."""
        given = {"id_checkpoint": self.id_checkpoint, "text_checkpoint": self.text_checkpoint}
        return {name: Path(path) for name, path in given.items() if path is not None}

    def input_files(self) -> Dict[str, Path]:
        """The data set's files and the parts' checkpoints."""
        return {**super().input_files(), **self.checkpoints()}


SCHEMAS: Dict[str, Type[RankingSettings]] = {
    "Pop": PopSettings,
    "Markov": MarkovSettings,
    "ItemKNN": ItemKNNSettings,
    "GRU4Rec": GRU4RecSettings,
    "NARM": NARMSettings,
    "SASRec": AttentionSettings,
    "eSASRec": ESASRecSettings,
    "BERT4Rec": BERT4RecSettings,
    "CORE": CORESettings,
    "FEARec": FEARecSettings,
    "LightSANs": LightSANsSettings,
    "FDSA": FDSASettings,
    "NearestContent": NearestContentSettings,
    "SASRecText": TextSettings,
    "SASRecIDText": TextSettings,
    "UniSRec": UniSRecSettings,
    "AlphaFuse": AlphaFuseSettings,
    "Ensemble": EnsembleSettings,
}
