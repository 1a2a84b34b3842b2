"""What the encoders read of items, and the pairs that stage 1 trains on.

Items are addressed by position in a list: all items, or those that occur in pairs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.compute import Compute, to_device
from common.dataset import Dataset
from common.errors import UserError
from stage1_content_modality_semantic_alignment.image_encoders import image_size, normalise, read_covers
from stage1_content_modality_semantic_alignment.llm.pairs import Pair
from stage1_content_modality_semantic_alignment.model import ImageTower, PairBatch, TextTower, Tower
from stage1_content_modality_semantic_alignment.settings import covers_folder

if TYPE_CHECKING:
    from stage1_content_modality_semantic_alignment.sft_content_encoder import Settings

PREFIX_BATCH = 64


class Pairs:
    """The training rows: pairs of positions, drawn from the seed and the epoch alone.

    Args:
        pairs: (P, 2).
    """

    def __init__(self, pairs: Tensor, batch_size: int, seed: int) -> None:
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def epoch(self, number: int) -> List[np.ndarray]:
        """The rows of each step of an epoch; the last step may have fewer."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.pairs))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def load(self, rows: np.ndarray) -> Tuple[PairBatch, int]:
        """The pairs of a step, and their number."""
        return PairBatch.of(self.pairs[torch.from_numpy(rows)]), len(rows)


class Titles:
    """Tokenised titles; a batch is padded to its longest."""

    def __init__(self, tokenizer: Any, titles: Sequence[str], max_tokens: int) -> None:
        tokens = tokenizer(list(titles), truncation=True, max_length=max_tokens)["input_ids"]
        self.tokens = [torch.tensor(ids) for ids in tokens]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self.padding = int(tokenizer.pad_token_id)

    def batch(self, positions: Sequence[int], device: torch.device) -> Tuple[Tensor, Tensor]:
        """Token ids and mask, both (B, L)."""
        tokens = [self.tokens[p] for p in positions]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=self.padding)
        lengths = torch.as_tensor(self.lengths[list(positions)])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        return to_device(ids, device), to_device(mask, device)


class Covers:
    """Decoded covers, uint8 (items, 3, S, S)."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.lengths = np.ones(len(pixels), dtype=np.int64)

    def batch(self, positions: Sequence[int], device: torch.device) -> Tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S), and a mask of ones (B, 1)."""
        pixels = normalise(to_device(self.pixels[list(positions)], device))
        return pixels, torch.ones(len(pixels), 1, dtype=torch.long, device=device)


RawItems = Union[Titles, Covers]  # ``lengths`` (items,): what a batch costs grows with them


def each_item_once(
    raw: RawItems, batch_size: int, compute: Compute, title: str
) -> Iterator[Tuple[List[int], Tensor, Tensor]]:
    """Yield positions, inputs and mask of batches of similar length, the longest first, and show a progress bar."""
    order = np.argsort(-raw.lengths, kind="stable").tolist()
    with tqdm(total=len(order), desc=title, disable=None, unit="item") as bar:
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            yield (positions, *raw.batch(positions, compute.device))
            bar.update(len(positions))


