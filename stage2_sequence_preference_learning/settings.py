"""The typed settings of the three trainings, with the papers' values, and RecBole's Config made of them."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Type

import torch
from recbole.config import Config

import common.runs
import common.settings
from common.features import find_features
from common.settings import ComputeSettings, SeedSettings, as_dict, setting
from stage2_sequence_preference_learning.layers import check_heads

PROPS = Path(__file__).parent / "props"
SWITCHES = ("train_ffw_lora", "stack_mix_layers", "mask_same_target", "rank_normalized")


@dataclass
class FolderSettings(SeedSettings):
    """Where a run lies, and how long its histories are."""

    results_dir: str = setting("results", "results and checkpoints, <model>/<dataset>/<run>/")
    run: Optional[str] = setting(None, "name of the run; null names it after variant, seed and what made it")
    max_seq_length: int = setting(50, "positions; longer histories keep their last items", minimum=1)

    def check(self) -> None:
        """``run`` is a folder's name."""
        super().check()
        common.settings.check_folder_names(run=self.run)


@dataclass
class RunSettings(FolderSettings, ComputeSettings):
    """What every run of a network knows."""


@dataclass
class StageSettings(RunSettings):
    """What step 1 and step 2 share: they must agree on it, or the weights do not fit (S7)."""

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
class LoopSettings(RunSettings):
    """Training, the same keys for each model."""

    train_batch_size: int = setting(1024, "targets per step, over all processes", minimum=2)
    learning_rate: float = setting(1e-3, "Adam's learning rate", minimum=0)
    epochs: int = setting(300, "at most so many epochs", minimum=1)
    stopping_step: int = setting(
        10, "stop once more validations in a row than this were worse (equal ones are not)", minimum=0
    )
    valid_metric: str = setting(
        "hit@10", "chooses the epoch, of equals the latest", choices=("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")
    )
    clip_grad_norm: Optional[float] = setting(None, "largest gradient norm; null does not clip", minimum=0)
    test: bool = setting(True, "after training, evaluate the best epoch on the test split")


@dataclass
class TrainSettings(LoopSettings, StageSettings):
    """A training of one of the three models."""

    hidden_dropout_prob: float = setting(0.5, "dropout on embeddings and sub-layer outputs", minimum=0, maximum=0.99)
    attn_dropout_prob: float = setting(0.5, "dropout on attention weights", minimum=0, maximum=0.99)


@dataclass
class IDSettings(TrainSettings):
    """Step 1, `ID_SeqEncoder`."""


@dataclass
class ContentSettings(TrainSettings):
    """`Content_SeqEncoder`, and what `SICSRec` has as well."""

    variant: str = setting(
        "paper", "paper: faults mended; released: as the authors' code", choices=("paper", "released")
    )
    modalities: List[str] = setting(
        ["text", "image"], "stage 1's features in use", choices=("text", "image"), may_be_empty=False
    )
    features_dir: Optional[str] = setting(
        None, "folder of <D>_{text,image}_llm_stage1.pth; null: where stage 1 put them"
    )
    temperature: float = setting(0.05, "τ of both tasks", minimum=1e-6)
    lamba: float = setting(0.01, "λ of the tables' norms", minimum=0)
    alpha: float = setting(1.0, "α, weight of the content-aware contrastive task", minimum=0)
    mask_same_target: Optional[bool] = setting(
        None, "S10: leave rows with the same target out of the contrastive sum; null: as variant says"
    )


SEARCH_SPACE = "per setting a list of values (grid), or {low, high} with optional log, step (TPE)"


@dataclass
class SearchSettings(RunSettings):
    """A search on validation."""

    n_trials: int = setting(
        0, "Optuna trials over search_space; 0 trains once with the settings as they are", minimum=0
    )
    search_space: Dict[str, Any] = setting({}, SEARCH_SPACE)
    search_seed: int = setting(2024, "seed of the trials; what they chose is then trained with seed", minimum=0)


