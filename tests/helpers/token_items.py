"""Raw inputs of a text tower without a tokenizer, for the tests of stage 1."""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np
import torch
from torch import nn

from common.compute import pick_compute

CPU = pick_compute("cpu", "fp32")


class TokenItems:
    """Token sequences of given lengths, as `Titles` gives them."""

    def __init__(self, lengths: List[int]) -> None:
        chosen = torch.Generator().manual_seed(0)
        self.lengths = np.array(lengths)
        self.tokens = [torch.randint(5, 60, (length,), generator=chosen) for length in lengths]

    def batch(self, positions: Any, device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
        tokens = [self.tokens[p] for p in positions]
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        mask = torch.stack([torch.arange(ids.shape[1]) < len(t) for t in tokens]).long()
        return ids, mask
