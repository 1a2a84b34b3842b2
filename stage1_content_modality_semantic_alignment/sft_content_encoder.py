"""Stage 1, step 2: fine-tune text and image encoder on pairs of similar items, which aligns the two modalities.

SICSRec, section "Content Modality Semantic Alignment": losses t2t + i2i + t2i over pairs chosen by
llm_driven_sample.py. Trained: BERT's last layer and pooler, Swin's last stage and classifier, and two adapters
(Linear → 128 → ReLU → 64). The frozen rest runs once per item, not once per step (S6).

    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d ml-100k       # small encoders, no hub

Reads   <datasets_dir>/<D>/pairs/<strategy>/item_pairs_id.txt, titles and covers of the data set
Writes  <finetune_dir>/<D>/64/<strategy>/bert/, swin/      Hugging Face format; <strategy>-text/ with modalities=[text]
        …/adapters.safetensors, report.md, report.json, alignment.png, tensorboard/, sft.json (what made them)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from safetensors.torch import save_file

from common import text_encoders
from common.checkpoints import full_disk_is_an_error
from common.dataset import Dataset, covers_path, items_path, load_dataset
from common.device import Compute, pick_compute
from common.errors import UserError, run_script
from common.files import atomic, exclusive, recipe, record, told_to_stand
from common.seeding import seed_everything
from common.settings import follow_variant, parse, setting
from stage1_content_modality_semantic_alignment import image_encoders
from stage1_content_modality_semantic_alignment.alignment_report import (
    MEANINGS,
    encode_items,
    measure,
    plot_alignment,
    write_report,
)
from stage1_content_modality_semantic_alignment.alignment_training import AlignmentTrainer, Schedule, distinct_items
from stage1_content_modality_semantic_alignment.content_model import ContentModel, ItemVectors
from stage1_content_modality_semantic_alignment.covers import folder_of_covers, image_size, read_covers
from stage1_content_modality_semantic_alignment.item_inputs import CachedItems, Covers, LiveItems, RawItems, Titles
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.losses import LOSSES, terms_of
from stage1_content_modality_semantic_alignment.paths import pairs_dir, strategy_of
from stage1_content_modality_semantic_alignment.strategy import StrategySettings
from stage1_content_modality_semantic_alignment.towers import ImageTower, TextTower, Tower

CONFIGS = Path(__file__).parent / "configs" / "sft_content_encoder"
TUNING = ("epochs", "batch_size", "learning_rate", "temperature")


@dataclass
class Settings(StrategySettings):
    """Settings of this step; the defaults are the paper's."""

    modalities: List[str] = setting(["text", "image"], "what items have", choices=("text", "image"), may_be_empty=False)
    text_model: str = setting(
        "google-bert/bert-base-chinese", "a BERT: name on the hub, folder, or small (made from the titles)"
    )
    image_model: str = setting(
        "microsoft/swin-base-patch4-window7-224", "a Swin: name on the hub, folder, or small (made from a config)"
    )
    title_language: str = setting("cn", "which titles the text encoder reads", choices=("cn", "en"))
    max_text_tokens: int = setting(256, "longer titles are cut", minimum=3)
    missing_covers: str = setting(
        "stop", "a cover that cannot be used stops the run; zero: its pairs are left out", choices=("stop", "zero")
    )
    epochs: int = setting(10, "passes over the pairs", minimum=1)
    batch_size: int = setting(128, "pairs in a batch", minimum=1)
    learning_rate: float = setting(1e-5, "of SGD", minimum=0)
    temperature: float = setting(0.05, "of all three losses", minimum=1e-4)
    train_adapters: Optional[bool] = setting(
        None, "S5: adapters are trained; released: they are not; null: as variant says"
    )
    freeze_in_eval: Optional[bool] = setting(
        None, "S6: the frozen part runs without dropout and is cached; released: with dropout; null: as variant says"
    )

    @property
    def tuned_modalities(self) -> List[str]:
        """``modalities``."""
        return self.modalities

    def check(self) -> None:
        """There is something to minimise, or the fine-tuning is left out."""
        super().check()
        if self.losses and not terms_of(self.modalities, self.losses):
            raise UserError(f"losses={self.losses}: none of them can be taken of modalities={self.modalities}")


def run(settings: Settings, force: bool = False) -> None:
    """Do the step, or say that its output stands. Raises `UserError` for bad input."""
    compute = pick_compute(settings.device, settings.precision)
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    pairs = read_pairs(chosen_pairs(settings), dataset.n_items) if settings.losses else []
    folder = settings.finetuned_dir
    models = model_paths(settings, dataset)
    made_from = what_makes_it(settings, dataset, models, compute)
    if not force and told_to_stand(folder / "sft.json", made_from, folder):
        return
    with exclusive(folder):
        if not force and told_to_stand(folder / "sft.json", made_from, folder):  # made by another process, just now
            return
        if force:
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        seed_everything(settings.seed)
        if settings.losses:
            fine_tune(settings, dataset, pairs, models, compute, folder, made_from)
        else:
            take_as_pretrained(settings, models, folder, made_from)


