"""The typed settings of the baselines; RecBole's models keep RecBole's names and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Type

from common.settings import setting
from stage2_sequence_preference_learning.layers import check_heads
from stage2_sequence_preference_learning.settings import LoopSettings, SearchSettings, TrainSettings


@dataclass
class RankingSettings(LoopSettings):
    """What every baseline knows."""

    train_batch_size: int = setting(2048, "targets per step", minimum=2)
    epochs: int = setting(200, "at most so many epochs", minimum=1)
    valid_metric: str = setting(
        "ndcg@10", "chooses the epoch and the trial", choices=("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")
    )


@dataclass
class BaselineSettings(SearchSettings, RankingSettings):
    """A baseline with settings to tune."""


@dataclass
class AttentionSettings(BaselineSettings, TrainSettings):
    """RecBole's Transformer encoder."""

    hidden_size: int = setting(64, "width d of items, positions and layers", minimum=1)
    inner_size: int = setting(256, "inner width of the feed-forward sub-layers", minimum=1)


@dataclass
class PopSettings(RankingSettings):
    """How often an item occurs."""


@dataclass
class MarkovSettings(BaselineSettings):
    """Counted transitions."""

    window: int = setting(1, "an item leads to those up to so many places on, weighted 1 / distance", minimum=1)
    backoff: float = setting(
        0.001, "weight of the items' popularity, which ranks what was never seen to follow", minimum=0
    )


@dataclass
class ItemKNNSettings(BaselineSettings):
    """Cosine of items over users, RecBole's ItemKNN for histories."""

    k: int = setting(100, "neighbours kept for each item", minimum=1)
    shrink: float = setting(0.0, "added to the cosine's denominator", minimum=0)


@dataclass
class GRU4RecSettings(BaselineSettings):
    """GRU4Rec with full cross entropy."""

    embedding_size: int = setting(64, "width of items", minimum=1)
    hidden_size: int = setting(128, "width of the recurrent state", minimum=1)
    num_layers: int = setting(1, "recurrent layers", minimum=1)
    dropout_prob: float = setting(0.3, "dropout on embeddings", minimum=0, maximum=0.99)


@dataclass
class NARMSettings(BaselineSettings):
    """NARM."""

    embedding_size: int = setting(64, "width of items", minimum=1)
    hidden_size: int = setting(128, "width of the recurrent state", minimum=1)
    n_layers: int = setting(1, "recurrent layers", minimum=1)
    embedding_dropout: float = setting(0.25, "dropout on embeddings", minimum=0, maximum=0.99)
    context_dropout: float = setting(0.5, "dropout on the session's vector", minimum=0, maximum=0.99)


@dataclass
class BERT4RecSettings(AttentionSettings):
    """BERT4Rec."""

    hidden_dropout_prob: float = setting(0.2, "dropout on embeddings and sub-layer outputs", minimum=0, maximum=0.99)
    attn_dropout_prob: float = setting(0.2, "dropout on attention weights", minimum=0, maximum=0.99)
    mask_ratio: float = setting(0.2, "chance of an item to be masked", minimum=0.01, maximum=1)
    ft_ratio: float = setting(0.5, "share of rows whose last item alone is masked", minimum=0, maximum=1)


@dataclass
class CORESettings(BaselineSettings):
    """CORE with its Transformer weights."""

    embedding_size: int = setting(64, "width of items and layers", minimum=1)
    inner_size: int = setting(256, "inner width of the feed-forward sub-layers", minimum=1)
    n_layers: int = setting(2, "layers", minimum=1)
    n_heads: int = setting(2, "attention heads", minimum=1)
    hidden_dropout_prob: float = setting(0.5, "dropout on embeddings and sub-layer outputs", minimum=0, maximum=0.99)
    attn_dropout_prob: float = setting(0.5, "dropout on attention weights", minimum=0, maximum=0.99)
    hidden_act: str = setting("gelu", "activation", choices=("gelu", "relu", "swish", "tanh", "sigmoid"))
    layer_norm_eps: float = setting(1e-12, "epsilon of LayerNorm", minimum=0)
    initializer_range: float = setting(0.02, "standard deviation of the layers' initial weights", minimum=0)
    dnn_type: str = setting("trm", "weights of the history's items: Transformer or mean", choices=("trm", "ave"))
    sess_dropout: float = setting(0.2, "dropout on the history's items", minimum=0, maximum=0.99)
    item_dropout: float = setting(0.2, "dropout on the candidates", minimum=0, maximum=0.99)
    temperature: float = setting(0.07, "temperature of the cosine", minimum=1e-6)

    def check(self) -> None:
        """Each head has a whole number of dimensions."""
        super().check()
        check_heads(self.n_heads, embedding_size=self.embedding_size)


@dataclass
class PaddedSettings(AttentionSettings):
    """Networks that compute every position of every row, padding included."""

    padded_length: int = setting(50, "positions of each row; longer histories keep their last items", minimum=2)


