"""Device and precision: what each kind of hardware gets. The hardware is a stand-in; no GPU is needed."""

from __future__ import annotations

from typing import Any, Tuple
from unittest import mock

import pytest
import torch

from common import compute
from common.compute import Compute, pick_compute, to_device
from common.errors import UserError

V100, T4, A100, H100 = (7, 0), (7, 5), (8, 0), (9, 0)


def stand_in(monkeypatch: pytest.MonkeyPatch, *capabilities: Tuple[int, int], cpu_bf16: bool = True) -> None:
    """A machine with GPUs of these capabilities."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda chosen: capabilities[chosen.index or 0])
    monkeypatch.setattr(compute, "cpu_computes_bf16", lambda: cpu_bf16)


@pytest.mark.parametrize(
    ("gpus", "cpu_bf16", "asked", "found"),
    [
        ([V100], True, ("auto", "auto"), ("cuda", "fp16")),
        ([T4], True, ("auto", "auto"), ("cuda", "fp16")),
        ([A100], True, ("auto", "auto"), ("cuda", "bf16")),
        ([H100], True, ("auto", "auto"), ("cuda", "bf16")),
        ([A100], True, ("auto", "fp32"), ("cuda", "fp32")),
        ([A100], True, ("auto", "fp16"), ("cuda", "fp16")),
        ([V100, A100], True, ("cuda:0", "auto"), ("cuda:0", "fp16")),
        ([V100, A100], True, ("cuda:1", "auto"), ("cuda:1", "bf16")),
        ([V100], True, ("cpu", "auto"), ("cpu", "bf16")),
        ([], True, ("auto", "auto"), ("cpu", "bf16")),
        ([], False, ("auto", "auto"), ("cpu", "fp32")),
    ],
)
def test_device_and_precision_of_each_kind_of_hardware(
    monkeypatch: pytest.MonkeyPatch, gpus: Any, cpu_bf16: bool, asked: Tuple[str, str], found: Tuple[str, str]
) -> None:
    stand_in(monkeypatch, *gpus, cpu_bf16=cpu_bf16)
    assert pick_compute(*asked) == Compute(torch.device(found[0]), found[1])


@pytest.mark.parametrize(
    ("chosen", "precision", "message"),
    [
        ("cuda:1", "auto", "torch sees 1 CUDA devices; use device=auto or cpu"),
        ("mps", "auto", "not supported; use auto, cpu, cuda or cuda:N"),
        ("gpu", "auto", "not a device; use auto, cpu, cuda or cuda:N"),
        ("", "auto", "not a device"),
        ("cpu", "fp16", "needs a GPU"),
        ("cuda", "bf16", "needs an Ampere GPU"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    monkeypatch: pytest.MonkeyPatch, chosen: str, precision: str, message: str
) -> None:
    stand_in(monkeypatch, V100)
    with pytest.raises(UserError, match=message):
        pick_compute(chosen, precision)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    with pytest.raises(UserError, match="torch sees 0 CUDA devices"):
        pick_compute("cuda")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_computes_products_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with Compute(torch.device("cpu"), precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_only_fp16_scales_its_loss() -> None:
    scalers = [Compute(torch.device("cpu"), precision).scaler() for precision in ("fp32", "bf16", "fp16")]
    assert [scaler.is_enabled() for scaler in scalers] == [False, False, torch.cuda.is_available()]


def test_a_gpu_gets_tensors_from_pinned_memory_and_a_cpu_the_same_tensor() -> None:
    gpu, tensor = torch.device("cuda"), mock.Mock(device=torch.device("cpu"))
    to_device(tensor, gpu)
    tensor.pin_memory.return_value.to.assert_called_once_with(gpu, non_blocking=True)
    batch = torch.arange(3)
    assert to_device(batch, torch.device("cpu")) is batch
