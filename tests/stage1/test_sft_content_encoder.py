"""sft_content_encoder.py: what it trains, on which modalities, where it stops, and that it keeps its word."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from stage1_helpers import make_tiny_run, run_python, tiny_bert, tiny_swin
from tiny import tiny_titles
from token_items import CPU, TokenItems
from torch import nn
from transformers import AutoTokenizer, BertModel, SwinForImageClassification

from common import text_encoders
from common.errors import UserError
from common.settings import as_dict, follow_variant
from stage1_content_modality_semantic_alignment import sft_content_encoder
from stage1_content_modality_semantic_alignment.content_model import ContentModel
from stage1_content_modality_semantic_alignment.item_inputs import Covers, LiveItems
from stage1_content_modality_semantic_alignment.losses import alignment_losses
from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings
from stage1_content_modality_semantic_alignment.towers import ImageTower, TextTower, Tower

# --- what is trained: S5, S6 ---


def tiny_model(train_adapters: bool = True, freeze_in_eval: bool = True, dropout: float = 0.1) -> ContentModel:
    towers: Dict[str, Tower] = {"text": TextTower(tiny_bert(dropout)), "image": ImageTower(tiny_swin(dropout))}
    torch.manual_seed(3)
    return ContentModel(towers, train_adapters, freeze_in_eval)


TRAINED = (
    "towers.text.bert.encoder.layer.2.",
    "towers.text.bert.pooler.",
    "towers.image.swin.swin.encoder.layers.1.",
    "towers.image.swin.classifier.",
)


@pytest.mark.parametrize("train_adapters", [True, False])
def test_s5_gradients_reach_exactly_what_is_trained(tmp_path: Path, train_adapters: bool) -> None:
    model = tiny_model(train_adapters)
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw: Dict[str, Any] = {"text": TokenItems([3, 8, 5, 4]), "image": Covers(pixels)}
    towers: Any = model.towers
    items = {name: LiveItems(towers[name], raw[name], CPU) for name in raw}
    vectors = model.pair_vectors(items, np.array([[0, 1], [2, 3]]))
    torch.stack(list(alignment_losses(vectors, 0.05).values())).sum().backward()
    expected = (*TRAINED, "adapters.") if train_adapters else TRAINED
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(expected), name
    assert set(model.trained()) == {name for name, _ in model.named_parameters() if name.startswith(expected)}


def test_s6_frozen_part_runs_in_eval_mode_and_released_in_train_mode() -> None:
    model = tiny_model(freeze_in_eval=True).train()
    for name, module in model.named_modules():
        if name.startswith("towers.") and isinstance(module, nn.Dropout):
            assert module.training == name.startswith(TRAINED), name
    released = tiny_model(freeze_in_eval=False).train()
    assert all(module.training for module in released.modules())
    assert not any(module.training for module in released.eval().modules())


def test_each_distinct_item_is_encoded_once() -> None:
    model, asked = tiny_model(), []

    class Items:
        def __init__(self, width: int) -> None:
            self.width = width

        def vectors(self, positions: Any) -> torch.Tensor:
            asked.append(positions)
            return torch.arange(1.0, len(positions) + 1)[:, None].repeat(1, self.width)

    items = {"text": Items(16), "image": Items(12)}
    vectors = model.pair_vectors(items, np.array([[7, 2], [2, 7], [7, 5]]))
    assert asked == [[2, 5, 7]] * 2
    target, positive = vectors["text"]
    assert target.shape == (3, 64) and torch.equal(target[1], positive[0]) and torch.equal(target[0], target[2])


def weights_of(folder: Path) -> Dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found.update({f"{file.parent.name}/{name}": tensor for name, tensor in load_file(file).items()})
    return found


def folder_of(settings: Settings) -> Path:
    return settings.finetuned_dir


def test_a_run_trains_what_it_should_leaves_the_rest_bit_equal_and_then_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_tiny_run(tmp_path)
    sft_content_encoder.run(settings)
    folder = folder_of(settings)
    assert folder == tmp_path / "finetune_llm" / "Tiny" / "64" / "hand"
    before, after = weights_of(tmp_path / "models"), weights_of(folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() <= after.keys()
    for name in before:
        trained = name.startswith(
            ("bert/encoder.layer.2.", "bert/pooler.", "swin/swin.encoder.layers.1.", "swin/classifier.")
        )
        inert = name.endswith(("key.bias", "relative_position_index"))  # no gradient / not a weight
        assert (name in moved) == trained or (inert and trained), name
    report = json.loads((folder / "report.json").read_text())
    assert {"encoder text", "adapter text", "encoder image", "adapter image", "t2i"} == set(report["after"])
    assert (folder / "alignment.png").stat().st_size > 5000 and "recall@10" in (folder / "report.md").read_text()
    assert not (folder / "checkpoint.pt").exists()
    BertModel.from_pretrained(folder / "bert"), SwinForImageClassification.from_pretrained(folder / "swin")
    assert AutoTokenizer.from_pretrained(folder / "bert")("ab")["input_ids"]
    printed = capsys.readouterr().out
    assert "trained" in printed and "frozen" in printed
    sft_content_encoder.run(settings)
    assert "stands" in capsys.readouterr().out


def test_s5_released_keeps_the_adapters_and_paper_trains_them(tmp_path: Path) -> None:
    adapters = {}
    for name, changes in (
        ("start", {"learning_rate": 0.0}),
        ("paper", {}),
        ("released", {"train_adapters": False}),
    ):
        settings = make_tiny_run(tmp_path / name, epochs=1, modalities=["text"], **changes)
        sft_content_encoder.run(settings)
        adapters[name] = load_file(folder_of(settings) / "adapters.safetensors")
    for name, start in adapters["start"].items():
        assert torch.equal(start, adapters["released"][name]) and not torch.equal(start, adapters["paper"][name])


def test_s6_released_runs_and_leaves_frozen_weights_bit_equal(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, epochs=1, variant="released")
    sft_content_encoder.run(settings)
    before, after = weights_of(tmp_path / "models"), weights_of(folder_of(settings))
    assert torch.equal(
        before["bert/encoder.layer.0.output.dense.weight"], after["bert/encoder.layer.0.output.dense.weight"]
    )
    assert not torch.equal(before["bert/pooler.dense.weight"], after["bert/pooler.dense.weight"])


@pytest.mark.parametrize("switch", ["train_adapters", "freeze_in_eval"])
def test_variant_sets_the_switches(switch: str) -> None:
    assert follow_variant(getattr(Settings(), switch), Settings().variant)
    released = Settings(variant="released")
    assert not follow_variant(getattr(released, switch), released.variant)
    setattr(released, switch, True)
    assert follow_variant(getattr(released, switch), released.variant)


# --- one modality, few pairs, missing covers ---


@pytest.mark.parametrize("modality, there, not_there", [("text", "bert", "swin"), ("image", "swin", "bert")])
def test_one_modality_alone(tmp_path: Path, modality: str, there: str, not_there: str) -> None:
    settings = make_tiny_run(tmp_path, modalities=[modality], epochs=1, batch_size=128)
    sft_content_encoder.run(settings)
    assert (folder_of(settings) / there).is_dir() and not (folder_of(settings) / not_there).exists()
    assert "t2i" not in json.loads((folder_of(settings) / "report.json").read_text())["after"]


def test_the_order_of_modalities_does_not_matter(tmp_path: Path) -> None:
    folders = []
    for name, modalities in (("a", ["text", "image"]), ("b", ["image", "text"])):
        settings = make_tiny_run(tmp_path / name, epochs=1, modalities=modalities)
        sft_content_encoder.run(settings)
        folders.append(weights_of(folder_of(settings)))
    assert all(torch.equal(folders[0][name], folders[1][name]) for name in folders[0])


def test_one_pair_is_enough_and_none_is_an_error(tmp_path: Path) -> None:
    sft_content_encoder.run(make_tiny_run(tmp_path / "one", pairs=[(3, 8)], epochs=1))
    with pytest.raises(UserError, match="holds no pairs"):
        sft_content_encoder.run(make_tiny_run(tmp_path / "none", pairs=[]))
    with pytest.raises(UserError, match="fewer than two items"):
        sft_content_encoder.run(make_tiny_run(tmp_path / "self", pairs=[(3, 3)]))


def test_missing_covers_stop_with_the_list_or_their_pairs_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_tiny_run(tmp_path, epochs=1)
    covers = Path(settings.datasets_dir) / "Tiny" / "covers"
    (covers / "8.jpg").unlink()
    (covers / "0.jpg").write_bytes(b"no image")
    (covers / "14.jpg").unlink()  # occurs in no pair
    with pytest.raises(UserError) as stopped:
        sft_content_encoder.run(settings)
    assert "8.jpg: missing" in str(stopped.value) and "0.jpg: does not decode" in str(stopped.value)
    assert "14.jpg" not in str(stopped.value)
    settings.missing_covers = "zero"
    sft_content_encoder.run(settings)
    assert "4 of 8 pairs are left out" in capsys.readouterr().out


# --- errors ---


def test_a_nan_loss_names_step_and_term(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, learning_rate=1e30)
    with pytest.raises(UserError, match=r"step [1-9]\d*: the loss (t2t|i2i|t2i) is nan"):
        sft_content_encoder.run(settings)


def test_weights_that_the_last_step_ruins_are_not_saved(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, learning_rate=1e30, epochs=1, batch_size=8)
    with pytest.raises(UserError, match="vectors are not finite: encoder text"):
        sft_content_encoder.run(settings)
    assert not (folder_of(settings) / "bert").exists()


def test_an_encoder_that_cannot_be_had_is_one_error_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(UserError, match="'some/bert' cannot be loaded .* small$"):
        sft_content_encoder.run(make_tiny_run(tmp_path, text_model="some/bert", modalities=["text"]))


def test_an_encoder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, modalities=["text"])
    settings.text_model = settings.image_model
    with pytest.raises(UserError, match="is a swin model; here a bert model"):
        sft_content_encoder.run(settings)


def test_more_tokens_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 64 tokens"):
        sft_content_encoder.run(make_tiny_run(tmp_path, modalities=["text"], max_text_tokens=256))


# --- it keeps its word ---


@pytest.mark.parametrize("moment", ["before the second checkpoint is whole", "while the encoders are written"])
def test_killed_and_started_again_is_bit_equal(tmp_path: Path, moment: str) -> None:
    whole, killed = make_tiny_run(tmp_path / "whole"), make_tiny_run(tmp_path / "killed")
    sft_content_encoder.run(whole)
    patch = {
        "before the second checkpoint is whole": """
