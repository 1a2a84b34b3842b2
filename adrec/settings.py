"""ADRec's typed settings, with the paper's values. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional, Tuple

from common.errors import UserError
from common.item_fields import text_files
from common.run import LoopSettings, best_run
from common.settings import LARGEST_SEED, PrecisionSettings, setting, switch
from common.splits import SplitSettings

VALID_METRICS = ("hit@5", "hit@10", "hit@50", "ndcg@5", "ndcg@10", "ndcg@50", "mrr")
CHECKPOINT: Tuple[Tuple[str, ...], Dict[str, Any]] = (
    ("--checkpoint",),
    {"type": Path, "metavar": "FILE", "help": "a run's best.pth; default: the run that is best on validation"},
)


@dataclass
class ADRecSettings(LoopSettings, SplitSettings):
    """Training of ADRec. Settings whose help begins with "ours" are not in the paper."""

    topk: ClassVar[Tuple[int, ...]] = (5, 10, 50)

    seed: int = setting(22, "seed of every random choice", minimum=0, maximum=LARGEST_SEED)
    variant: str = setting(
        "paper",
        "paper: faults fixed; released: as the authors' code (docs/deviations.md)",
        choices=("paper", "released"),
    )
    # text encoder
    text_model: str = setting(
        "google-bert/bert-base-uncased", "BERT: a name on the Hugging Face hub, a folder, minilm, or small: made here"
    )
    plm_layer: int = setting(1, "layer of BERT whose hidden states are averaged; later layers are not run", minimum=1)
    title_language: str = setting("en", "language of the titles", choices=("en", "cn"))
    fields: List[str] = setting(["category", "brand", "title"], "text fields of an item, in this order")
    prompt: str = setting("Brought it for [MASK]", "text before the fields")
    separator: str = setting(" [SEP] ", "text between prompt and fields")
    max_text_tokens: int = setting(60, "tokens of a text; longer texts are cut", minimum=3)
    mean_over_real: Optional[bool] = switch("A2", "average over real tokens, without padding")
    mask_token: Optional[bool] = switch("A5", "[MASK] in the prompt is the special token")
    skip_empty_fields: Optional[bool] = switch("A13", "an empty field has no separator")
    train_text: bool = setting(True, "false (ours): the text encoder is not trained, each item is encoded once")
    frozen_text_layers: int = setting(
        0, "ours: BERT's embeddings and this many of its first layers are not trained, and run once per item", minimum=0
    )
    # sequence encoder
    max_seq_length: int = setting(20, "items of a history; longer histories keep their last items", minimum=1)
    n_layers: int = setting(3, "layers of the sequence encoder", minimum=1)
    n_heads: int = setting(4, "attention heads of the sequence encoder", minimum=1)
    inner_size: int = setting(1024, "inner width of its feed-forward sub-layers", minimum=1)
    layer_norm_eps: float = setting(1e-4, "epsilon of its LayerNorm", minimum=0)
    sequence_act: Optional[str] = switch(
        "A10", "activation of the sequence encoder: gelu or relu", paper="gelu", released="relu"
    )
    plain_init: Optional[bool] = switch(
        "A7", "initial weights from N(0, 0.02), LayerNorm 1; else all from U(−1/√d, 1/√d)"
    )
    sequence_dropout: float = setting(0.0, "dropout of the sequence encoder (paper: 0)", minimum=0, maximum=0.99)
    positions: bool = setting(False, "ours: learned positions, counted from the end of the history")
    history_map: bool = setting(False, "ours: a trained linear map of the items of a history, but not of targets")
    add_mean: bool = setting(True, "add the mean of the items to a sequence's vector; false (ours): last output alone")
    # item vectors
    adapter: bool = setting(False, "ours: whiten the item vectors and pass them through a trained linear layer")
    item_offsets: bool = setting(False, "ours: add a trained vector of each item to the vector of its text")
    offset_dropout: float = setting(0.0, "dropout of whole offsets", minimum=0, maximum=0.99)
    offset_directions: int = setting(
        0,
        "ours: offsets are in this many directions, in which texts vary least (AlphaFuse, arXiv 2504.19218); 0: in all",
        minimum=0,
        shapes="changed",
    )
    # contrastive terms
    queue_size: int = setting(10_000, "keys in each of the two queues", minimum=1)
    queues: List[str] = setting(
        ["items", "sequences"],
        "queues in use; ablation: without its queue, a term takes the batch's other rows as negatives",
        choices=("items", "sequences"),
    )
    momentum: float = setting(0.999, "m of the key encoders", minimum=0, maximum=1)
    rank_by: str = setting(
        "query", "encoders that rank: query, or key (ours), their moving averages", choices=("query", "key")
    )
    scale: float = setting(18.0, "s, the inverse temperature", minimum=1e-6)
    margin: float = setting(0.1, "m of the angle, in radians", minimum=0, maximum=3.15)
    weight_seq_item: float = setting(0.3, "weight of L(sequence → item key)", minimum=0)
    weight_item_seq: float = setting(0.3, "weight of L(item → sequence key)", minimum=0)
    weight_seq_seq: float = setting(0.2, "weight of L(sequence → sequence key)", minimum=0)
    weight_item_item: float = setting(0.2, "weight of L(item → item key)", minimum=0)
    enqueue_last: Optional[bool] = switch("A6", "a batch's keys enter the queues after all four terms")
    momentum_first: Optional[bool] = switch("A11", "the key encoders move before a batch's keys are computed")
    key_dropout: Optional[bool] = switch("A12", "the key encoders have dropout, so that a key differs from its query")
    mask_same_item: bool = setting(False, "ours: keys of the positive's item are not negatives")
    queue_correction: str = setting(
        "none",
        "ours: the queue of items has an item as often as it is a target. once_per_item: its keys weigh as one; logq: "
        "refined logQ (arXiv 2507.09331) in both queues, without keys of the positive's item",
        choices=("none", "once_per_item", "logq"),
    )
    # training
    train_batch_size: int = setting(64, "rows per step, over all processes", minimum=1)
    batch_by: Optional[str] = switch(
        "A14", "user: the rows of a user together, which share items; row: random rows", paper="user", released="row"
    )
    learning_rate: float = setting(4e-4, "Adam's learning rate", minimum=0)
    lr_step: int = setting(4, "epochs between decays of the learning rate", minimum=1)
    lr_gamma: float = setting(0.2, "factor of each decay", minimum=0)
    decay_after: Optional[bool] = switch("A9", "the learning rate decays after lr_step epochs; released: one earlier")
    epochs: int = setting(3, "largest number of epochs", minimum=1)
    stopping_step: int = setting(3, "stop after more validations in a row than this without a new best", minimum=0)
    valid_metric: str = setting(
        "ndcg@10", "metric that chooses the checkpoint; of equal values the latest counts", choices=VALID_METRICS
    )

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        return self.learning_rate * self.lr_gamma ** ((epoch if self.decay_after else epoch + 1) // self.lr_step)

    def input_files(self) -> Dict[str, Path]:
        """The files that a run reads, by meaning. A model of the hub is identified by its name alone."""
        files = {**super().input_files(), **text_files(self.dataset_dir, self.dataset)}
        if Path(self.text_model).is_dir():
            files["text_model"] = Path(self.text_model)
        return files

    def check(self) -> None:
        """No setting is without effect."""
        super().check()
        for name, has_no_effect, needs in (
            ("offset_dropout", self.offset_dropout > 0 and not self.item_offsets, "item_offsets=true"),
            ("offset_directions", self.offset_directions > 0 and not self.item_offsets, "item_offsets=true"),
            ("offset_directions", self.offset_directions > 0 and not self.adapter, "adapter=true"),
            ("frozen_text_layers", self.frozen_text_layers > 0 and not self.train_text, "train_text=true"),
        ):
            if has_no_effect:
                raise UserError(f"{name}={getattr(self, name)} has no effect without {needs}; set that, or omit {name}")


@dataclass
class EncodeSettings(PrecisionSettings):
    """Scripts that read a trained ADRec."""

    results_dir: str = setting("results", "folder of results and checkpoints, <model>/<dataset>/<run>/")


def chosen_checkpoint(given: Optional[Path], results_dir: str, dataset: str) -> Path:
    """``--checkpoint``, or the checkpoint of ADRec's run that is best on validation."""
    return given or best_run(results_dir, "ADRec", dataset, "ndcg@10")
