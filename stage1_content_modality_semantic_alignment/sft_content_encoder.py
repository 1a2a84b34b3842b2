"""Stage 1, step 2: fine-tune text and image encoder on pairs of similar items, which aligns the two modalities.

SICSRec, section "Content Modality Semantic Alignment": losses t2t + i2i + t2i over pairs chosen by
llm_driven_sample.py. Trained: BERT's last layer and pooler, Swin's last stage and classifier, and two adapters
(Linear → 128 → ReLU → 64). The frozen rest runs once per item, not once per step (S6).

    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d ml-100k       # small encoders, no hub

Reads   <datasets_dir>/<D>/pairs/<strategy>/item_pairs_id.txt, titles and covers of the data set
Writes  <finetune_dir>/<D>/64/<strategy>/bert/, swin/      Hugging Face format
        …/adapters.safetensors, report.md, report.json, alignment.png, and a run's files (common/run.py lists them)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from common.dataset import Dataset, check_prepared, items_path, load_dataset
from common.errors import UserError, run_script
from common.features import MODALITIES
from common.files import atomic
from common.run import MADE, OptimSettings, Run
from common.settings import parse, setting, switch
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.paths import pairs_dir, strategy_of
from stage1_content_modality_semantic_alignment.settings import LOSSES, EncoderSettings, covers_folder, local_model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from stage1_content_modality_semantic_alignment.inputs import RawItems
    from stage1_content_modality_semantic_alignment.model import Tower

CONFIGS = Path(__file__).parent / "configs" / "sft_content_encoder"
ARCHITECTURES = {"text": "bert", "image": "swin"}


@dataclass
class Settings(OptimSettings, EncoderSettings):
    """Settings of this step; the defaults are the paper's."""

    optimizer: ClassVar[str] = "sgd"

    modalities: List[str] = setting(["text", "image"], "what items have", choices=MODALITIES, may_be_empty=False)
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
    losses: List[str] = setting(
        list(LOSSES),
        "terms of the loss; ablations: fewer of them, or [], which keeps the pretrained encoders: no stage 1",
        choices=tuple(LOSSES),
    )
    temperature: float = setting(0.05, "τ of all three losses", minimum=1e-4)
    epochs: int = setting(10, "passes over the pairs", minimum=1)
    train_batch_size: int = setting(128, "pairs per step", minimum=1)
    learning_rate: float = setting(1e-5, "learning rate of SGD", minimum=0)
    train_adapters: Optional[bool] = switch("S5", "train the adapters")
    freeze_in_eval: Optional[bool] = switch("S6", "the frozen layers run without dropout, once per item")

    def check(self) -> None:
        """There is something to minimise, or the fine-tuning is left out."""
        super().check()
        if self.losses and not any(LOSSES[term] <= set(self.modalities) for term in self.losses):
            raise UserError(f"losses={self.losses}: none of them can be computed with modalities={self.modalities}")

    @property
    def pairs_file(self) -> Path:
        """The strategy's pairs by item id."""
        return pairs_path(pairs_dir(self.dataset_dir, strategy_of(self)), "id")

    @property
    def models(self) -> Dict[str, str]:
        """Modality → name of its encoder."""
        names = {"text": self.text_model, "image": self.image_model}
        return {modality: names[modality] for modality in self.modalities}

    def input_files(self) -> Dict[str, Path]:
        """The files that the step reads, by meaning. Raises `UserError` for a missing one."""
        check_prepared(self.dataset_dir, self.dataset)
        files = {"items": items_path(self.dataset_dir, self.dataset)}
        for modality, name in self.models.items():
            files.update(local_model(f"{modality}_model", name))
        if self.losses:
            if not self.pairs_file.is_file():
                raise UserError(
                    f"{self.pairs_file}: no such file; make it with llm_driven_sample.py, or correct strategy"
                )
            files["pairs"] = self.pairs_file
            if "image" in self.modalities:
                files["covers"] = covers_folder(self.dataset_dir)
        return files


def run(settings: Settings, force: bool = False) -> None:
    """Fine-tune the encoders, unless they are up to date."""
    folder = settings.encoders_folder
    with Run("sft_content_encoder", settings, settings.input_files(), force, folder) as run:
        if run.finished:
            return
        if run.processes.size > 1:
            raise UserError("the fine-tuning runs in one process; start it without torchrun")
        import torch

        from common.training import fit
        from stage1_content_modality_semantic_alignment.alignment_report import encode_items, write_report
        from stage1_content_modality_semantic_alignment.inputs import CachedItems, LiveItems, Pairs
        from stage1_content_modality_semantic_alignment.model import ContentModel, ItemVectors

        dataset = load_dataset(settings.dataset_dir, settings.dataset)
        towers = load_towers(settings, dataset)
        if not settings.losses:
            run.outputs = save_encoders(towers, folder)
            return
        pairs, raw = load_pairs(settings, dataset, towers)

        items: Dict[str, ItemVectors] = {}
        for name, tower in towers.items():
            tower.to(run.compute.device)
            if settings.freeze_in_eval:
                items[name] = CachedItems(tower, raw[name], run.compute, folder)
            else:
                items[name] = LiveItems(tower, raw[name], run.compute)
        torch.manual_seed(settings.seed)  # the adapters' initial weights depend on the seed alone
        model = ContentModel(towers, items, settings).to(run.compute.device)

        n_items = int(pairs.max()) + 1  # each item occurs in a pair
        before = encode_items(model, n_items, run.compute)
        fit(model, Pairs(pairs, settings.train_batch_size, settings.seed), None, settings, run)
        after = encode_items(model, n_items, run.compute)

        about = {"dataset": settings.dataset, "strategy": strategy_of(settings)}
        run.outputs = save_encoders(towers, folder)
        run.outputs["adapters"] = save_adapters(model.adapters, folder)
        run.outputs["report"] = write_report(folder, before, after, pairs.numpy(), settings.seed, about)


