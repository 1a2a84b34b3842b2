"""Checkpoints: written atomically, loaded as data, never as code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from common.errors import UserError
from common.files import atomic


@contextmanager
def full_disk_is_an_error(path: Path) -> Iterator[None]:
    """Raise a `UserError` for what torch's and safetensors' writers raise on a full disk (not an OSError)."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def save_checkpoint(path: Path, content: Any) -> None:
    """Save tensors and plain containers."""
    with atomic(path) as temporary, full_disk_is_an_error(path):
        torch.save(content, temporary)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Save tensors in the format of safetensors."""
    with atomic(path) as temporary, full_disk_is_an_error(path):
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, str(temporary))


def _fault(path: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{path}: {kind}: {reason}")


def _refuse_missing_or_program(path: Path) -> None:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; give the best.pth of a run, or a published file")
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records() if zipped else []
    except (RuntimeError, ValueError) as error:
        raise _fault(path, "not a whole torch file", error) from error
    if "constants.pkl" in records:  # torch.load would compile what is in it, in torch 2.2 with weights_only too
        raise UserError(f"{path}: a TorchScript program, which is code; save its state_dict instead")


def load_checkpoint(path: Path, mmap: bool = False) -> Any:
    """Load a file of tensors and plain containers (``weights_only=True``).

    Args:
        mmap: map the tensors into memory in place of reading them.

    Raises:
        UserError: the file is missing, cut short, or holds anything that would run as code.
    """
    _refuse_missing_or_program(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file raises nearly anything: struct.error, IndexError, AssertionError, …
        raise _fault(path, "not a checkpoint that loads as data", error) from error


class Dropped:
    """Replaces each object of a published file that is neither tensor nor plain container."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Dropped:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Dropped:
        """Replace the result of a dropped function."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignore a list item."""

    def extend(self, values: Any) -> None:
        """Ignore list items."""


ALLOWED: Dict[Tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    **{("torch", kind): getattr(torch, kind) for kind in dir(torch) if kind.endswith("Storage")},
    **{("builtins", kind.__name__): kind for kind in (dict, list, tuple, set, frozenset, int, float, str, bool, bytes)},
}


class TensorsOnly(pickle.Unpickler):
    """An unpickler that makes tensors and plain containers, and `Dropped` objects of everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Only what `ALLOWED` lists is called."""
        return ALLOWED.get((module, name), Dropped)


def _is_dropped(value: Any) -> bool:
    return value is Dropped or isinstance(value, Dropped)


def _without_dropped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_dropped(v) for k, v in value.items() if not _is_dropped(k) and not _is_dropped(v)}
    if isinstance(value, (list, tuple)):
        return [_without_dropped(v) for v in value if not _is_dropped(v)]
    return value


def load_published(path: Path, mmap: bool = False) -> Any:
    """Load the tensors and plain containers of a published ``.pth``; a pickled config in it is dropped.

    Args:
        mmap: as of `load_checkpoint`, if the file's format allows it.

    Raises:
        UserError: the file is missing, is no torch file, or holds a TorchScript program.
    """
    _refuse_missing_or_program(path)
    with suppress(UserError):
        return load_checkpoint(path, mmap)
    module = ModuleType("tensors_only")
    module.Unpickler = TensorsOnly  # type: ignore[attr-defined]
    module.load = lambda file, **keywords: TensorsOnly(file, **keywords).load()  # type: ignore[attr-defined]
    try:
        return _without_dropped(torch.load(path, map_location="cpu", pickle_module=module, weights_only=False))
    except Exception as error:  # any fault of a foreign file is the file's
        raise _fault(path, "not a torch file that can be read as tensors", error) from error


def load_plain_pickle(path: Path) -> Any:
    """Load the plain containers, numbers and texts of a published pickle; everything else is dropped, never called.

    Raises:
        UserError: the file is missing or no such pickle.
    """
    try:
        with open(path, "rb") as file:
            return _without_dropped(TensorsOnly(file).load())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise _fault(path, "not a pickle that can be read as plain data", error) from error


def check_weights(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Compare names and shapes.

    Raises:
        UserError: lists every name that is missing, unexpected, or of another shape; or a weight is NaN or infinite.
    """
    faults: List[str] = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unexpected {name}" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if faults:
        raise UserError(f"{source} does not fit the model: " + "; ".join(faults))
    broken = [name for name, weight in weights.items() if not weight.isfinite().all() and own[name].isfinite().all()]
    if broken:  # a mask may hold -inf
        raise UserError(f"{source}: NaN or inf in {', '.join(broken)}: its training diverged; use another checkpoint")


def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Load weights whose names and shapes must be exactly the module's (`check_weights`)."""
    check_weights(module.state_dict(), weights, str(source))
    module.load_state_dict(dict(weights))
