"""Full ranking by cosine: items encoded once from their texts, histories from the items' vectors."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adrec.data import Rows, Tokens, by_length
from adrec.model import ADRec, Encoders
from adrec.ragged import Ragged
from common.device import Compute, fp32_product
from common.ranking import target_ranks

TEXTS_AT_ONCE, USERS_AT_ONCE = 256, 1024
TOPK = (5, 10, 50)


@torch.no_grad()
def remember_frozen(model: ADRec, tokens: Tokens, compute: Compute) -> None:
    """Run the frozen part of the text encoder once on each item's text, for query and key.

    Args:
        tokens: of all items; from then on the encoders read texts of these items alone.
    """
    text = model.query.text
    out = torch.empty(len(tokens.ids), text.width, device=compute.device)
    for items in by_length(tokens.lengths, TEXTS_AT_ONCE):
        texts = tokens.texts(items, compute.device)
        with compute.autocast():
            out[texts.places] = text.frozen_part(texts).to(out)
    for side in (model.query, model.key):
        side.text.remembered = out


@torch.no_grad()
def encode_items(
    encoders: Encoders,
    tokens: Tokens,
    compute: Compute,
    padded_to: Optional[int] = None,
    pad: int = 0,
    new: bool = False,
) -> Tensor:
    """Vectors of all texts in evaluation mode, not normalised: (n, d) float32 on the device.

    Args:
        tokens: of all items of the data set in the order of their ids; or, if ``new``, of others.
    """
    encoders.eval()
    ids = None if new else torch.arange(len(tokens), device=compute.device)
    if encoders.fixed is not None:
        return encoders.adapted(encoders.fixed, ids)
    out = torch.empty(len(tokens), encoders.text.width, device=compute.device)
    for items in by_length(tokens.lengths, TEXTS_AT_ONCE):
        with compute.autocast():
            vectors = encoders.text(tokens.texts(items, compute.device, padded_to, pad))
        out[torch.from_numpy(items).to(compute.device)] = vectors.float()
    return encoders.adapted(out, ids)


@torch.no_grad()
def encode_histories(encoders: Encoders, items: Tensor, rows: Rows, places: np.ndarray) -> Tensor:
    """Unit vectors of some rows' histories, which come in the order of their lengths; fp32.

    Args:
        items: (n, d) of `encode_items`.
    """
    history, lengths = rows.histories(places)
    layout = Ragged.of(lengths, items.device)
    return F.normalize(encoders.sequence(items[torch.from_numpy(history).to(items.device)], layout), dim=1)


@torch.no_grad()
def rank_rows(
    encoders: Encoders, items: Tensor, rows: Rows, masked: bool = False, top: Optional[np.ndarray] = None
) -> np.ndarray:
    """The target's rank among all items for each row: (N,) float64.

    Args:
        masked: leave what is in a row's history out of its ranking. The history is what the model sees,
            the last ``max_seq_length`` items.
        top: (N, k) int, filled with each row's k best items, the best first.
    """
    encoders.eval()
    unit = F.normalize(items, dim=1)
    found = np.empty(len(rows))
    for places in by_length(rows.stop - rows.start, USERS_AT_ONCE):
        scores = fp32_product(encode_histories(encoders, items, rows, places), unit)
        if top is not None:
            top[places] = scores.topk(top.shape[1], dim=1).indices.cpu().numpy()
        excluded: Optional[List[Tensor]] = None
        if masked:
            history, lengths = rows.histories(places)
            pairs = (np.repeat(np.arange(len(places)), lengths), history)
            excluded = [torch.from_numpy(index).to(items.device) for index in pairs]
        targets = torch.from_numpy(rows.targets[places]).to(items.device)
        found[places] = target_ranks(scores, targets, excluded).cpu().numpy()
    return found
