"""The typed settings of stage 2's trainings, with the paper's values. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Tuple

from common.dataset import items_path
from common.errors import UserError
from common.features import MODALITIES, check_made_from, check_there, features_dir, features_path
from common.run import LoopSettings
from common.settings import CommonSettings, setting, switch, typed
from common.splits import SplitSettings

PROPS = Path(__file__).parent / "props"
N_TRIALS, PRETRAIN_ID = ("--n_trials", "n_trials", "N"), ("-pretrain_id", "pretrain_id", "FILE")  # for `parse`
VARIANT = "paper: faults fixed; released: as the authors' code (docs/deviations.md)"

LOSS = "use loss: cross entropy over all items, or sampled_softmax with n_negatives"
OPTIMIZER = "Adam without weight decay trains"
RANKING = "all items are ranked, leave one out; metrics.json has HIT and NDCG @5 and @10, and MRR"
FILES = "trainings read sequential_data.txt; recbole_process.py writes user_id, item_id_list, item_id"
FILTERS = "prepare_dataset.py filters: k_core, min_length, duplicates"
COLUMNS = "inter user_id item_id_list item_id"
NO_EFFECT = (
    "TIME_FIELD ITEM_LIST_LENGTH_FIELD LIST_SUFFIX POSITION_FIELD NEG_PREFIX field_separator seq_separator "
    "eval_batch_size metric_decimal_place loss_decimal_place state show_progress reproducibility worker "
    "save_dataset save_dataloaders log_wandb"
)
# RecBole's keys, and those of the authors' YAMLs (common/settings.py says how they are read)
RECBOLE: Dict[str, Tuple[str, Optional[str]]] = {
    "MAX_ITEM_LIST_LENGTH": ("max_seq_length", None),
    "model": ("each model has its script", ""),
    "data_path": ("use datasets_dir, the folder of the prepared data sets", ""),
    "checkpoint_dir": ("use results_dir", ""),
    "gpu_id": ("use device=cuda:N", "0"),
    "use_gpu": ("use device=cpu", "true"),
    "enable_amp": ("use precision", ""),
    "enable_scaler": ("use precision", ""),
    "learner": (OPTIMIZER, "adam"),
    "weight_decay": (OPTIMIZER, "0"),
    "loss_type": (LOSS, "ce"),
    "train_neg_sample_args": (LOSS, "none"),
    "neg_sampling": (LOSS, "none"),
    "shuffle": ("rows are drawn anew in each epoch", "true"),
    "eval_step": ("use valid_steps", "1"),
    "eval_args": (RANKING, "split ls valid_and_test order to group_by none user mode full"),
    "metrics": (RANKING, "hit ndcg mrr"),
    "topk": (RANKING, "5 10"),
    "valid_metric_bigger": (RANKING, "true"),
    "repeatable": (RANKING, "true"),
    "load_col": (FILES, COLUMNS),
    "alias_of_item_id": (FILES, COLUMNS),
    "USER_ID_FIELD": (FILES, COLUMNS),
    "ITEM_ID_FIELD": (FILES, COLUMNS),
    "benchmark_filename": (FILES, "train valid test"),
    "user_inter_num_interval": (FILTERS, "0 inf none"),
    "item_inter_num_interval": (FILTERS, "0 inf none"),
    "rm_dup_inter": (FILTERS, "none"),
    "val_interval": (FILTERS, "none"),
    **dict.fromkeys(NO_EFFECT.split(), ("no number depends on it", None)),
}


@dataclass
class HistorySettings(SplitSettings):
    """How the data are split, and how long histories are."""

    foreign: ClassVar[Mapping[str, Tuple[str, Optional[str]]]] = RECBOLE

    max_seq_length: int = setting(50, "positions; longer histories keep their last items", minimum=1)


@dataclass
class NetworkSettings(HistorySettings):
    """Sizes that step 1 and step 2 share: otherwise the weights of one do not fit the other (S7)."""

    hidden_size: int = setting(256, "width d of items, positions and layers", minimum=1)
    n_layers: int = setting(2, "layers of each branch", minimum=1)
    n_heads: int = setting(2, "attention heads", minimum=1)
    inner_size: int = setting(256, "inner width of the feed-forward sub-layers", minimum=1)
    hidden_act: str = setting(
        "gelu", "activation of the feed-forward sub-layers", choices=("gelu", "relu", "swish", "tanh", "sigmoid")
    )
    layer_norm_eps: float = setting(1e-12, "epsilon of LayerNorm", minimum=0)
    initializer_range: float = setting(0.02, "standard deviation of initial weights", minimum=0)

    def check(self) -> None:
        """Each head has a whole number of dimensions."""
        super().check()
        check_heads(self.n_heads, hidden_size=self.hidden_size)


@dataclass
class LossSettings(CommonSettings):
    """The loss of the next item."""

    loss: str = setting(
        "cross_entropy",
        "over all items (cross_entropy), or over the target and n_negatives random items (sampled_softmax; with logQ "
        "correction sampled_softmax_logq)",
        choices=("cross_entropy", "sampled_softmax", "sampled_softmax_logq"),
    )
    n_negatives: int = setting(256, "negatives of both sampled softmaxes, for each prediction", minimum=1)


@dataclass
class TransformerSettings(LossSettings, LoopSettings, NetworkSettings):
    """A training of a Transformer."""

    hidden_dropout_prob: float = setting(0.5, "dropout on embeddings and sub-layer outputs", minimum=0, maximum=0.99)
    attn_dropout_prob: float = setting(0.5, "dropout on attention weights", minimum=0, maximum=0.99)


def model_option(model: str) -> Tuple[Tuple[str, ...], Dict[str, Any]]:
    """``-m MODEL``, which the authors' scripts take, as an argument of `parse`."""
    return ("-m",), {"choices": [model], "help": f"{model}, as for the authors' script"}