@dataclass
class SICSRecSettings(SearchSettings, ContentSettings):
    """Step 2, `SICSRec`."""

    alpha: float = setting(0.2, "α, weight of the content-aware contrastive task", minimum=0)
    lora_rank: int = setting(4, "rank of the LoRA maps", minimum=1)
    branches: str = setting(
        "id+content+mix",
        "what the preference is made of; ablations: without the mix decoder, the ID branch, the content branch",
        choices=("id+content+mix", "id+content", "content", "id"),
    )
    id_tuning: str = setting(
        "lora",
        "how the ID encoder's layers go on from step 1; ablations: full trains all their weights, frozen none; "
        "neither has LoRA",
        choices=("lora", "full", "frozen"),
    )
    pretrain_id: Optional[str] = setting(
        None,
        "checkpoint of the ID encoder, ours or published; null trains step 1 first, none starts at random, where "
        "id_tuning=full trains everything in one step",
    )
    train_ffw_lora: Optional[bool] = setting(
        None, "S8: train the LoRA after the feed-forward sub-layers; null: as variant says"
    )
    stack_mix_layers: Optional[bool] = setting(
        None, "S9: the mix decoder's layers build on each other; null: as variant says"
    )
    rank_normalized: Optional[bool] = setting(
        None, "S11: rank by the normalised item table, as trained; null: as variant says"
    )
    search_space: Dict[str, Any] = setting({"alpha": [round(0.1 * i, 1) for i in range(1, 11)]}, SEARCH_SPACE)


SCHEMAS = {"ID_SeqEncoder": IDSettings, "Content_SeqEncoder": ContentSettings, "SICSRec": SICSRecSettings}
OTHERS: Dict[str, Type[Any]] = {}  # settings of `models.OTHERS`
# files are known by their checksums, and a search by the run it chose
NOT_SHAPING = (
    *common.runs.NOT_SHAPING,
    "features_dir",
    "pretrain_id",
    "n_trials",
    "search_space",
    "search_seed",
)
ABLATIONS = ("branches", "id_tuning")
CHECKPOINTS = ("id_checkpoint", "text_checkpoint")  # settings that name another run's best.pth


def schema_of(model: str) -> Type[Any]:
    """The settings' dataclass of a model by its name."""
    return {**SCHEMAS, **OTHERS}[model]


def features_folder(settings: Any) -> Path:
    """``features_dir``, or where stage 1 put the features of this variant."""
    return Path(settings.features_dir or find_features(settings.dataset_dir, getattr(settings, "variant", "paper")))


def resolve_switches(settings: Any) -> Any:
    """Give every switch that is null the value its variant stands for; the settings are changed and returned."""
    return common.settings.resolve_switches(settings, SWITCHES)


def shaping(settings: Any) -> Dict[str, Any]:
    """The settings that shape a run's numbers."""
    return common.runs.shaping(settings, NOT_SHAPING, ABLATIONS)


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """RecBole's Config reads sys.argv, which was read already, and hides all GPUs by CUDA_VISIBLE_DEVICES for good."""
    words, sys.argv = sys.argv, sys.argv[:1]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        yield
    finally:
        sys.argv = words
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


def recbole_config(model: Any, settings: Any, device: torch.device, run_dir: Path) -> Config:
    """RecBole's Config of one of our models or of its own; every value stands in ``settings``."""
    values = {k: v for k, v in as_dict(settings).items() if k not in ("dataset", "device", "precision")}
    values.update(
        data_path=str(settings.dataset_dir / "recbole"),
        benchmark_filename=["train", "valid", "test"],
        load_col={"inter": ["user_id", "item_id_list", "item_id"]},
        alias_of_item_id=["item_id_list"],
        USER_ID_FIELD="user_id",
        ITEM_ID_FIELD="item_id",
        LIST_SUFFIX="_list",
        MAX_ITEM_LIST_LENGTH=settings.max_seq_length,
        train_neg_sample_args=None,
        eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
        metrics=["Hit", "NDCG", "MRR"],
        topk=[5, 10],
        eval_step=1,
        loss_type="CE",
        checkpoint_dir=str(run_dir),
        clip_grad_norm={"max_norm": settings.clip_grad_norm} if settings.clip_grad_norm else None,
        gpu_id="",
        show_progress=sys.stderr.isatty(),
        reproducibility=True,
    )
    if hasattr(settings, "features_dir"):
        values["features_dir"] = str(features_folder(settings))
    with _process_left_alone():
        config = Config(model=model, dataset=settings.dataset, config_dict=values)
    config["data_path"] = str(
        settings.dataset_dir / "recbole" / settings.dataset
    )  # for ml-100k it prefers its own copy
    config["device"] = device
    return config