def load_items(
    settings: Settings, dataset: Dataset, pairs: Sequence[Pair], towers: Mapping[str, Tower]
) -> Tuple[Tensor, Dict[str, RawItems]]:
    """What the encoders read of the items that occur in pairs, and the pairs as positions in the list of these items.

    Returns:
        (P, 2) positions of target and similar item; modality → raw inputs.

    Raises:
        UserError: the pairs have fewer than two items; or a cover cannot be used, unless ``missing_covers`` is
            ``zero``: its pairs are then left out.
    """
    text, image = towers.get("text"), towers.get("image")
    raw: Dict[str, RawItems] = {}
    if isinstance(image, ImageTower):
        covers, side = covers_folder(settings.dataset_dir), image_size(image.swin.config)
        usable, missing, pixels = read_covers(covers, items_of(pairs), side, settings.missing_covers)
        if missing:
            kept = [pair for pair in pairs if not set(pair) & set(missing)]
            print(f"{len(pairs) - len(kept)} of {len(pairs)} pairs are left out: {len(missing)} covers cannot be used")
            pairs = kept
        row = {item: row for row, item in enumerate(usable)}
        raw["image"] = Covers(pixels[[row[item] for item in items_of(pairs)]])
    items = items_of(pairs)
    if len(items) < 2:
        raise UserError(f"{settings.pairs_file}: the pairs have fewer than two items; choose other pairs")
    if isinstance(text, TextTower):
        titles = dataset.titles(settings.title_language)
        raw["text"] = Titles(text.tokenizer, [titles[item] for item in items], settings.max_text_tokens)
    print(f"{len(pairs)} pairs of {len(items)} items")
    place = {item: position for position, item in enumerate(items)}
    return torch.tensor([[place[target], place[similar]] for target, similar in pairs]), raw


def items_of(pairs: Sequence[Pair]) -> List[int]:
    """The items that occur in pairs, ascending."""
    return sorted({item for pair in pairs for item in pair})


class LiveItems:
    """Runs the whole encoder on every batch, as released (S6)."""

    def __init__(self, tower: Tower, raw: RawItems, compute: Compute) -> None:
        self.tower, self.raw, self.compute = tower, raw, compute

    def vectors(self, positions: Sequence[int]) -> Tensor:
        """(len(positions), width)."""
        out: Tensor = self.tower(*self.raw.batch(positions, self.compute.device))
        return out


class CachedItems:
    """The output of the frozen prefix, computed once per item; an epoch runs the tail alone.

    Rows of real tokens only, in fp32 (lossless for every precision), in an unlinked file mapped into memory: a killed
    process leaves nothing behind, and the states may be larger than the memory.
    """

    def __init__(self, tower: Tower, raw: RawItems, compute: Compute, scratch: Path) -> None:
        self.tower, self.compute = tower, compute
        self.lengths = tower.prefix_rows(raw.lengths)  # (items,)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.rows = scratch_rows(scratch, int(self.lengths.sum()), tower.prefix_width)
        tower.eval()
        with torch.no_grad():
            for positions, inputs, mask in each_item_once(raw, PREFIX_BATCH, compute, f"{tower.part}, frozen prefix"):
                with compute.autocast():
                    hidden = tower.prefix(inputs, mask).float().cpu()
                for position, item in zip(positions, hidden):
                    start, length = self.starts[position], self.lengths[position]
                    self.rows[start : start + length] = item[:length]

    def hidden(self, positions: Sequence[int]) -> Tuple[Tensor, Tensor]:
        """What enters the tail, (B, L, H), and its mask (B, L), trimmed to the longest of the batch."""
        starts, lengths = self.starts[list(positions)], self.lengths[list(positions)]
        hidden = torch.zeros(len(lengths), int(lengths.max()), self.rows.shape[1])
        for place, (start, length) in enumerate(zip(starts, lengths)):
            hidden[place, :length] = self.rows[start : start + length]
        mask = torch.arange(hidden.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]
        return to_device(hidden, self.compute.device), to_device(mask, self.compute.device)

    def vectors(self, positions: Sequence[int]) -> Tensor:
        """(len(positions), width)."""
        return self.tower.tail(*self.hidden(positions))


def scratch_rows(folder: Path, rows: int, width: int) -> Tensor:
    """(rows, width) float32 in a file of ``folder`` that has no name. Raises `UserError` if there is no room."""
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  the map keeps it
        if hasattr(os, "posix_fallocate"):  # not on macOS. Without it a full disk kills the process (SIGBUS)
            os.posix_fallocate(file.fileno(), 0, rows * width * 4)
    except OSError as error:
        size = f"{rows * width * 4 / 2**30:.1f} GiB for the outputs of the frozen layers"
        raise UserError(f"{folder}: no room for {size}: {error.strerror or error}; move finetune_dir") from error
    return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=(rows, width)))
