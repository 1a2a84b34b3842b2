"""sft_content_encoder.py: what it trains, on which modalities, its errors, and that a stopped run continues."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Dict
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from no_waiting import GPU, step_without_waiting
from safetensors.torch import load_file
from stage1_helpers import make_tiny_run, run_python, tiny_bert, tiny_swin, weights_of
from tiny import tiny_titles
from token_items import CPU, TokenItems
from torch import nn
from transformers import AutoTokenizer, BertModel, SwinForImageClassification

from common import text_encoders
from common.errors import Diverged, UserError
from common.settings import as_dict
from stage1_content_modality_semantic_alignment import sft_content_encoder
from stage1_content_modality_semantic_alignment.inputs import Covers, LiveItems, Pairs
from stage1_content_modality_semantic_alignment.model import ContentModel, ImageTower, PairBatch, TextTower, Tower
from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings

# --- what is trained: S5, S6 ---


def tiny_model(**switches: Any) -> ContentModel:
    towers: Dict[str, Tower] = {"text": TextTower(tiny_bert()), "image": ImageTower(tiny_swin())}
    pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw: Dict[str, Any] = {"text": TokenItems([3, 8, 5, 4, 6, 6, 2, 9]), "image": Covers(pixels)}
    torch.manual_seed(3)
    return ContentModel(towers, {name: LiveItems(towers[name], raw[name], CPU) for name in raw}, Settings(**switches))


TRAINED = (
    "towers.text.bert.encoder.layer.2.",
    "towers.text.bert.pooler.",
    "towers.image.swin.swin.encoder.layers.1.",
    "towers.image.swin.classifier.",
)


@pytest.mark.parametrize("train_adapters", [True, False])
def test_s5_gradients_reach_exactly_what_is_trained(train_adapters: bool) -> None:
    model = tiny_model(train_adapters=train_adapters)
    torch.stack(list(model(PairBatch.of(torch.tensor([[0, 1], [2, 3]]))).values())).sum().backward()
    expected = (*TRAINED, "adapters.") if train_adapters else TRAINED
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(expected), name
    assert set(model.weights_to_continue()) == {n for n, _ in model.named_parameters() if n.startswith(expected)}


def test_s6_frozen_part_runs_in_eval_mode_and_released_in_train_mode() -> None:
    model = tiny_model(freeze_in_eval=True).train()
    for name, module in model.named_modules():
        if name.startswith("towers.") and isinstance(module, nn.Dropout):
            assert module.training == name.startswith(TRAINED), name
    released = tiny_model(freeze_in_eval=False).train()
    assert all(module.training for module in released.modules())
    assert not any(module.training for module in released.eval().modules())


@pytest.mark.parametrize("cosine_losses", [True, False])
def test_s15_products_are_cosines_or_raw(cosine_losses: bool) -> None:
    model = tiny_model(cosine_losses=cosine_losses).eval()
    found = model.pair_vectors(PairBatch.of(torch.tensor([[0, 1]])))["text"][0]
    raw = model.adapters["text"](model.items["text"].vectors([0]))
    assert torch.allclose(found, raw / raw.norm() if cosine_losses else raw, atol=1e-6)
    assert abs(raw.norm().item() - 1) > 0.01


def test_s14_released_reads_chinese_titles_with_an_english_bert() -> None:
    assert Settings().text_model == "google-bert/bert-base-chinese"
    assert Settings(variant="released").text_model == "google-bert/bert-base-cased"
    assert Settings(variant="released", text_model="small").text_model == "small"


def test_each_distinct_item_is_encoded_once() -> None:
    model, asked = tiny_model(), []

    class Items:
        def __init__(self, width: int) -> None:
            self.width = width

        def vectors(self, positions: Any) -> torch.Tensor:
            asked.append(positions)
            return torch.arange(1.0, len(positions) + 1)[:, None].repeat(1, self.width)

    model.items = {"text": Items(16), "image": Items(12)}
    target, positive = model.pair_vectors(PairBatch.of(torch.tensor([[7, 2], [2, 7], [7, 5]])))["text"]
    assert asked == [[2, 5, 7]] * 2
    assert target.shape == (3, 64) and torch.equal(target[1], positive[0]) and torch.equal(target[0], target[2])


def test_a_gpu_does_not_wait_in_a_step() -> None:
    model = tiny_model(losses=["t2t"])
    text: Any = model.items["text"]
    tokens, mask = text.raw.batch(range(3), CPU.device)
    hidden, mask = text.tower.prefix(tokens, mask).detach().to(GPU), mask.to(GPU)
    model.items = {"text": mock.Mock(vectors=lambda _: text.tower.tail(hidden, mask))}
    del model.adapters["image"]
    step_without_waiting(model, Pairs(torch.tensor([[0, 1], [2, 1], [2, 0]]), 3, 0).load(np.arange(3))[0])


def fine_tuned(settings: Settings) -> Path:
    sft_content_encoder.run(settings)
    return settings.encoders_folder


def test_a_run_trains_what_it_should_leaves_the_rest_bit_equal_and_is_then_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_tiny_run(tmp_path)
    folder = fine_tuned(settings)
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
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + settings.epochs
    assert set(torch.load(folder / "last.pth")["weights"]) == {
        name for name, _ in tiny_model().named_parameters() if name.startswith((*TRAINED, "adapters."))
    }
    BertModel.from_pretrained(folder / "bert"), SwinForImageClassification.from_pretrained(folder / "swin")
    assert AutoTokenizer.from_pretrained(folder / "bert")("ab")["input_ids"]
    capsys.readouterr()
    fine_tuned(settings)
    assert "is up to date" in capsys.readouterr().out


def test_s5_s6_released_keeps_the_adapters_and_the_frozen_weights_and_paper_trains_the_adapters(tmp_path: Path) -> None:
    cases: Dict[str, Any] = {"start": {"learning_rate": 0.0}, "paper": {}, "released": {"variant": "released"}}
    adapters = {}
    for name, changes in cases.items():
        folder = fine_tuned(make_tiny_run(tmp_path / name, epochs=1, modalities=["text"], **changes))
        adapters[name] = load_file(folder / "adapters.safetensors")
    for name, start in adapters["start"].items():
        assert torch.equal(start, adapters["released"][name]) and not torch.equal(start, adapters["paper"][name])
    before, after = weights_of(tmp_path / "released" / "models"), weights_of(folder)
    frozen, trained = "bert/encoder.layer.0.output.dense.weight", "bert/pooler.dense.weight"
    assert torch.equal(before[frozen], after[frozen]) and not torch.equal(before[trained], after[trained])


@pytest.mark.parametrize("switch", ["train_adapters", "freeze_in_eval"])
def test_variant_sets_the_switches(switch: str) -> None:
    assert getattr(Settings(), switch) and not getattr(Settings(variant="released"), switch)
    assert getattr(Settings(variant="released", **{switch: True}), switch)


# --- one modality, few pairs, missing covers, other settings ---


@pytest.mark.parametrize("modality, there, not_there", [("text", "bert", "swin"), ("image", "swin", "bert")])
def test_one_modality_alone(tmp_path: Path, modality: str, there: str, not_there: str) -> None:
    folder = fine_tuned(make_tiny_run(tmp_path, modalities=[modality], epochs=1, train_batch_size=128))
    assert (folder / there).is_dir() and not (folder / not_there).exists()
    assert "t2i" not in json.loads((folder / "report.json").read_text())["after"]


def test_the_order_of_modalities_does_not_matter(tmp_path: Path) -> None:
    first, second = (
        weights_of(fine_tuned(make_tiny_run(tmp_path / name, epochs=1, modalities=modalities)))
        for name, modalities in (("a", ["text", "image"]), ("b", ["image", "text"]))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_losses_the_encoders_stay_as_pretrained(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, losses=[])
    settings.pairs_file.unlink()  # no pairs are needed
    before, after = weights_of(tmp_path / "models"), weights_of(fine_tuned(settings))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_changed_settings_or_pairs_are_done_again_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_tiny_run(tmp_path, modalities=["text"], epochs=1)
    folder = fine_tuned(settings)
    first = weights_of(folder)
    settings.temperature = 0.5
    fine_tuned(settings)
    assert "temperature 0.05 → 0.5" in capsys.readouterr().out
    assert not all(torch.equal(first[name], weight) for name, weight in weights_of(folder).items())
    settings.pairs_file.write_text("0,5\n1,6\n")
    fine_tuned(settings)
    assert "pairs changed" in capsys.readouterr().out


def test_one_pair_is_enough_and_none_is_an_error(tmp_path: Path) -> None:
    fine_tuned(make_tiny_run(tmp_path / "one", pairs=[(3, 8)], epochs=1))
    with pytest.raises(UserError, match="holds no pairs"):
        fine_tuned(make_tiny_run(tmp_path / "none", pairs=[]))
    with pytest.raises(UserError, match="fewer than two items"):
        fine_tuned(make_tiny_run(tmp_path / "self", pairs=[(3, 3)]))


def test_missing_covers_stop_with_the_list_or_their_pairs_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_tiny_run(tmp_path, epochs=1)
    covers = settings.dataset_dir / "covers"
    (covers / "8.jpg").unlink()
    (covers / "0.jpg").write_bytes(b"no image")
    (covers / "14.jpg").unlink()  # occurs in no pair
    with pytest.raises(UserError) as stopped:
        fine_tuned(settings)
    assert "8.jpg: missing" in str(stopped.value) and "0.jpg: does not decode" in str(stopped.value)
    assert "14.jpg" not in str(stopped.value)
    settings.missing_covers = "zero"
    fine_tuned(settings)
    assert "4 of 8 pairs are left out" in capsys.readouterr().out


# --- errors ---


def test_weights_that_the_last_step_ruins_are_not_saved(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, learning_rate=1e30, epochs=1, train_batch_size=8)
    with pytest.raises(Diverged, match="vectors are not finite: encoder text"):
        fine_tuned(settings)
    assert not (settings.encoders_folder / "bert").exists()


def test_an_encoder_that_cannot_be_loaded_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nand more lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(UserError, match="'some/bert' cannot be loaded .*huggingface.co'; give .* small$"):
        fine_tuned(make_tiny_run(tmp_path, text_model="some/bert", modalities=["text"]))


def test_an_encoder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    settings = make_tiny_run(tmp_path, modalities=["text"], max_text_tokens=256)
    with pytest.raises(UserError, match="at most 64 tokens"):
        fine_tuned(settings)
    settings.text_model = settings.image_model
    with pytest.raises(UserError, match="is a swin model; here a bert model"):
        fine_tuned(settings)


# --- a stopped run continues ---


@pytest.mark.parametrize(
    "patch",
    [
        """
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
        "model.write_processor_config = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["before the second checkpoint is complete", "while the encoders are written"],
)
def test_killed_and_started_again_is_bit_equal(tmp_path: Path, patch: str) -> None:
    whole, killed = make_tiny_run(tmp_path / "whole"), make_tiny_run(tmp_path / "killed")
    code = f"""
import os, signal
from stage1_content_modality_semantic_alignment import model, sft_content_encoder
{patch}
sft_content_encoder.run(sft_content_encoder.Settings(**{as_dict(killed)!r}))
"""
    done = run_python(code)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = killed.encoders_folder
    assert (folder / "last.pth").exists() and not (folder / "made.json").exists()
    first, second = weights_of(fine_tuned(whole)), weights_of(fine_tuned(killed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert (whole.encoders_folder / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_checkpoint_of_other_settings_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = weights_of(fine_tuned(make_tiny_run(tmp_path / "a", modalities=["text"], epochs=1)))
    other = make_tiny_run(tmp_path / "b", modalities=["text"], epochs=1, train_batch_size=8)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(TextTower, "save", lambda *_: 1 / 0)
        fine_tuned(other)
    assert (other.encoders_folder / "last.pth").exists()
    other.train_batch_size = 3
    found = weights_of(fine_tuned(other))
    assert "training starts from the beginning" in capsys.readouterr().out
    assert all(torch.equal(weight, found[name]) for name, weight in wanted.items())


# --- small encoders ---


def test_small_encoders_are_the_same_on_every_run_and_differ_by_seed(tmp_path: Path) -> None:
    small = {"text_model": "small", "image_model": "small", "epochs": 1}
    first, again, other = (
        weights_of(fine_tuned(make_tiny_run(tmp_path / name, seed=seed, **small)))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["bert/pooler.dense.weight"], other["bert/pooler.dense.weight"])


def test_the_vocabulary_of_the_titles_is_the_same_in_another_process() -> None:
    titles = tiny_titles()[1]
    done = run_python(f"from common.text_encoders import train_vocabulary\nprint(train_vocabulary({titles!r}, 80))")
    assert done.stdout.strip().endswith(str(text_encoders.train_vocabulary(titles, 80)))