def load_towers(settings: Settings, dataset: Dataset) -> Dict[str, Tower]:
    """Modality → its pretrained encoder, text first whatever the order in the settings."""
    from common.text_encoders import load_bert, text_model_path
    from stage1_content_modality_semantic_alignment.image_encoders import image_model_path, load_swin
    from stage1_content_modality_semantic_alignment.model import ImageTower, TextTower

    towers: Dict[str, Tower] = {}
    if "image" in settings.modalities:
        towers["image"] = ImageTower(load_swin(image_model_path(settings.image_model, dataset, settings.seed)))
    if "text" in settings.modalities:
        path = text_model_path(settings.text_model, dataset, settings.title_language, settings.seed)
        towers["text"] = TextTower(*load_bert(path, settings.max_text_tokens))
    return {name: towers[name] for name in MODALITIES if name in towers}


def load_pairs(settings: Settings, dataset: Dataset, towers: Mapping[str, Tower]) -> Tuple[Tensor, Dict[str, RawItems]]:
    """The pairs, and what the encoders read of the items that occur in them.

    Returns:
        (P, 2) positions of target and similar item in the list of these items; modality → raw inputs.

    Raises:
        UserError: the pairs have fewer than two items; or a cover cannot be used, unless ``missing_covers`` is
            ``zero``: its pairs are then left out.
    """
    import torch

    from stage1_content_modality_semantic_alignment.covers import image_size, read_covers
    from stage1_content_modality_semantic_alignment.inputs import Covers, Titles
    from stage1_content_modality_semantic_alignment.model import ImageTower, TextTower

    text, image = towers.get("text"), towers.get("image")
    pairs = read_pairs(settings.pairs_file, dataset.n_items)
    raw: Dict[str, RawItems] = {}
    if isinstance(image, ImageTower):
        covers, side = covers_folder(settings.dataset_dir), image_size(image.swin.config)
        usable, missing, pixels = read_covers(covers, items_of(pairs), side, settings.missing_covers)
        if missing:
            kept = [pair for pair in pairs if not set(pair) & set(missing)]
            print(f"{len(pairs) - len(kept)} of {len(pairs)} pairs are left out: {len(missing)} covers cannot be used")
            pairs = kept
        row = {item: row for row, item in enumerate(usable)}
        raw["image"] = Covers(pixels[[row[item] for item in items_of(pairs)]])
    items = items_of(pairs)
    if len(items) < 2:
        raise UserError(f"{settings.pairs_file}: the pairs have fewer than two items; choose other pairs")
    if isinstance(text, TextTower):
        titles = dataset.titles(settings.title_language)
        raw["text"] = Titles(text.tokenizer, [titles[item] for item in items], settings.max_text_tokens)
    print(f"{len(pairs)} pairs of {len(items)} items")
    place = {item: position for position, item in enumerate(items)}
    return torch.tensor([[place[target], place[similar]] for target, similar in pairs]), raw


def items_of(pairs: Sequence[Pair]) -> List[int]:
    """The items that occur in pairs, ascending."""
    return sorted({item for pair in pairs for item in pair})


def save_encoders(towers: Mapping[str, Tower], folder: Path) -> Dict[str, Path]:
    """Write the encoders in Hugging Face format; returns their folders by name."""
    for tower in towers.values():
        tower.save(folder / tower.part)
    return {tower.part: folder / tower.part for tower in towers.values()}


def save_adapters(adapters: Module, folder: Path) -> Path:
    """Write ``adapters.safetensors``; returns its path."""
    from safetensors.torch import save_file

    from common.checkpoints import full_disk_is_an_error

    path = folder / "adapters.safetensors"
    with atomic(path) as temporary, full_disk_is_an_error(path):
        save_file({name: weight.cpu().contiguous() for name, weight in adapters.state_dict().items()}, str(temporary))
    return path


def check_inputs(settings: Settings) -> None:
    """Check what can be checked before there are pairs, which may take an LLM hours: covers and encoders.

    Raises:
        UserError: there are no covers, or an encoder cannot be loaded.
    """
    if not (settings.encoders_folder / MADE).is_file():
        from common.text_encoders import SMALL, check_encoder

        if "image" in settings.modalities:
            covers_folder(settings.dataset_dir)
        for modality, name in settings.models.items():
            if name != SMALL:
                check_encoder(name, ARCHITECTURES[modality])


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and fine-tune."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    run(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
