"""Adam, its update in one fused kernel where torch has one for the device."""

from __future__ import annotations

from typing import Any, Dict, List

import torch


def fused_adam(groups: List[Dict[str, Any]]) -> torch.optim.Adam:
    """Adam over groups of ``params`` and ``lr``."""
    try:
        return torch.optim.Adam([dict(group) for group in groups], fused=True)
    except RuntimeError:  # torch before 2.4 has no fused kernel on the CPU
        return torch.optim.Adam([dict(group) for group in groups])
