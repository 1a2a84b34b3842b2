"""Item texts, their tokens, and the training rows: every prefix of a user's train part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from adrec.model import Batch
from adrec.ragged import Ragged
from adrec.text_encoder import Texts
from common.arrays import ranges
from common.dataset import Dataset, train_part
from common.errors import UserError, nearest
from common.files import atomic
from common.item_fields import text_fields

MASK, SEP = "[MASK]", "[SEP]"


def compose(fields: Mapping[str, str], settings: Any, tokenizer: Any) -> str:
    """The text of one item: prompt and fields, those that are empty or unknown left out (paper, prompt of ADRec)."""
    words = [settings.prompt, *(fields.get(name, "").strip() for name in settings.fields)]
    text = settings.separator.join(word for word in words if word)
    mask = tokenizer.mask_token if settings.mask_token else MASK.lower()  # A5
    return str(text.replace(MASK, mask).replace(SEP, tokenizer.sep_token))


def item_texts(dataset: Dataset, settings: Any, tokenizer: Any) -> List[str]:
    """The text of each item, by id.

    Raises:
        UserError: none of the items has any of the fields asked for, or a field is named that is not there.
    """
    columns = text_fields(dataset, settings.title_language)
    known = {*columns, "brand", "category"}  # the paper's fields may be missing; others must be there
    for name in settings.fields:
        if name not in known:
            raise UserError(f"fields: {dataset.name} has no field '{name}'{nearest(name, known)}; there are "
                            f"{', '.join(sorted(columns))}")  # fmt: skip
    used = [name for name in settings.fields if name in columns]
    if not used:
        raise UserError(f"fields: {dataset.name} has none of {', '.join(settings.fields)}: add title")
    rows = zip(*(columns[name] for name in used))
    return [compose(dict(zip(used, row)), settings, tokenizer) for row in rows]


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts, end to end: text i has ``ids[starts[i]:starts[i + 1]]``."""

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,)."""
        return np.diff(self.starts)

    def vocabulary(self, pad: int) -> np.ndarray:
        """The tokens that occur, and padding, ascending."""
        return np.union1d(self.ids, [pad])

    def renumbered(self, vocabulary: np.ndarray) -> Tokens:
        """Ids as places in ``vocabulary``."""
        return Tokens(np.searchsorted(vocabulary, self.ids), self.starts)

    def texts(self, items: np.ndarray, device: torch.device, padded_to: Optional[int] = None, pad: int = 0) -> Texts:
        """The tokens of some items, which come in the order of their lengths.

        Args:
            padded_to: A2 released: run so many positions of each text, padding too, and count its real ones.
        """
        lengths = self.lengths[items]
        run = lengths if padded_to is None else np.full(len(items), padded_to)
        layout = Ragged.of(run, device, lengths)
        real = ranges(np.zeros_like(run), run) < np.repeat(lengths, run)
        ids, places = np.full(len(real), pad), ranges(self.starts[items], lengths)
        ids[real] = self.ids[places]
        tokens, counts = (torch.from_numpy(array).to(device) for array in (ids, lengths))
        return Texts(tokens, layout, counts, torch.from_numpy(places) if padded_to is None else None)


def tokenise(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Tokens:
    """Token ids of texts, each cut to ``max_tokens``."""
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
    return Tokens(np.concatenate([np.asarray(one, dtype=np.int64) for one in ids]), starts)


def cached_tokens(texts: Sequence[str], tokenizer: Any, max_tokens: int, folder: Path) -> Tokens:
    """`tokenise`, or what it found before for the same texts and the same tokenizer."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if hasattr(tokenizer, "backend_tokenizer") else {}
    for of_the_last_call in ("truncation", "padding"):
        rules.pop(of_the_last_call, None)
    essence = json.dumps([rules, tokenizer.get_vocab(), max_tokens, list(texts)], sort_keys=True)
    key = hashlib.sha256(essence.encode("utf-8", "surrogatepass")).hexdigest()
    path = folder / "tokens" / f"{key[:16]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return Tokens(stored["ids"], stored["starts"])
    tokens = tokenise(texts, tokenizer, max_tokens)
    with atomic(path, several_writers=True) as temporary, open(temporary, "wb") as out:
        np.savez(out, ids=tokens.ids, starts=tokens.starts)
    return tokens


