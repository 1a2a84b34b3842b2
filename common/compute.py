"""What a run computes on: device, precision, processes, random generators; and how many operations a step takes."""

from __future__ import annotations

import atexit
import os
import random
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def cpu_computes_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16, AMX or ARM); elsewhere bf16 is emulated, slowly."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
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

    def scaler(self) -> Any:
        """A gradient scaler that scales in fp16 alone (bf16 and fp32 do not underflow)."""
        enabled = self.precision == "fp16"
        if hasattr(torch.amp, "GradScaler"):  # torch 2.3 and later
            return torch.amp.GradScaler("cuda", enabled=enabled)
        return torch.cuda.amp.GradScaler(enabled=enabled)


def pick_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Device and precision for the settings of these names.

    auto: fp16 on V100 and older, bf16 on Ampere and later and on CPUs that have the instructions.

    Raises:
        UserError: the device does not exist, or cannot compute in the given precision.
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


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. A GPU gets it from pinned memory, so that it is copied while the last step computes."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class Processes:
    """This process's rank among ``size`` processes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The device of this process: with several processes on GPUs, each has its own."""
        return f"cuda:{self.local_rank}" if self.size > 1 and _on_cuda(asked) else asked

    def sum(self, tensor: torch.Tensor) -> None:
        """Sum a CPU tensor over all processes, in place."""
        if self.size > 1:
            moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
            dist.all_reduce(moved)
            tensor.copy_(moved)

    def gather(self, value: Any) -> List[Any]:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values: List[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all processes in the order of the ranks; their numbers may differ."""
        if self.size == 1:
            return rows
        counts: List[int] = self.gather(len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    def agree(self, value: Any) -> Any:
        """The first process's value, in all processes."""
        return self.gather(value)[0]


def _on_cuda(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def start_processes(device: str) -> Processes:
    """Join torchrun's group (gloo on CPUs, nccl on GPUs); without torchrun there is one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Processes()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if _on_cuda(device):
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if _on_cuda(device) else "gloo")
        atexit.register(dist.destroy_process_group)  # gloo's threads would abort the process at its end
    return Processes(dist.get_rank(), size, local_rank)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices); on GPUs, select deterministic kernels.

    CPU kernels are deterministic for a fixed number of threads. With torch's deterministic mode they would be slower:
    it fills each new tensor and sums the gradients of embeddings on one thread.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's part of determinism
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def rng_state(device: torch.device) -> Dict[str, Any]:
    """The state of all generators, of the GPU's too if the run uses one; loadable with ``weights_only=True``."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: Dict[str, Any] = {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "rest": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Dict[str, Any], device: torch.device) -> None:
    """Restore the generators from `rng_state`, also on another GPU."""
    python, numpy_state = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    position, has_gauss, cached = numpy_state["rest"]
    keys = numpy_state["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy_state["name"], keys, int(position), int(has_gauss), float(cached)))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


class _Counter(TorchDispatchMode):
    """Adds up torch's own formula of each operation.

    torch's `FlopCounterMode` has hooks on modules, which fail where a parameter is passed to a module (CORE).
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations_of_step(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Floating-point operations of a forward and backward pass of ``loss``, for use after the training.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two; element-wise work
    and fused recurrent kernels are not.
    """
    trained: List[Tensor] = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.zero_grad(set_to_none=True)  # frees memory for the gradients below
    with _Counter() as counter, _attention_that_is_counted():
        # backward() would run the hooks by which processes wait for each other
        torch.autograd.grad(loss(), trained, allow_unused=True)
    return int(counter.total)


@contextmanager
def _attention_that_is_counted() -> Iterator[None]:
    """Attention without the flash kernels, which torch does not count on the CPU; the others do the same work."""
    enabled = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(enabled)