@dataclass
class FEARecSettings(PaddedSettings):
    """FEARec; its Fourier transforms run in fp32."""

    contrast: str = setting(
        "us_x",
        "pairs of its contrastive term: same row, same target, both, crossed",
        choices=("none", "un", "su", "us", "us_x"),
    )
    lmd: float = setting(0.1, "weight of pairs of the same row", minimum=0)
    lmd_sem: float = setting(0.1, "weight of pairs of the same target", minimum=0)
    tau: float = setting(1.0, "temperature of the contrastive term", minimum=1e-6)
    sim: str = setting("dot", "similarity of the contrastive term", choices=("dot", "cos"))
    global_ratio: float = setting(1.0, "share of the frequencies that each layer sees", minimum=0.01, maximum=1)
    topk_factor: int = setting(1, "delays aggregated: this times log(length)", minimum=1)
    dual_domain: bool = setting(False, "mix attention in the time domain in")
    spatial_ratio: float = setting(0.0, "its share", minimum=0, maximum=1)
    std: bool = setting(False, "the time domain uses the layer's frequencies alone")


@dataclass
class LightSANsSettings(PaddedSettings):
    """LightSANs."""

    k_interests: int = setting(5, "latent interests", minimum=1)


@dataclass
class FDSASettings(AttentionSettings):
    """FDSA with the words of titles as features."""

    pooling_mode: str = setting("mean", "how words make a title", choices=("mean", "max", "sum"))
    title_language: str = setting(
        "en", "titles to take the words from; Chinese ones by character", choices=("cn", "en")
    )
    title_words: int = setting(20, "words of a title that count", minimum=1)


@dataclass
class FeatureSettings(BaselineSettings):
    """What reads features of stage 1."""

    modalities: List[str] = setting(
        ["text"], "stage 1's features in use", choices=("text", "image"), may_be_empty=False
    )
    features_dir: Optional[str] = setting(None, "folder of <D>_{text,image}_llm_stage1.pth; null: the data set's")
    whiten: Optional[int] = setting(
        None, "PCA-whiten each modality to so many dimensions; null takes it as it is", minimum=1
    )


@dataclass
class NearestContentSettings(FeatureSettings):
    """Cosine with the last items' features."""

    window: int = setting(1, "so many of the last items count, weighted 1 / distance", minimum=1)


@dataclass
class TextSettings(AttentionSettings, FeatureSettings):
    """SASRec on frozen features of stage 1."""

    temperature: Optional[float] = setting(None, "rank by the cosine over this; null by the product", minimum=1e-6)


@dataclass
class UniSRecSettings(TextSettings):
    """UniSRec's adapter, from scratch."""

    temperature: Optional[float] = setting(0.07, "rank by the cosine over this; null by the product", minimum=1e-6)
    n_experts: int = setting(8, "parametric whitenings in the mixture", minimum=1)
    adapter_dropout: float = setting(0.2, "dropout on features before the experts", minimum=0, maximum=0.99)


@dataclass
class EnsembleSettings(BaselineSettings):
    """Sum of two models' scores. Settings of training are those of models that are trained for it; ID_SeqEncoder and
    Content_SeqEncoder keep those of their YAMLs."""

    id_checkpoint: Optional[str] = setting(None, "best.pth of the ID model; null trains id_part with its own YAML")
    text_checkpoint: Optional[str] = setting(None, "best.pth of the text model; null trains text_part likewise")
    id_part: str = setting("SASRec", "model on IDs", choices=("SASRec", "ID_SeqEncoder", "GRU4Rec", "CORE"))
    text_part: str = setting(
        "UniSRec",
        "model on features",
        choices=("SASRecText", "UniSRec", "Content_SeqEncoder", "SASRecIDText", "NearestContent"),
    )
    part_trials: int = setting(0, "n_trials of both models, where they are trained here", minimum=0)
    features_dir: Optional[str] = setting(None, "folder of the features, for the text model")
    modalities: List[str] = setting(
        ["text"], "features in use, for the text model", choices=("text", "image"), may_be_empty=False
    )
    zscore: bool = setting(True, "bring each user's scores to mean 0 and deviation 1 before they are added")
    weight_steps: int = setting(20, "the text model's weight is the best of 0, 1/steps … 1 on validation", minimum=1)


SCHEMAS: Dict[str, Type[Any]] = {
    "Pop": PopSettings,
    "Markov": MarkovSettings,
    "ItemKNN": ItemKNNSettings,
    "GRU4Rec": GRU4RecSettings,
    "NARM": NARMSettings,
    "SASRec": AttentionSettings,
    "BERT4Rec": BERT4RecSettings,
    "CORE": CORESettings,
    "FEARec": FEARecSettings,
    "LightSANs": LightSANsSettings,
    "FDSA": FDSASettings,
    "NearestContent": NearestContentSettings,
    "SASRecText": TextSettings,
    "SASRecIDText": TextSettings,
    "UniSRec": UniSRecSettings,
    "Ensemble": EnsembleSettings,
}
