"""Small models and runs that the tests of stage 1 share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from safetensors.torch import load_file
from tiny import make_tiny_dataset
from transformers import BertConfig, BertModel, SwinConfig, SwinForImageClassification

from stage1_content_modality_semantic_alignment import llm_driven_sample
from stage1_content_modality_semantic_alignment.image_encoders import write_processor_config
from stage1_content_modality_semantic_alignment.llm.pairs import pairs_path, write_rows
from stage1_content_modality_semantic_alignment.llm.prompts import Question, load_template
from stage1_content_modality_semantic_alignment.settings import pairs_dir
from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
PAIRS = [(0, 5), (1, 6), (2, 7), (3, 8), (4, 9), (10, 0), (11, 1), (0, 5)]


def tiny_bert(dropout: float = 0.1, implementation: str = "sdpa", vocabulary: int = 60, layers: int = 3) -> BertModel:
    config: Any = BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.25,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config._attn_implementation = implementation
    torch.manual_seed(1)
    return BertModel(config).eval()


def tiny_swin(dropout: float = 0.1, side: int = 32) -> SwinForImageClassification:
    config = SwinConfig(
        image_size=side,
        patch_size=4,
        embed_dim=8,
        depths=[1, 2],
        num_heads=[1, 2],
        window_size=2,
        initializer_range=0.25,
        hidden_dropout_prob=dropout,
        drop_path_rate=dropout,
    )
    config.num_labels = 12
    torch.manual_seed(2)
    return SwinForImageClassification(config).eval()


def save_tiny_encoders(folder: Path) -> Dict[str, str]:
    """A BERT with a vocabulary of letters and a Swin, as folders of the Hugging Face format."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    bert, swin = folder / "bert", folder / "swin"
    tiny_bert(vocabulary=len(vocabulary)).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (bert / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    model = tiny_swin()
    model.save_pretrained(swin)
    write_processor_config(swin, model.config)
    return {"text_model": str(bert), "image_model": str(swin)}


def make_tiny_run(folder: Path, pairs: Sequence[Sequence[int]] = PAIRS, **changes: Any) -> Settings:
    """A tiny data set with pairs, tiny encoders, and the settings of an SFT on them."""
    home = make_tiny_dataset(folder / "datasets")
    write_rows(pairs_path(pairs_dir(home, "hand"), "id"), pairs)
    values: Dict[str, Any] = {
        "dataset": "Tiny",
        "datasets_dir": str(folder / "datasets"),
        "finetune_dir": str(folder / "finetune_llm"),
        "strategy": "hand",
        "device": "cpu",
        "precision": "fp32",
        "title_language": "en",
        "max_text_tokens": 40,
        "epochs": 3,
        "train_batch_size": 3,
        "learning_rate": 0.05,
        **save_tiny_encoders(folder / "models"),
    }
    return Settings(**{**values, **changes})


def weights_of(folder: Path) -> Dict[str, torch.Tensor]:
    """All weights in the safetensors of a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": weight for file in files for name, weight in load_file(file).items()}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, offline."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=REPOSITORY)


def question_of(target: int, *candidates: int, form: str = "text") -> Question:
    """A question about items with the titles ``title <item>``."""
    titles = tuple(f"title {item}" for item in candidates)
    return Question(
        target, candidates, f"title {target}", titles, load_template(llm_driven_sample.Settings(answer_form=form))
    )


def pairs_settings(folder: Path, **changes: Any) -> llm_driven_sample.Settings:
    """Settings of the choice of pairs on the tiny data set."""
    values: Dict[str, Any] = {"dataset": "Tiny", "datasets_dir": str(folder), "selector": "tfidf", "device": "cpu"}
    return llm_driven_sample.Settings(**{**values, **changes})


def read_log(folder: Path) -> List[Dict[str, Any]]:
    """The entries of answers.jsonl."""
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def pair_files(folder: Path) -> Dict[str, bytes]:
    """The four pair files and the log."""
    files = {path.name: path.read_bytes() for path in [*folder.glob("item_pairs_*.txt"), folder / "answers.jsonl"]}
    assert len(files) == 5
    return files