import torch
saved = []
save = torch.save
def save_then_die(content, path):
    saved.append(path)
    save(content, path)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save_then_die
""",
        "while the encoders are written": """
image_encoders.write_processor_config = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
""",
    }[moment]
    code = f"""
import os, signal
from stage1_content_modality_semantic_alignment import image_encoders, sft_content_encoder
{patch}
sft_content_encoder.run(sft_content_encoder.Settings(**{as_dict(killed)!r}))
"""
    done = run_python(code)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = folder_of(killed)
    assert (folder / "checkpoint.pt").exists() and not (folder / "sft.json").exists()
    sft_content_encoder.run(killed)
    first, second = weights_of(folder_of(whole)), weights_of(folder)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert (folder_of(whole) / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_checkpoint_of_other_settings_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_tiny_run(tmp_path / "a", modalities=["text"], epochs=1)
    sft_content_encoder.run(settings)
    other = make_tiny_run(tmp_path / "b", modalities=["text"], epochs=1, batch_size=8)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(text_encoders, "save_bert", lambda *_: 1 / 0)
        sft_content_encoder.run(other)
    assert (folder_of(other) / "checkpoint.pt").exists()
    other.batch_size = settings.batch_size
    sft_content_encoder.run(other)
    assert "not resumed, for these differ: batch_size 8 → 3" in capsys.readouterr().out
    wanted = weights_of(folder_of(settings))
    assert all(torch.equal(wanted[name], found) for name, found in weights_of(folder_of(other)).items())


# --- small encoders ---


def test_small_encoders_are_the_same_on_every_run_and_differ_by_seed(tmp_path: Path) -> None:
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = make_tiny_run(tmp_path / name, text_model="small", image_model="small", epochs=1, seed=seed)
        sft_content_encoder.run(settings)
        found[name] = weights_of(folder_of(settings))
    assert all(torch.equal(found["a"][name], found["b"][name]) for name in found["a"])
    assert not torch.equal(found["a"]["bert/pooler.dense.weight"], found["c"]["bert/pooler.dense.weight"])


def test_the_vocabulary_of_the_titles_is_the_same_in_another_process() -> None:
    titles = tiny_titles()[1]
    code = f"""
from common.text_encoders import train_vocabulary
print(train_vocabulary({titles!r}, 80))
"""
    assert run_python(code).stdout.strip().endswith(str(text_encoders.train_vocabulary(titles, 80)))