def check_heads(heads: int, **width: int) -> None:
    """Raise a `UserError` unless the width, passed under its setting's name, is a multiple of the attention heads."""
    for name, d in width.items():
        if d % heads:
            raise UserError(f"{name}={d} is not a multiple of n_heads={heads}; change one of them")


@dataclass
class FeatureSettings(HistorySettings):
    """Which item features of stage 1 a model reads."""

    modalities: List[str] = setting(
        ["text", "image"], "item features of stage 1 to use", choices=MODALITIES, may_be_empty=False
    )
    strategy: Optional[str] = setting(
        None, "name of stage 1's pairs, encoders and features; null: paper or released, as variant says", shapes=False
    )
    features_dir: Optional[str] = setting(
        None, "folder of <D>_{text,image}_llm_stage1.pth; null: where stage 1 writes those of strategy", shapes=False
    )

    @property
    def features_folder(self) -> Path:
        """``features_dir`` or its default, which depends on the variant where there is one."""
        strategy = self.strategy or vars(self).get("variant", "paper")
        return Path(self.features_dir) if self.features_dir else features_dir(self.dataset_dir, strategy)

    def input_files(self) -> Dict[str, Path]:
        """The data set's files and the features.

        Raises:
            UserError: features are missing or were made from other items.
        """
        files = super().input_files()
        for modality in self.modalities:
            path = features_path(self.features_folder, self.dataset, modality)
            check_there(path)
            check_made_from(path, items_path(self.dataset_dir, self.dataset))
            files[modality] = path
        return files


BATCH_BY = "user: all rows of a user together, which share one pass; row: rows at random"


@dataclass
class IDSettings(TransformerSettings):
    """Step 1, `ID_SeqEncoder`."""

    batch_by: str = setting("user", BATCH_BY, choices=("user", "row"))


