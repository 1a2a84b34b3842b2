"""What a tower reads for an item: the cached prefix (S6 mended), or tokens and pixels (S6 released).

Items are addressed by position in the list of items that occur in pairs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, List, Protocol, Sequence, Tuple

import numpy as np
import torch
from tqdm import tqdm

from common.device import Compute
from common.errors import UserError
from stage1_content_modality_semantic_alignment.covers import normalise
from stage1_content_modality_semantic_alignment.towers import Tower

PREFIX_BATCH = 64


class RawItems(Protocol):
    """The raw inputs of items, as a tower's `prefix` and `forward` take them."""

    lengths: np.ndarray  # (items,): what a batch costs grows with them

    def batch(self, positions: Sequence[int], device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
        """Inputs and mask of some items."""


class Titles:
    """Tokenised titles; a batch is padded to its longest."""

    def __init__(self, tokenizer: Any, titles: Sequence[str], max_tokens: int) -> None:
        tokens = tokenizer(list(titles), truncation=True, max_length=max_tokens)["input_ids"]
        self.tokens = [torch.tensor(ids) for ids in tokens]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self.padding = int(tokenizer.pad_token_id)

    def batch(self, positions: Sequence[int], device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, both (B, L)."""
        tokens = [self.tokens[p] for p in positions]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=self.padding)
        lengths = torch.as_tensor(self.lengths[list(positions)])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        return ids.to(device), mask.to(device)


class Covers:
    """Decoded covers, uint8 (items, 3, S, S)."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.lengths = np.ones(len(pixels), dtype=np.int64)

    def batch(self, positions: Sequence[int], device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels (B, 3, S, S), and a mask of ones (B, 1)."""
        pixels = normalise(self.pixels[list(positions)].to(device))
        return pixels, torch.ones(len(pixels), 1, dtype=torch.long, device=device)


def batches_by_length(lengths: np.ndarray, size: int) -> List[List[int]]:
    """Positions in batches of similar length, the longest first; ties by position."""
    order = np.lexsort((np.arange(len(lengths)), -lengths)).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


class LiveItems:
    """Runs the whole encoder on every batch, as released (S6)."""

    def __init__(self, tower: Tower, raw: RawItems, compute: Compute) -> None:
        self.tower, self.raw, self.compute = tower, raw, compute

    def vectors(self, positions: Sequence[int]) -> torch.Tensor:
        """(len(positions), width)."""
        out: torch.Tensor = self.tower(*self.raw.batch(positions, self.compute.device))
        return out


class CachedItems:
    """The output of the frozen prefix, computed once per item; an epoch runs the tail alone.

    Ragged over real tokens, fp32 (lossless for every precision), in an unlinked file mapped into memory:
    nothing is left behind by a kill, and states that are larger than the memory still do.
    """

    def __init__(self, tower: Tower, raw: RawItems, compute: Compute, scratch: Path) -> None:
        self.tower, self.compute = tower, compute
        self.lengths = tower.prefix_rows(raw.lengths)  # (items,)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.rows = _scratch_rows(scratch, int(self.lengths.sum()), tower.prefix_width)
        tower.eval()
        with tqdm(total=len(self.lengths), desc=f"frozen prefix, {tower.modality}", disable=None, unit="item") as bar:
            for positions in batches_by_length(raw.lengths, PREFIX_BATCH):
                self._fill(raw, positions)
                bar.update(len(positions))

    @torch.no_grad()
    def _fill(self, raw: RawItems, positions: Sequence[int]) -> None:
        with self.compute.autocast():
            hidden = self.tower.prefix(*raw.batch(positions, self.compute.device)).float().cpu()
        for position, item in zip(positions, hidden):
            start, length = self.starts[position], self.lengths[position]
            self.rows[start : start + length] = item[:length]

    def hidden(self, positions: Sequence[int]) -> Tuple[torch.Tensor, torch.Tensor]:
        """What enters the tail, (B, L, H), and its mask (B, L), trimmed to the longest of the batch."""
        starts, lengths = self.starts[list(positions)], self.lengths[list(positions)]
        hidden = torch.zeros(len(lengths), int(lengths.max()), self.rows.shape[1])
        for place, (start, length) in enumerate(zip(starts, lengths)):
            hidden[place, :length] = self.rows[start : start + length]
        mask = torch.arange(hidden.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]
        return hidden.to(self.compute.device), mask.to(self.compute.device)

    def vectors(self, positions: Sequence[int]) -> torch.Tensor:
        """(len(positions), width)."""
        return self.tower.tail(*self.hidden(positions))


def _scratch_rows(folder: Path, rows: int, width: int) -> torch.Tensor:
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  the map keeps it
        if hasattr(os, "posix_fallocate"):  # macOS has none. Writing to a map that the disk does not hold is a SIGBUS
            os.posix_fallocate(file.fileno(), 0, rows * width * 4)
    except OSError as error:
        told = f"{rows * width * 4 / 2**30:.1f} GiB for what is computed once per item: {error.strerror or error}"
        raise UserError(f"{folder}: no room for {told}; make room, or move finetune_dir") from error
    return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=(rows, width)))
