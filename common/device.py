"""Device and precision, chosen by what the hardware computes fast."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ContextManager, Optional

import torch

from common.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def cpu_computes_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16, AMX or ARM); elsewhere bf16 is emulated, slowly."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Compute:
    """A device and the dtype that its matrix products run in."""

    device: torch.device
    precision: str

    def autocast(self) -> ContextManager[Any]:
        """The context of a forward pass; backward needs none."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def scaler(self) -> Optional[Any]:
        """A gradient scaler for fp16, None elsewhere (bf16 and fp32 do not underflow)."""
        return torch.cuda.amp.GradScaler() if self.precision == "fp16" else None


def pick_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Settings ``device`` and ``precision`` → what runs.

    V100 and older get fp16, Ampere and later bf16, CPUs bf16 where they have the instructions.

    Raises:
        UserError: the device is not there, or cannot compute in the precision asked for.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device}: not a device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device={device}: not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (not cuda or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={device}: torch sees {torch.cuda.device_count()} CUDA devices; use device=auto or cpu")
    ampere = chosen.type == "cuda" and torch.cuda.get_device_capability(chosen)[0] >= 8
    if precision == "auto":
        if chosen.type == "cuda":
            precision = "bf16" if ampere else "fp16"
        else:
            precision = "bf16" if cpu_computes_bf16() else "fp32"
    if precision == "fp16" and chosen.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    if precision == "bf16" and chosen.type == "cuda" and not ampere:
        raise UserError("precision=bf16 needs an Ampere GPU or later; on this one use fp16, fp32 or auto")
    return Compute(chosen, precision)


def fp32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ rightᵀ in fp32 also inside autocast: a cosine in bf16 is off by up to 0.004, times 1 / τ.

    Args:
        left: (N, d); right: (n, d).
    """
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T
