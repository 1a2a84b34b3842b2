"""The exports: rows by item, from the encoders that were fine-tuned or from others, and their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import pytest
import torch
from stage1_helpers import make_tiny_run, run_python, save_tiny_encoders, tiny_swin
from tiny import N_ITEMS, make_tiny_dataset, tiny_titles

from common import text_encoders
from common.errors import UserError
from common.features import features_dir, features_path, load_features
from common.files import read_json
from common.item_fields import write_item_fields
from stage1_content_modality_semantic_alignment import (
    image_encoders,
    sft_content_encoder,
    use_finetune_bert,
    use_finetune_swinbase,
)
from stage1_content_modality_semantic_alignment.image_encoders import normalise, read_covers
from stage2_sequence_preference_learning.settings import ContentSettings


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", lambda old: old[:1000], "cannot be loaded .tried the folder.*[^.]; give the folder"),
        (
            "vocab.txt",
            lambda old: old + b"surplus\n",
            "its tokenizer knows 58 tokens, the model 57; take both from one",
        ),
        ("vocab.txt", lambda old: b"[PAD]\n[UNK]\n", "its tokenizer knows . tokens, the model 57|cannot be loaded"),
        ("vocab.txt", None, "its tokenizer knows . tokens, the model 57|cannot be loaded"),
    ],
    ids=["weights cut short", "vocabulary too large", "vocabulary cut short", "vocabulary missing"],
)
def test_a_broken_encoder_is_an_error(
    tmp_path: Path, file: str, change: Optional[Callable[[bytes], bytes]], message: str
) -> None:
    folder = save_tiny_encoders(tmp_path)["text_model"]
    path = Path(folder) / file
    old = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(old))
    with pytest.raises(UserError, match=message):
        text_encoders.load_bert(folder, 40)


SHARED = ("dataset", "datasets_dir", "finetune_dir", "strategy", "device", "precision")


def text_settings(run: Any, **changes: Any) -> use_finetune_bert.Settings:
    values: Dict[str, Any] = {name: getattr(run, name) for name in (*SHARED, "title_language", "max_text_tokens")}
    return use_finetune_bert.Settings(**{**values, "export_batch_size": 4, **changes})


def image_settings(run: Any, **changes: Any) -> use_finetune_swinbase.Settings:
    values: Dict[str, Any] = {name: getattr(run, name) for name in SHARED}
    return use_finetune_swinbase.Settings(**{**values, "export_batch_size": 4, **changes})


def path_of(run: Any, modality: str) -> Path:
    return features_path(features_dir(run.dataset_dir, run.strategy), run.dataset, modality)


def features_of(run: Any, modality: str) -> torch.Tensor:
    return load_features(path_of(run, modality), N_ITEMS)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose encoders are fine-tuned; tests that change its files make their own."""
    settings = make_tiny_run(tmp_path_factory.mktemp("finetuned"), epochs=1)
    sft_content_encoder.run(settings)
    return settings


def test_mean_over_tokens_of_several_fields(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    brands = ["b & c" if item % 2 else "" for item in range(N_ITEMS)]
    write_item_fields(run.dataset_dir, "Tiny", {"brand": brands})
    use_finetune_bert.run(text_settings(run, model_path=run.text_model, pooling="mean", fields=["brand", "title"]))
    bert, tokenizer = text_encoders.load_bert(run.text_model, 40)
    for item, title in enumerate(tiny_titles()[1]):
        text = f"b & c, {title}" if item % 2 else title
        tokens = tokenizer([text], truncation=True, max_length=40, return_tensors="pt")
        mean = bert(**tokens).last_hidden_state[0].detach().mean(dim=0)  # [CLS] and [SEP] too
        torch.testing.assert_close(features_of(run, "text")[item], mean, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="fields: Tiny has no 'brnd'; did you mean 'brand'.; there are brand, title"):
        use_finetune_bert.run(text_settings(run, model_path=run.text_model, fields=["brnd"]))


@torch.no_grad()
def test_text_rows_are_the_cls_vectors_by_item(finetuned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    use_finetune_bert.run(text_settings(finetuned))
    rows = features_of(finetuned, "text")
    bert, tokenizer = text_encoders.load_bert(str(finetuned.encoders_folder / "bert"), 40)
    for item, title in enumerate(tiny_titles()[1]):
        tokens = tokenizer([title], truncation=True, max_length=40, return_tensors="pt")
        expected = bert(**tokens).last_hidden_state[0, 0]
        assert torch.allclose(rows[item], expected, atol=1e-5), item
    about = read_json(path_of(finetuned, "text").with_suffix(".json"))
    assert about["item_ids"] == list(range(N_ITEMS)) and about["shape"] == [N_ITEMS, 16]
    use_finetune_bert.run(text_settings(finetuned, export_batch_size=2))  # does not shape the result
    assert "is up to date" in capsys.readouterr().out


@torch.no_grad()
def test_image_rows_are_the_logits_by_item(finetuned: Any) -> None:
    use_finetune_swinbase.run(image_settings(finetuned))
    rows = features_of(finetuned, "image")
    swin = image_encoders.load_swin(str(finetuned.encoders_folder / "swin"))
    for item in range(N_ITEMS):
        _, _, pixels = read_covers(finetuned.dataset_dir / "covers", [item], 32, "stop")
        assert torch.allclose(rows[item], swin(pixel_values=normalise(pixels)).logits[0], atol=1e-5), item


def test_s12_a_missing_cover_stops_with_the_list_or_leaves_its_own_row_zero(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    settings = image_settings(run, model_path=run.image_model)
    use_finetune_swinbase.run(settings)
    whole = features_of(run, "image")
    covers = run.dataset_dir / "covers"
    (covers / "4.jpg").unlink()
    (covers / "11.jpg").write_bytes(b"no image")
    with pytest.raises(UserError) as stopped:
        use_finetune_swinbase.run(settings)
    assert "4.jpg: missing" in str(stopped.value) and "11.jpg: does not decode" in str(stopped.value)
    settings.missing_covers = "zero"
    use_finetune_swinbase.run(settings)
    rows = features_of(run, "image")
    for item in range(N_ITEMS):  # no row is shifted
        expected = torch.zeros(12) if item in (4, 11) else whole[item]
        assert torch.allclose(rows[item], expected, atol=1e-5), item
    about = read_json(path_of(run, "image").with_suffix(".json"))
    assert about["zero_rows"] == [4, 11]


def test_small_encoders_need_no_fine_tuning_and_features_dir_is_where_they_go(tmp_path: Path) -> None:
    run, where = make_tiny_run(tmp_path), tmp_path / "before"
    use_finetune_bert.run(text_settings(run, model_path="small", features_dir=str(where)))
    use_finetune_swinbase.run(image_settings(run, model_path="small", features_dir=str(where)))
    for modality in ("text", "image"):
        rows = load_features(features_path(where, run.dataset, modality), N_ITEMS)
        assert rows.shape == (N_ITEMS, 128) and len(rows.unique(dim=0)) == N_ITEMS
        assert not path_of(run, modality).exists()


def test_the_export_knows_what_the_encoder_was_fine_tuned_on(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path, epochs=1, modalities=["text"])
    with pytest.raises(UserError, match="no fine-tuned bert; run sft_content_encoder.py"):
        use_finetune_bert.run(text_settings(run))
    sft_content_encoder.run(run)
    with pytest.raises(UserError, match="no fine-tuned swin"):
        use_finetune_swinbase.run(image_settings(run))
    with pytest.raises(UserError, match="fine-tuned on en titles"):
        use_finetune_bert.run(text_settings(run, title_language="cn"))
    use_finetune_bert.run(text_settings(run, title_language=None))  # those of the fine-tuning
    assert read_json(path_of(run, "text").with_suffix(".json"))["settings"]["title_language"] == "en"
    config = run.encoders_folder / "bert" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 0.1}))
    with pytest.raises(UserError, match="not the encoder that made.json describes"):
        use_finetune_bert.run(text_settings(run))


