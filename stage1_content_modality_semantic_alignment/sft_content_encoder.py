"""Stage 1, step 2: fine-tune text and image encoder on pairs of similar items, which aligns the two modalities.

SICSRec, section "Content Modality Semantic Alignment": losses t2t + i2i + t2i over pairs chosen by
llm_driven_sample.py. Trained: BERT's last layer and pooler, Swin's last stage and classifier, and two adapters
(Linear → 128 → ReLU → 64). The frozen rest runs once per item, not once per step (S6).

    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/sft_content_encoder.py -d ml-100k       # no hub

Reads   <datasets_dir>/<D>/pairs/<strategy>/item_pairs_id.txt, titles and covers of the data set
Writes  <finetune_dir>/<D>/64/<strategy>/bert/, swin/      Hugging Face format
        …/adapters.safetensors, report.md, report.json, alignment.png, and a run's files (common/run.py lists them)
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Dict, List, Optional

from common.dataset import check_prepared, items_path, load_dataset
from common.errors import UserError
from common.features import MODALITIES
from common.run import MADE, OptimSettings, Run
from common.settings import parse, setting, switch
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.settings import LOSSES, EncoderSettings, covers_folder, local_model

CONFIGS = Path(__file__).parent / "configs" / "sft_content_encoder"
ARCHITECTURES = {"text": "bert", "image": "swin"}


@dataclass
class Settings(OptimSettings, EncoderSettings):
    """Settings of this step; the defaults are the paper's."""

    optimizer: ClassVar[str] = "sgd"

    modalities: List[str] = setting(["text", "image"], "what items have", choices=MODALITIES, may_be_empty=False)
    text_model: Optional[str] = switch(
        "S14",
        "a BERT: name on the hub, folder, minilm, or small (made from the titles)",
        paper="google-bert/bert-base-chinese",
        released="google-bert/bert-base-cased",
        others=True,
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
    cosine_losses: Optional[bool] = switch(
        "S15", "products are cosines and t2i is the mean of both directions; released: raw products and their sum"
    )
    freeze_in_eval: Optional[bool] = switch("S6", "the frozen layers run without dropout, once per item")

    def check(self) -> None:
        """There is something to minimise, or the fine-tuning is left out."""
        super().check()
        if self.losses and not any(LOSSES[term] <= set(self.modalities) for term in self.losses):
            raise UserError(f"losses={self.losses}: none of them can be computed with modalities={self.modalities}")

    @property
    def pairs_file(self) -> Path:
        """The strategy's pairs by item id."""
        return pairs_path(self.pairs_folder, "id")

    @property
    def models(self) -> Dict[str, str]:
        """Modality → name of its encoder."""
        names = {"text": str(self.text_model), "image": self.image_model}
        return {modality: names[modality] for modality in self.modalities}

    def input_files(self) -> Dict[str, Path]:
        """The files that the step reads, by meaning. Raises `UserError` for a missing one."""
        check_prepared(self.dataset_dir, self.dataset)
        files = {"items": items_path(self.dataset_dir, self.dataset)}
        for modality, name in self.models.items():
            files.update(local_model(f"{modality}_model", name))
        if self.losses:
            if not self.pairs_file.is_file():
                raise UserError(f"{self.pairs_file}: no such file; run llm_driven_sample.py, or correct strategy")
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

        from common.checkpoints import save_tensors
        from common.training import fit
        from stage1_content_modality_semantic_alignment.alignment_report import encode_items, write_report
        from stage1_content_modality_semantic_alignment.inputs import CachedItems, LiveItems, Pairs, load_items
        from stage1_content_modality_semantic_alignment.model import (
            ContentModel,
            ItemVectors,
            load_towers,
            save_encoders,
        )

        dataset = load_dataset(settings.dataset_dir, settings.dataset)
        pairs = read_pairs(settings.pairs_file, dataset.n_items) if settings.losses else []
        towers = load_towers(settings, dataset)
        if not settings.losses:
            run.outputs = save_encoders(towers, folder)
            return
        positions, raw = load_items(settings, dataset, pairs, towers)

        items: Dict[str, ItemVectors] = {}
        for name, tower in towers.items():
            tower.to(run.compute.device)
            if settings.freeze_in_eval:
                items[name] = CachedItems(tower, raw[name], run.compute, folder)
            else:
                items[name] = LiveItems(tower, raw[name], run.compute)
        torch.manual_seed(settings.seed)  # the adapters' initial weights depend on the seed alone
        model = ContentModel(towers, items, settings).to(run.compute.device)

        n_items = int(positions.max()) + 1  # each item occurs in a pair
        before = encode_items(model, n_items, run.compute)
        fit(model, Pairs(positions, settings.train_batch_size, settings.seed), None, settings, run)
        after = encode_items(model, n_items, run.compute)

        adapters = folder / "adapters.safetensors"
        run.outputs = {**save_encoders(towers, folder), "adapters": adapters}
        save_tensors(adapters, model.adapters.state_dict())
        run.outputs["report"] = write_report(folder, before, after, positions.numpy(), settings)


def check_inputs(settings: Settings) -> None:
    """Check covers and encoders before the pairs are chosen, which may take an LLM hours."""
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
