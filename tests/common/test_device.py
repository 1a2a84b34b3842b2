"""Device and precision: what each kind of hardware gets. The hardware is a stand-in; no GPU is needed."""

from __future__ import annotations

from typing import Tuple

import pytest
import torch

from common import compute
from common.compute import Compute, pick_compute
from common.errors import UserError

V100, T4, A100, H100 = (7, 0), (7, 5), (8, 0), (9, 0)


def stand_in(monkeypatch: pytest.MonkeyPatch, *capabilities: Tuple[int, int], cpu_bf16: bool = True) -> None:
    """A machine with GPUs of these capabilities."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda chosen: capabilities[chosen.index or 0])
    monkeypatch.setattr(compute, "cpu_computes_bf16", lambda: cpu_bf16)


@pytest.mark.parametrize(("capability", "precision"), [(V100, "fp16"), (T4, "fp16"), (A100, "bf16"), (H100, "bf16")])
def test_auto_takes_the_gpu_in_the_precision_it_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, capability: Tuple[int, int], precision: str
) -> None:
    stand_in(monkeypatch, capability)
    assert pick_compute() == Compute(torch.device("cuda"), precision)


@pytest.mark.parametrize(("cpu_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_without_a_gpu(monkeypatch: pytest.MonkeyPatch, cpu_bf16: bool, precision: str) -> None:
    stand_in(monkeypatch, cpu_bf16=cpu_bf16)
    assert pick_compute() == Compute(torch.device("cpu"), precision)


def test_the_cpu_may_be_asked_for_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, V100)
    assert pick_compute("cpu").device.type == "cpu"


def test_each_gpu_gets_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, V100, A100)
    assert [pick_compute(f"cuda:{i}").precision for i in range(2)] == ["fp16", "bf16"]


def test_a_precision_that_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, A100)
    assert [pick_compute("auto", p).precision for p in ("fp32", "fp16", "bf16")] == ["fp32", "fp16", "bf16"]


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