def check_inputs(settings: Settings) -> None:
    """What can be said before there are pairs, which may have taken an LLM hours: covers and encoders can be had.

    Raises:
        UserError: they cannot.
    """
    if (settings.finetuned_dir / "sft.json").is_file():  # the step itself says whether that stands
        return
    if "image" in settings.modalities:
        folder_of_covers(load_dataset(settings.dataset_dir, settings.dataset))
    for modality, architecture in (("text", "bert"), ("image", "swin")):
        name = getattr(settings, f"{modality}_model")
        if modality in settings.modalities and name != text_encoders.SMALL:
            text_encoders.check_encoder(name, architecture)


def model_paths(settings: Settings, dataset: Dataset) -> Dict[str, str]:
    """Modality → where its encoder is loaded from."""
    paths = {}
    if "text" in settings.modalities:
        language = settings.title_language
        paths["text"] = text_encoders.text_model_path(settings.text_model, dataset, language, settings.seed)
    if "image" in settings.modalities:
        paths["image"] = image_encoders.image_model_path(settings.image_model, dataset, settings.seed)
    return paths


def what_makes_it(settings: Settings, dataset: Dataset, models: Dict[str, str], compute: Compute) -> Dict[str, Any]:
    """The recipe: all that shapes the result, and nothing else."""
    shaping: Dict[str, Any] = {
        "seed": settings.seed,
        "precision": compute.precision,
        "modalities": sorted(models),
        "models": {modality: getattr(settings, f"{modality}_model") for modality in models},
    }
    inputs = {}
    if settings.losses:
        shaping.update({name: getattr(settings, name) for name in TUNING})
        for switch in ("train_adapters", "freeze_in_eval"):
            shaping[switch] = follow_variant(getattr(settings, switch), settings.variant)
        inputs["pairs"] = chosen_pairs(settings)
    if set(settings.losses) != set(LOSSES):  # the full method's encoders were named before there were ablations
        shaping["losses"] = sorted(settings.losses)
    for modality, path in models.items():
        inputs.update(text_encoders.model_inputs(f"{modality}_model", path))
    if "text" in models:
        shaping.update(title_language=settings.title_language, max_text_tokens=settings.max_text_tokens)
        inputs["items"] = items_path(dataset.folder, dataset.name)
    if "image" in models:
        shaping["missing_covers"] = settings.missing_covers
        if dataset.covers is not None:
            inputs["covers"] = covers_path(dataset.folder)
    return recipe("sft_content_encoder", shaping, inputs)


def chosen_pairs(settings: Settings) -> Path:
    """The file of the pairs by item id."""
    return pairs_path(pairs_dir(settings.dataset_dir, strategy_of(settings)), "id")


def load_inputs(
    settings: Settings, dataset: Dataset, pairs: List[Pair], models: Dict[str, str]
) -> Tuple[List[Pair], Dict[str, Tower], Dict[str, RawItems], Any]:
    """Towers, the raw inputs of the items that occur in pairs, the pairs themselves, and the tokenizer.

    Pairs with a cover that cannot be used are left out where ``missing_covers`` is ``zero``.
    """
    towers: Dict[str, Tower] = {}
    raw: Dict[str, RawItems] = {}
    tokenizer = None
    if "image" in models:
        swin = image_encoders.load_swin(models["image"])
        towers["image"] = ImageTower(swin)
        usable, missing, pixels = read_covers(
            dataset, distinct_items(pairs), image_size(swin.config), settings.missing_covers
        )
        kept = [pair for pair in pairs if not set(pair) & set(missing)]
        if missing:
            print(f"{len(pairs) - len(kept)} of {len(pairs)} pairs are left out: {len(missing)} covers cannot be used")
        pairs, place = kept, {item: position for position, item in enumerate(usable)}
        raw["image"] = Covers(pixels[[place[item] for item in distinct_items(pairs)]])
    if "text" in models:
        bert, tokenizer = text_encoders.load_bert(models["text"], settings.max_text_tokens)
        towers["text"] = TextTower(bert)
        titles = dataset.titles(settings.title_language)
        shown = [titles[item] for item in distinct_items(pairs)]
        raw["text"] = Titles(tokenizer, shown, settings.max_text_tokens)
    if len(distinct_items(pairs)) < 2:
        raise UserError(f"{strategy_of(settings)}: the pairs name fewer than two items: nothing to tell apart")
    # text first, whatever the order in the settings: adapters draw their start in this order
    return pairs, {name: towers[name] for name in ("text", "image") if name in towers}, raw, tokenizer


