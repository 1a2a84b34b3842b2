"""ADRec's typed settings, with the paper's values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from common.errors import UserError
from common.settings import LARGEST_SEED, ComputeSettings, check_folder_names, setting

PROPS = Path(__file__).parent / "props"
SWITCHES = ("mean_over_real", "mask_token", "enqueue_last", "plain_init")


@dataclass
class ADRecSettings(ComputeSettings):
    """Training of ADRec."""

    seed: int = setting(22, "seed of every random choice", minimum=0, maximum=LARGEST_SEED)
    results_dir: str = setting("results", "results and checkpoints, <model>/<dataset>/<run>/")
    run: Optional[str] = setting(None, "name of the run; null names it after variant, seed and what made it")
    variant: str = setting(
        "paper", "paper: faults mended; released: as the authors' code", choices=("paper", "released")
    )
    # text
    text_model: str = setting(
        "google-bert/bert-base-uncased", "BERT: a name on the Hugging Face hub, a folder, or small: made here"
    )
    plm_layer: int = setting(
        1, "layer of BERT whose hidden states are the tokens' vectors; none above is run", minimum=1
    )
    title_language: str = setting("en", "titles that are read", choices=("en", "cn"))
    fields: List[str] = setting(["category", "brand", "title"], "text fields of an item, in their order")
    prompt: str = setting("Brought it for [MASK]", "what stands before the fields")
    separator: str = setting(" [SEP] ", "what stands between prompt and fields")
    max_text_tokens: int = setting(60, "longer texts are cut", minimum=3)
    mean_over_real: Optional[bool] = setting(None, "A2: sum over real tokens, not over padding; null: as variant says")
    mask_token: Optional[bool] = setting(None, "A5: [MASK] in the prompt is the special token; null: as variant says")
    # sequences
    max_seq_length: int = setting(20, "longer histories keep their last items", minimum=1)
    n_layers: int = setting(3, "layers of the sequence encoder", minimum=1)
    n_heads: int = setting(4, "attention heads of the sequence encoder", minimum=1)
    inner_size: int = setting(1024, "inner width of its feed-forward sub-layers", minimum=1)
    layer_norm_eps: float = setting(1e-4, "epsilon of its LayerNorm", minimum=0)
    plain_init: Optional[bool] = setting(
        None, "A7: N(0, 0.02), LayerNorm 1; false: all from U(−1/√d, 1/√d); null: as variant says"
    )
    sequence_dropout: float = setting(0.0, "dropout of the sequence encoder (paper: 0)", minimum=0, maximum=0.99)
    positions: bool = setting(False, "ours: add learned positions, counted from the end, to the sequence encoder")
    history_map: bool = setting(
        False, "ours: a trained linear map of the items in a history, which so differ from the same items as targets"
    )
    add_mean: bool = setting(True, "a sequence's vector holds its items' mean; false (ours): the last output alone")
    adapter: bool = setting(False, "ours: whiten the items' vectors and pass them through a trained linear layer")
    item_offsets: bool = setting(False, "ours: add a trained vector of each item to that of its text")
    offset_dropout: float = setting(0.0, "chance of an item's offset to be dropped", minimum=0, maximum=0.99)
    # contrast
    queue_size: int = setting(10_000, "keys in each of the two queues", minimum=1)
    queues: List[str] = setting(
        ["items", "sequences"],
        "queues in use; terms without theirs take the other rows of the process's batch",
        choices=("items", "sequences"),
    )
    momentum: float = setting(0.999, "m of the key encoders", minimum=0, maximum=1)
    rank_by: str = setting(
        "query",
        "encoders that rank: query, the trained ones; key (ours), their averages over some 1 / (1 - momentum) steps",
        choices=("query", "key"),
    )
    scale: float = setting(18.0, "s, the inverse temperature", minimum=1e-6)
    margin: float = setting(0.1, "m of the angle, in radians", minimum=0, maximum=3.15)
    weight_seq_item: float = setting(0.3, "weight of L(sequence → item key)", minimum=0)
    weight_item_seq: float = setting(0.3, "weight of L(item → sequence key)", minimum=0)
    weight_seq_seq: float = setting(0.2, "weight of L(sequence → sequence key)", minimum=0)
    weight_item_item: float = setting(0.2, "weight of L(item → item key)", minimum=0)
    enqueue_last: Optional[bool] = setting(
        None, "A6: a batch's keys enter the queues after all four terms; null: as variant says"
    )
    mask_same_item: bool = setting(False, "ours: keys of the positive's own item are none of its negatives")
    once_per_item: bool = setting(
        False, "ours: the keys of an item in the queue of items weigh as one negative, however often it was a target"
    )
    history_weight: float = setting(
        0.0,
        "ours: each item of a sequence's own history is a negative of the term sequence → item, taken so many times",
        minimum=0,
    )
    in_batch_negatives: bool = setting(False, "ours: the keys of the batch's other rows are negatives as well")
    # training
    train_batch_size: int = setting(64, "rows per step, over all processes", minimum=1)
    batch_by: str = setting(
        "user", "user: a user's rows together, which share their items; row: rows at random", choices=("user", "row")
    )
    learning_rate: float = setting(4e-4, "Adam's learning rate", minimum=0)
    text_learning_rate: Optional[float] = setting(
        None, "ours: another one for the text encoder; null: the same", minimum=0
    )
    train_text: bool = setting(True, "false (ours): the text encoder stays as it is, each item is encoded once")
    frozen_text_layers: int = setting(
        0, "ours: BERT's embeddings and so many of its first layers stay as they are, run once per item", minimum=0
    )
    warmup_steps: int = setting(0, "ours: steps over which the learning rates grow from 0", minimum=0)
    lr_step: int = setting(4, "epochs between decays of the learning rate (A9)", minimum=1)
    lr_gamma: float = setting(0.2, "factor of each decay", minimum=0)
    clip_grad_norm: Optional[float] = setting(None, "largest gradient norm; null does not clip", minimum=0)
    epochs: int = setting(3, "at most so many epochs", minimum=1)
    valid_steps: Optional[int] = setting(None, "steps between validations; null: after each epoch", minimum=1)
    stopping_step: int = setting(3, "stop once more validations in a row than this were no better", minimum=0)
    valid_metric: str = setting(
        "ndcg@10",
        "chooses the checkpoint, of equals the first",
        choices=("hit@5", "hit@10", "hit@50", "ndcg@5", "ndcg@10", "ndcg@50", "mrr"),
    )
    log_steps: int = setting(50, "steps between entries in TensorBoard", minimum=1)
    test: bool = setting(True, "after training, evaluate the best checkpoint on the test split")

    def check(self) -> None:
        """No setting is without effect, ``run`` is a folder's name."""
        super().check()
        check_folder_names(run=self.run)
        default = ADRecSettings()
        for name, needs, given in (
            ("offset_dropout", "item_offsets=true", self.item_offsets),
            ("queue_size", "a queue", bool(self.queues)),
            ("text_learning_rate", "train_text=true", self.train_text),
            ("frozen_text_layers", "train_text=true", self.train_text),
        ):
            value = getattr(self, name)
            if value != getattr(default, name) and not given:
                raise UserError(f"{name}={value} has no effect without {needs}; set that, or leave {name} out")
