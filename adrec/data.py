"""Item texts, their tokens, and the rows of the splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from adrec.ragged import OnDevice, Ragged
from adrec.settings import ADRecSettings
from common.arrays import ranges, starts_of
from common.compute import Processes
from common.dataset import Dataset
from common.errors import UserError, nearest
from common.item_fields import text_fields
from common.splits import Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK, SEP = "[MASK]", "[SEP]"
TOKENISED_AT_ONCE = 10_000  # texts; their ids are Python integers until they are in an array
ALONE = Processes()

# --- texts ---


def compose(fields: Mapping[str, str], settings: ADRecSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of one item: prompt and fields without those that are empty or unknown (paper, prompt of ADRec)."""
    words = [settings.prompt, *(fields.get(name, "").strip() for name in settings.fields)]
    text = settings.separator.join(word for word in words if word or not settings.skip_empty_fields)  # A13
    mask = tokenizer.mask_token if settings.mask_token else MASK.lower()  # A5
    return text.replace(MASK, str(mask)).replace(SEP, str(tokenizer.sep_token))


def item_texts(dataset: Dataset, settings: ADRecSettings, tokenizer: PreTrainedTokenizerBase) -> List[str]:
    """The text of each item, by id.

    Raises:
        UserError: a field does not exist, or none of the fields does.
    """
    columns = text_fields(dataset, settings.title_language)
    known = {*columns, "brand", "category"}  # the paper's fields may be missing
    for name in settings.fields:
        if name not in known:
            listed = ", ".join(sorted(columns))
            raise UserError(f"fields: {dataset.name} has no field '{name}'{nearest(name, known)}; it has {listed}")
    used = [name for name in settings.fields if name in columns]
    if not used:
        raise UserError(f"fields: {dataset.name} has none of {', '.join(settings.fields)}; add title")
    rows = zip(*(columns[name] for name in used))
    return [compose(dict(zip(used, row)), settings, tokenizer) for row in rows]


@dataclass
class Texts(OnDevice):
    """The tokens of n texts, end to end."""

    tokens: Tensor  # (T,) rows of the embedding table
    layout: Ragged
    counts: Tensor  # (n,) real tokens; fewer than the layout's lengths where padding is run too (A2 released)
    places: Tensor  # (T,) of the tokens among those of all items; empty where padding is run too


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts, end to end: text i has ``ids[starts[i]:starts[i + 1]]``."""

    ids: np.ndarray  # (T,) int32
    starts: np.ndarray
    pad: int = 0  # id of padding
    padded_to: Optional[int] = None  # A2 released: positions of each text that are run, padding too

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,)."""
        return np.diff(self.starts)

    def vocabulary(self) -> np.ndarray:
        """The ids that occur, and padding, ascending."""
        return np.union1d(self.ids, [self.pad])

    def renumbered(self, vocabulary: np.ndarray) -> Tokens:
        """Ids as places in ``vocabulary``."""
        ids = np.searchsorted(vocabulary, self.ids).astype(np.int32)
        return replace(self, ids=ids, pad=int(vocabulary.searchsorted(self.pad)))

    def texts(self, items: np.ndarray) -> Texts:
        """The tokens of some items, sorted by their lengths."""
        lengths = self.lengths[items]
        run = lengths if self.padded_to is None else np.full(len(items), self.padded_to)
        places = ranges(self.starts[items], lengths)
        ids = self.ids[places].astype(np.int64)
        if self.padded_to is not None:
            real = ranges(np.zeros_like(run), run) < np.repeat(lengths, run)
            padded = np.full(len(real), self.pad)
            padded[real] = ids
            ids, places = padded, places[:0]
        tokens, counts, of_all = map(torch.from_numpy, (ids, lengths, places))
        return Texts(tokens, Ragged.of(run, lengths), counts, of_all)


