"""A training step on a stand-in of a GPU: tensors without data, of which no value can be read.

So a step fails where a GPU would have to wait, or where it mixes devices.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Optional, Tuple
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Refuses what tensors without data allow but a GPU waits for: an index that is a mask, or copied from the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            for index in args[1]:
                assert index is None or (index.dtype != torch.bool and index.device == args[0].device), func
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].device.type == "cpu":
            assert (kwargs or {}).get("device", args[0].device).type == "cpu" or (kwargs or {}).get("non_blocking"), (
                func
            )
        return func(*args, **(kwargs or {}))


def step_without_waiting(model: Any, batch: Any) -> None:
    """One training step."""
    model.to(GPU).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    no_autocast = mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    with NoWaiting(), no_autocast:
        torch.stack(list(model(batch.to(GPU)).values())).sum().backward()
        optimizer.step()