def fine_tune(
    settings: Settings,
    dataset: Dataset,
    pairs: List[Pair],
    models: Dict[str, str],
    compute: Compute,
    folder: Path,
    made_from: Dict[str, Any],
) -> None:
    """Load, train, measure, save."""
    pairs, towers, raw, tokenizer = load_inputs(settings, dataset, pairs, models)
    place = {item: position for position, item in enumerate(distinct_items(pairs))}
    positions = np.array([[place[target], place[similar]] for target, similar in pairs])  # (P, 2)
    torch.manual_seed(settings.seed)
    freeze_in_eval = follow_variant(settings.freeze_in_eval, settings.variant)
    train_adapters = follow_variant(settings.train_adapters, settings.variant)
    model = ContentModel(towers, train_adapters, freeze_in_eval).to(compute.device)
    print(f"{len(pairs)} pairs over {len(place)} items; parameters:")
    for part, trained, frozen in model.parameter_table():
        print(f"  {part:15} {trained:>11,} trained {frozen:>11,} frozen")

    items: Dict[str, ItemVectors] = {
        name: CachedItems(tower, raw[name], compute, folder) if freeze_in_eval else LiveItems(tower, raw[name], compute)
        for name, tower in towers.items()
    }
    before = encode_items(model, items, len(place), compute)
    schedule = Schedule(
        settings.epochs,
        settings.batch_size,
        settings.learning_rate,
        settings.temperature,
        settings.losses,
        settings.seed,
    )
    torch.manual_seed(settings.seed)
    trainer = AlignmentTrainer(model, items, positions, schedule, compute, folder, made_from)
    trainer.train()
    after = encode_items(model, items, len(place), compute)

    model.cpu()
    outputs = save_encoders(model, tokenizer, folder)
    outputs["report"] = folder / "report.json"
    plot_alignment(folder / "alignment.png", before, after)
    about = {"dataset": settings.dataset, "strategy": strategy_of(settings), "pairs": len(pairs), "items": len(place)}
    before_metrics, after_metrics = (measure(spaces, positions, settings.seed) for spaces in (before, after))
    write_report(folder, before_metrics, after_metrics, about)
    record(folder / "sft.json", made_from, outputs)
    trainer.checkpoint.unlink()
    print_report(before_metrics, after_metrics)
    print(f"written: {folder}")


def take_as_pretrained(settings: Settings, models: Dict[str, str], folder: Path, made_from: Dict[str, Any]) -> None:
    """The ablation without stage 1: the encoders go where fine-tuned ones would, as they were loaded."""
    outputs = {}
    if "text" in models:
        bert, tokenizer = text_encoders.load_bert(models["text"], settings.max_text_tokens)
        outputs["bert"] = folder / "bert"
        text_encoders.save_bert(bert, tokenizer, outputs["bert"])
    if "image" in models:
        outputs["swin"] = folder / "swin"
        image_encoders.save_swin(image_encoders.load_swin(models["image"]), outputs["swin"])
    record(folder / "sft.json", made_from, outputs)
    print(f"written, as pretrained: {folder}")


def save_encoders(model: ContentModel, tokenizer: Any, folder: Path) -> Dict[str, Path]:
    """Encoders in Hugging Face format and the adapters as safetensors; returns what was written."""
    outputs = {"adapters": folder / "adapters.safetensors"}
    for tower in model.towers.values():
        if isinstance(tower, TextTower):
            outputs["bert"] = folder / "bert"
            text_encoders.save_bert(tower.bert, tokenizer, outputs["bert"])
        elif isinstance(tower, ImageTower):
            outputs["swin"] = folder / "swin"
            image_encoders.save_swin(tower.swin, outputs["swin"])
    with atomic(outputs["adapters"]) as temporary, full_disk_is_an_error(outputs["adapters"]):
        weights = {name: weight.contiguous() for name, weight in model.adapters.state_dict().items()}
        save_file(weights, str(temporary))
    return outputs


def print_report(before: Dict[str, Dict[str, float]], after: Dict[str, Dict[str, float]]) -> None:
    """The metrics as a table, and what each means."""
    print(f"{'':31}{'before':>9}{'after':>9}")
    for space, metrics in before.items():
        for name, value in metrics.items():
            print(f"{space:16}{name:15}{value:>9.4f}{after[space][name]:>9.4f}")
    for name in dict.fromkeys(name for metrics in before.values() for name in metrics):
        print(f"{name:16}{MEANINGS[name]}")


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    parsed = parse(Settings, __doc__, CONFIGS, argv)
    run(parsed.settings, parsed.force)


if __name__ == "__main__":
    run_script(main)