@dataclass(frozen=True)
class Rows:
    """Histories and targets: row r has the history ``items[start[r]:stop[r]]``."""

    items: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def histories(self, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The items of some rows' histories, end to end, and their lengths."""
        lengths = self.stop[rows] - self.start[rows]
        return self.items[ranges(self.start[rows], lengths)], lengths


def _rows(sequences: Sequence[np.ndarray], places: Sequence[Sequence[int]], max_seq_length: int) -> Rows:
    """One row for each place of each sequence: what stands before it is the history."""
    begin = np.cumsum([0, *map(len, sequences)])[:-1]
    users = np.repeat(np.arange(len(sequences)), [len(p) for p in places])
    inside = np.concatenate([np.asarray(p, dtype=np.int64) for p in places])
    items = np.concatenate(list(sequences)).astype(np.int64)
    stop = begin[users] + inside
    return Rows(items, stop - np.minimum(inside, max_seq_length), stop, items[stop], users)


def train_rows(dataset: Dataset, max_seq_length: int) -> Rows:
    """Every prefix of every user's train part, with the item after it.

    Raises:
        UserError: no user has four items.
    """
    sequences = [train_part(sequence) for sequence in dataset.sequences]
    places = [range(1, len(sequence)) for sequence in sequences]
    if not any(len(p) for p in places):
        raise UserError(f"{dataset.folder}: no row to train on: no user has four items or more")
    return _rows(sequences, places, max_seq_length)


def held_out_rows(dataset: Dataset, split: str, max_seq_length: int) -> Rows:
    """One row a user, in file order: ``valid`` predicts the item before the last, ``test`` the last (A9)."""
    before = 2 if split == "valid" else 1
    places = [[len(sequence) - before] for sequence in dataset.sequences]
    return _rows(dataset.sequences, places, max_seq_length)


def epoch_batches(rows: Rows, settings: Any, epoch: int) -> List[np.ndarray]:
    """The rows of each step of an epoch, drawn from seed and epoch alone; the last batch may be smaller."""
    random = np.random.default_rng([settings.seed, epoch])
    if settings.batch_by == "row":
        order = random.permutation(len(rows))
    else:
        order = np.argsort(random.permutation(int(rows.users.max()) + 1)[rows.users], kind="stable")
    size = settings.train_batch_size
    return [order[start : start + size] for start in range(0, len(order), size)]


class Batches:
    """Makes `Batch`es of rows.

    Args:
        tokens: of all items, renumbered to the text encoder's table.
        padded_to: A2 released, as in `Tokens.texts`.
    """

    def __init__(
        self, rows: Rows, tokens: Tokens, device: torch.device, padded_to: Optional[int] = None, pad: int = 0
    ) -> None:
        self.rows, self.tokens, self.device = rows, tokens, device
        self.padded_to, self.pad = padded_to, pad

    def of(self, rows: np.ndarray) -> Batch:
        """The batch of some rows, which are put in the order of their lengths."""
        rows = rows[np.argsort(self.rows.stop[rows] - self.rows.start[rows], kind="stable")]
        history, lengths = self.rows.histories(rows)
        items = np.unique(np.concatenate([history, self.rows.targets[rows]]))
        items = items[np.argsort(self.tokens.lengths[items], kind="stable")]
        place = np.empty(len(self.tokens), dtype=np.int64)
        place[items] = np.arange(len(items))

        def moved(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device)

        return Batch(
            lambda: self.tokens.texts(items, self.device, self.padded_to, self.pad),
            moved(items),
            moved(place[history]),
            Ragged.of(lengths, self.device),
            moved(place[self.rows.targets[rows]]),
        )


def by_length(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Indices in batches of similar length, ascending; ties by index."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
