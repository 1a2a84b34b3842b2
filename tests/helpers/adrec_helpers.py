"""A tiny ADRec for tests: a random BERT of two layers, 16 wide, and the plain way to compute the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import torch
from stage1_helpers import tiny_bert
from tiny import make_tiny_dataset
from torch import Tensor
from transformers import AutoTokenizer

from adrec.data import Batch, Tokens, TrainLoader, item_tokens, rows_of
from adrec.encoders import TextEncoder, Vocabulary
from adrec.model import ADRec
from adrec.settings import ADRecSettings
from common.dataset import Dataset, load_dataset
from common.item_fields import write_item_fields
from common.splits import split_dataset
from common.text_encoders import SPECIAL_TOKENS

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def tiny_tokenizer(folder: Path) -> Any:
    """A BERT tokenizer that knows letters."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *"0123456789,&", "brought", "it", "for"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return AutoTokenizer.from_pretrained(folder)


def save_tiny_model(folder: Path) -> str:
    """A folder that text_model= can name."""
    tokenizer = tiny_tokenizer(folder)
    tiny_bert(0.1, vocabulary=len(tokenizer), layers=2).save_pretrained(folder)
    return str(folder)


def tiny_adrec_dataset(folder: Path) -> Dataset:
    home = make_tiny_dataset(folder, covers=False)
    kinds = ["noodles", "dance", "film, old", "cartoon", ""]
    write_item_fields(home, "Tiny", {"category": [kinds[i % 5] for i in range(15)], "brand": ["b & c"] * 15})
    return load_dataset(home, "Tiny")


def tiny_settings(folder: Path, **values: Any) -> ADRecSettings:
    own: Dict[str, Any] = {
        "dataset": "Tiny",
        "datasets_dir": str(folder),
        "n_layers": 2,
        "n_heads": 2,
        "inner_size": 24,
        "queue_size": 30,
        "train_batch_size": 6,
        "max_text_tokens": 40,
        "max_seq_length": 5,
        "scale": 8.0,
        "precision": "fp32",
    }
    return ADRecSettings(**{**own, **values})


@dataclass
class TinyADRec:
    """A model, its training rows and its items' tokens."""

    model: ADRec
    loader: TrainLoader
    tokens: Tokens

    def first_batch(self, count: int = 6) -> Batch:
        return self.loader.batch(self.loader.epoch(0)[0][:count])


def tiny_adrec(folder: Path, dropout: float = 0.0, cut: bool = False, **values: Any) -> TinyADRec:
    """``cut``: the embedding table is cut to the tokens in use."""
    dataset = tiny_adrec_dataset(folder)
    settings = tiny_settings(folder, **values)
    tokenizer = tiny_tokenizer(folder / "model")
    tokens = item_tokens(dataset, settings, tokenizer)
    bert = tiny_bert(dropout, vocabulary=len(tokenizer), layers=2)
    torch.manual_seed(0)
    text = TextEncoder(bert, settings.plm_layer, settings.frozen_text_layers)
    table = text.embeddings.word_embeddings.weight.detach().clone()
    vocabulary = Vocabulary(torch.arange(len(table)), table)
    if cut:
        vocabulary, tokens = text.keep_tokens(tokens)
    rows = rows_of(dataset, split_dataset(dataset, settings).train, settings.max_seq_length)
    model = ADRec(text, vocabulary, settings, rows.target_counts(dataset.n_items))
    return TinyADRec(model, TrainLoader(rows, tokens, settings), tokens)


def plain_items(model: ADRec, side: str, tokens: Tokens, released: bool) -> Tensor:
    """Every item by itself through BERT's own layers, padded to max_text_tokens; (n, d)."""
    text, s = getattr(model, side).text, model.settings
    bert = tiny_bert(0.0, vocabulary=text.embeddings.word_embeddings.num_embeddings, layers=2)
    bert.embeddings.load_state_dict(text.embeddings.state_dict())
    for own, theirs in zip(text.layers, bert.encoder.layer):
        theirs.load_state_dict(own.state_dict())
    out: List[Tensor] = []
    for i in range(len(tokens)):
        ids = torch.zeros(1, s.max_text_tokens, dtype=torch.long)
        own_ids = torch.from_numpy(tokens.ids[tokens.starts[i] : tokens.starts[i + 1]])
        ids[0, : len(own_ids)] = own_ids
        mask = (torch.arange(s.max_text_tokens) < len(own_ids))[None].long()
        hidden = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states[s.plm_layer][0]
        summed = hidden.sum(dim=0) if released else hidden[: len(own_ids)].sum(dim=0)
        out.append(summed / len(own_ids))
    return torch.stack(out)


def plain_sequence(model: ADRec, side: str, items: Tensor) -> Tensor:
    """One history's vector by torch's own attention, item vectors (L, d) → (d,)."""
    activation = getattr(torch.nn.functional, str(model.settings.sequence_act))
    x = items[None]
    for layer in getattr(model, side).sequence.layers:
        normed = layer.attention_norm(x)
        weight = torch.cat([layer.query.weight, layer.key.weight, layer.value.weight])
        bias = torch.cat([layer.query.bias, layer.key.bias, layer.value.bias])
        mixed, _ = torch.nn.functional.multi_head_attention_forward(
            normed.transpose(0, 1), normed.transpose(0, 1), normed.transpose(0, 1), x.shape[-1], layer.heads,
            weight, bias, None, None, False, 0.0, layer.out.weight, layer.out.bias, training=False,
        )  # fmt: skip
        x = x + mixed.transpose(0, 1)
        x = x + layer.dense_2(activation(layer.dense_1(layer.feed_forward_norm(x))))
    return (x[0, -1] + items.mean(dim=0)) / 2