@pytest.mark.parametrize(
    ("variant", "strategy", "name"),
    [("paper", None, "paper"), ("released", None, "released"), ("released", "tfidf", "tfidf")],
)
def test_every_step_finds_what_the_one_before_wrote(variant: str, strategy: str, name: str) -> None:
    tuned = sft_content_encoder.Settings(dataset="D", variant=variant, strategy=strategy)
    exported = use_finetune_bert.Settings(dataset="D", variant=variant, strategy=strategy)
    assert tuned.pairs_file == Path("datasets/D/pairs") / name / "item_pairs_id.txt"
    assert tuned.encoders_folder == exported.encoders_folder == Path("finetune_llm/D/64") / name
    read = ContentSettings(dataset="D", variant=variant, strategy=strategy)
    assert exported.features_folder == read.features_folder == Path("datasets/D/features") / name
    read.features_dir = exported.features_dir = "other"
    assert exported.features_folder == read.features_folder == Path("other")


def test_a_classifier_that_starts_at_random_makes_other_features_by_another_seed(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "datasets")
    tiny_swin().swin.save_pretrained(tmp_path / "backbone")
    values = {"dataset": "Tiny", "datasets_dir": str(tmp_path / "datasets"), "device": "cpu", "precision": "fp32"}
    values.update(model_path=str(tmp_path / "backbone"), features_dir=str(tmp_path / "features"))
    made = []
    for seed in (1, 2, 1):
        use_finetune_swinbase.run(use_finetune_swinbase.Settings(**values, seed=seed))
        made.append(load_features(features_path(tmp_path / "features", "Tiny", "image"), N_ITEMS))
    assert not torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    "write",
    [
        "save_features(folder / 'x.pth', torch.zeros(100, 1000), {})",
        "save_encoders({'text': TextTower(*load_bert(str(folder / 'bert'), 40))}, folder / 'new')",
        "save_encoders({'image': ImageTower(load_swin(str(folder / 'swin')))}, folder / 'new')",
        "scratch_rows(folder, 100, 1000)",
    ],
)
def test_a_full_disk_is_an_error(tmp_path: Path, write: str) -> None:
    """A limit on the length of files takes the place of a full disk."""
    save_tiny_encoders(tmp_path)
    done = run_python(
        "import resource, signal, torch\nfrom pathlib import Path\n"
        "from common.errors import UserError\nfrom common.features import save_features\n"
        "from common.text_encoders import load_bert\n"
        "from stage1_content_modality_semantic_alignment.image_encoders import load_swin\n"
        "from stage1_content_modality_semantic_alignment.model import ImageTower, TextTower, save_encoders\n"
        "from stage1_content_modality_semantic_alignment.inputs import scratch_rows\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        f"folder = Path({str(tmp_path)!r})\ntry:\n    {write}\n"
        "except UserError as error:\n    print('error:', error)\n"
    )
    assert done.stdout.startswith(f"error: {tmp_path}"), done.stderr