def tokenise(texts: Sequence[str], settings: ADRecSettings, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Token ids of texts, each cut to ``max_text_tokens``."""
    ids: List[np.ndarray] = []
    lengths: List[int] = []
    only_ids = {"return_attention_mask": False, "return_token_type_ids": False}  # half the time
    for start in range(0, len(texts), TOKENISED_AT_ONCE):
        some = list(texts[start : start + TOKENISED_AT_ONCE])
        found = tokenizer(some, truncation=True, max_length=settings.max_text_tokens, **only_ids)["input_ids"]
        ids.append(np.concatenate(found).astype(np.int32))
        lengths += map(len, found)
    padded_to = None if settings.mean_over_real else settings.max_text_tokens
    return Tokens(np.concatenate(ids), starts_of(np.array(lengths)), int(tokenizer.pad_token_id), padded_to)


def item_tokens(dataset: Dataset, settings: ADRecSettings, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens of a data set's items, by id."""
    return tokenise(item_texts(dataset, settings, tokenizer), settings, tokenizer)


# --- rows ---


@dataclass(frozen=True)
class Rows:
    """Histories and targets: row r has the history ``items[start[r]:stop[r]]``."""

    items: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    users: np.ndarray  # number of the sequence

    def __len__(self) -> int:
        return len(self.targets)

    def histories(self, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The items of some rows' histories, end to end, and their lengths."""
        lengths = self.stop[rows] - self.start[rows]
        return self.items[ranges(self.start[rows], lengths)], lengths

    def target_counts(self, n_items: int) -> np.ndarray:
        """Rows by their target: (n_items,)."""
        return np.bincount(self.targets, minlength=n_items)


@dataclass(frozen=True)
class Split:
    """Rows to rank, and the tokens of all items."""

    rows: Rows
    tokens: Tokens


def rows_of(dataset: Dataset, targets: Targets, max_seq_length: int) -> Rows:
    """One row for each target, with the last ``max_seq_length`` items before it as history."""
    items = dataset.items.astype(np.int64)
    users, places = targets
    stop = dataset.starts[users] + places
    return Rows(items, stop - np.minimum(places, max_seq_length), stop, items[stop], users)


def by_length(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Indices in batches of similar length, ascending; ties by index."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


@dataclass
class Batch(OnDevice):
    """B rows: histories and the item that comes next. Each of the n distinct items is encoded once (A4)."""

    items: Tensor  # (n,) ids of the distinct items
    texts: Optional[Texts]  # of the distinct items; None if the text encoder is not trained
    history: Tensor  # (T,) place among the distinct items, histories end to end
    layout: Ragged  # of the histories
    targets: Tensor  # (B,) place among the distinct items
    same_in_all_processes: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def target_items(self) -> Tensor:
        """(B,) ids."""
        return self.items[self.targets]


class TrainLoader:
    """Batches of training rows. With several processes each takes its share of every batch.

    Args:
        tokens: of all items, renumbered to the text encoder's table.
    """

    def __init__(self, rows: Rows, tokens: Tokens, settings: ADRecSettings, processes: Processes = ALONE) -> None:
        self.rows, self.tokens, self.settings, self.processes = rows, tokens, settings, processes

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int) -> List[np.ndarray]:
        """The rows of each step, drawn from the seed and the epoch's number; the last batch may be smaller."""
        random = np.random.default_rng([self.settings.seed, number])
        if self.settings.batch_by == "row":
            order = random.permutation(len(self.rows))
        else:
            users = self.rows.users
            order = np.argsort(random.permutation(int(users.max()) + 1)[users], kind="stable")
        size = self.settings.train_batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def load(self, rows: np.ndarray) -> Tuple[Batch, int]:
        """This process's part of a batch, and the rows in all parts."""
        rank, size = self.processes.rank, self.processes.size
        if len(rows) < size:  # too few to share: each process computes them all
            return self.batch(rows, True), len(rows) * size
        return self.batch(rows[rank::size], False), len(rows)

    def batch(self, rows: np.ndarray, same_in_all_processes: bool = False) -> Batch:
        """The batch of some rows, sorted by the lengths of their histories."""
        rows = rows[np.argsort(self.rows.stop[rows] - self.rows.start[rows], kind="stable")]
        history, lengths = self.rows.histories(rows)
        items, number = np.unique(np.concatenate([history, self.rows.targets[rows]]), return_inverse=True)
        order = np.argsort(self.tokens.lengths[items], kind="stable")
        items, places = items[order], torch.from_numpy(np.argsort(order)[number])
        return Batch(
            torch.from_numpy(items),
            self.tokens.texts(items) if self.settings.train_text else None,
            places[: len(history)],
            Ragged.of(lengths),
            places[len(history) :],
            same_in_all_processes,
        )