@dataclass
class SearchSettings(LoopSettings, HistorySettings):
    """A search on validation."""

    n_trials: int = setting(
        0, "Optuna trials over search_space; 0 trains once with the given settings", minimum=0, shapes=False
    )
    search_space: Dict[str, Any] = setting(
        {}, "per setting a list of values (grid), or {low, high} with optional log, step (TPE)", shapes=False
    )
    search_seed: int = setting(
        2024, "seed of the trials; the settings that they choose are then trained with seed", minimum=0, shapes=False
    )


@dataclass
class ContentSettings(SearchSettings, TransformerSettings, FeatureSettings):
    """`Content_SeqEncoder`; `SICSRec` has these too."""

    variant: str = setting("paper", VARIANT, choices=("paper", "released"))
    temperature: float = setting(0.05, "τ of both tasks", minimum=1e-6)
    lamba: float = setting(0.01, "λ of the tables' norms", minimum=0)
    alpha: float = setting(1.0, "α, weight of the content-aware contrastive task", minimum=0)
    train_features: bool = setting(
        True,
        "train the tables of features; false keeps them as stage 1 wrote them, with a quarter of the memory",
        shapes="changed",
    )
    mask_same_target: Optional[bool] = switch("S10", "leave rows with the same target out of the contrastive sum")
    normal_init: Optional[bool] = switch(
        "S16", "all weights start from N(0, initializer_range); released: torch's defaults, and equal layers in a stack"
    )
    batch_by: Optional[str] = switch("S17", BATCH_BY, paper="user", released="row")
    search_space: Dict[str, Any] = setting(
        {"alpha": [round(0.1 * i, 1) for i in range(1, 11)]},
        "per setting a list of values (grid), or {low, high} with optional log, step (TPE)",
        shapes=False,
    )


@dataclass
class SICSRecSettings(ContentSettings):
    """Step 2, `SICSRec`."""

    alpha: float = setting(0.2, "α, weight of the content-aware contrastive task", minimum=0)
    item_dropout: float = setting(0.5, "dropout on the ID table in the loss (S18)", minimum=0, maximum=0.99)
    lora_rank: int = setting(4, "rank of the LoRA maps", minimum=1)
    branches: str = setting(
        "id+content+mix",
        "outputs that make the preference; ablations: without the mix decoder, the ID branch, the content branch",
        choices=("id+content+mix", "id+content", "content", "id"),
    )
    id_tuning: str = setting(
        "lora",
        "training of the ID encoder's layers in step 2: lora; ablations: full trains all their weights, frozen none, "
        "both without LoRA",
        choices=("lora", "full", "frozen"),
    )
    pretrain_id: Optional[str] = setting(
        None,
        "checkpoint of the ID encoder, ours or published; null: train step 1 first; none: start at random (with "
        "id_tuning=full everything is trained in one step)",
        shapes=False,
    )
    step_1: Dict[str, Any] = setting(
        {}, "settings of step 1 where it is trained here, such as {epochs: 50}", shapes=False
    )
    train_ffw_lora: Optional[bool] = switch("S8", "train the LoRA after the feed-forward sub-layers")
    stack_mix_layers: Optional[bool] = switch("S9", "the mix decoder's layers build on each other")
    rank_normalized: Optional[bool] = switch("S11", "rank by the normalised item table, as in training")

    def check(self) -> None:
        """The settings of step 1 are known and of the right types, even where step 1 is not trained here."""
        super().check()
        typed(IDSettings, self.step_1, "step_1")

    def input_files(self) -> Dict[str, Path]:
        """The data set's files, the features and the ID encoder. Raises `UserError` if one is missing."""
        files = super().input_files()
        if self.pretrain_id not in (None, "none"):
            files["id_encoder"] = Path(str(self.pretrain_id))
            if not files["id_encoder"].is_file():
                raise UserError(f"pretrain_id={self.pretrain_id}: no such file; give the best.pth of an ID_SeqEncoder")
        return files
