"""Item features: what stage 1 writes is what stage 2 reads, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from common.errors import UserError
from common.features import features_path, load_features, save_features
from common.files import read_json, recipe

FEATURES = torch.arange(12.0).view(4, 3)


def saved(folder: Path) -> Path:
    path = features_path(folder, "Tiny", "text")
    save_features(path, FEATURES, recipe("use_finetune_bert", {"max_length": 256}, {}), zero_rows=[2])
    return path


def test_the_path_has_the_papers_name(tmp_path: Path) -> None:
    assert features_path(tmp_path, "Bili_Food", "image") == tmp_path / "Bili_Food_image_llm_stage1.pth"


def test_what_was_saved_loads_again(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert torch.equal(load_features(path, 4), FEATURES)
    about = read_json(path.with_suffix(".json"))
    assert about["item_ids"] == [0, 1, 2, 3] and about["zero_rows"] == [2] and about["shape"] == [4, 3]
    assert about["settings"] == {"max_length": 256} and about["step"] == "use_finetune_bert"


def test_features_in_half_precision_and_on_a_graph_are_written_as_plain_floats(tmp_path: Path) -> None:
    path = tmp_path / "Tiny_text_llm_stage1.pth"
    save_features(path, FEATURES.bfloat16().requires_grad_(), recipe("example", {}, {}))
    loaded = load_features(path, 4)
    assert loaded.dtype == torch.float32 and not loaded.requires_grad


def test_a_slice_is_saved_without_the_whole_tensor(tmp_path: Path) -> None:
    path = tmp_path / "Tiny_text_llm_stage1.pth"
    save_features(path, torch.zeros(100_000, 3)[:4], recipe("example", {}, {}))
    assert path.stat().st_size < 10_000


def test_a_published_file_without_json_loads(tmp_path: Path) -> None:
    torch.save(FEATURES.double(), tmp_path / "published.pth")
    assert load_features(tmp_path / "published.pth", 4).dtype == torch.float32


def test_features_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    spoiled = FEATURES.clone()
    spoiled[3, 1] = float("nan")
    with pytest.raises(UserError, match=r"features of items \[3\] are not finite"):
        save_features(tmp_path / "new.pth", spoiled, recipe("example", {}, {}))
    assert not (tmp_path / "new.pth").exists()
    torch.save(spoiled, tmp_path / "published.pth")
    with pytest.raises(UserError, match="not finite"):
        load_features(tmp_path / "published.pth", 4)


def rewritten(path: Path, **changes: Any) -> None:
    about = path.with_suffix(".json")
    about.write_text(json.dumps({**read_json(about), **changes}))


@pytest.mark.parametrize(
    "n_items, spoil, message",
    [
        (4, Path.unlink, "run stage 1, set features_dir=DIR"),
        (5, lambda path: None, "4 rows, but the data set has 5 items"),
        (4, lambda path: torch.save(torch.zeros(4), path), r"not a tensor of shape \(items, width\)"),
        (4, lambda path: torch.save({"features": FEATURES}, path), r"not a tensor of shape \(items, width\)"),
        (4, lambda path: rewritten(path, item_ids=[0, 1, 3, 2]), "item ids are not 0 … 3"),
        (4, lambda path: torch.save(FEATURES + 1, path), "not the file that Tiny_text_llm_stage1.json describes"),
    ],
    ids=["missing", "other items", "no table", "a mapping", "other ids", "changed since"],
)
def test_features_that_do_not_fit_are_refused(
    tmp_path: Path, n_items: int, spoil: Callable[[Path], None], message: str
) -> None:
    path = saved(tmp_path)
    spoil(path)
    with pytest.raises(UserError, match=message):
        load_features(path, n_items)
