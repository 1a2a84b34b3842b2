"""Floating-point operations of a training, counted by torch on one step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """Adds up what torch's own formulas say of each operation.

    Not torch's `FlopCounterMode`: its hooks on modules fail where a parameter goes into a module (CORE).
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        """Run an operation, and count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations_of_step(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Operations of one forward and backward pass of what ``loss`` computes; for when the training is over.

    torch counts matrix products, convolutions and attention, a multiplication and an addition as two; what runs
    element by element is not counted, and neither is what a fused recurrent kernel does inside.
    """
    trained: List[Tensor] = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.zero_grad(set_to_none=True)  # or there would be no memory for more gradients where the training filled it
    with _Counter() as counter, _attention_that_is_counted():
        # not backward(): it would run the hooks by which processes wait for each other
        torch.autograd.grad(loss(), trained, allow_unused=True)
    return int(counter.total)


@contextmanager
def _attention_that_is_counted() -> Iterator[None]:
    """Attention without the flash kernels: torch counts nothing of that for the CPU. The others do the same work."""
    enabled = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(enabled)
