"""A tiny ADRec for tests: a random BERT of two layers, 16 wide, and the plain way to compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import torch
from stage1_helpers import tiny_bert
from tiny import make_tiny_dataset
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel

from adrec.data import Batches, Rows, Tokens, epoch_batches, item_texts, tokenise, train_rows
from adrec.model import ADRec, Batch
from adrec.settings import SWITCHES, ADRecSettings
from adrec.text_encoder import TextEncoder
from common.dataset import Dataset, load_dataset
from common.item_fields import write_item_fields
from common.settings import resolve_switches
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
    tiny_bert(vocabulary=len(tokenizer), layers=2).save_pretrained(folder)
    return str(folder)


def tiny_adrec_dataset(folder: Path) -> Dataset:
    home = make_tiny_dataset(folder, covers=False)
    kinds = ["noodles", "dance", "film, old", "cartoon", ""]
    write_item_fields(home, "Tiny", {"category": [kinds[i % 5] for i in range(15)], "brand": ["b & c"] * 15})
    return load_dataset(home, "Tiny")


def tiny_settings(folder: Path, **values: Any) -> ADRecSettings:
    sizes = {
        "n_layers": 2,
        "n_heads": 2,
        "inner_size": 24,
        "queue_size": 30,
        "train_batch_size": 6,
        "precision": "fp32",
    }
    own = {
        "dataset": "Tiny",
        "datasets_dir": str(folder),
        "max_text_tokens": 40,
        "max_seq_length": 5,
        "scale": 8.0,
        "precision": "fp32",
    }
    return resolve_switches(ADRecSettings(**{**sizes, **own, **values}), SWITCHES)


def tiny_adrec(folder: Path, dropout: float = 0.0, **values: Any) -> Tuple[ADRec, Batches, Rows, Tokens, Any]:
    """Model, batches of the training rows, the rows, the items' tokens, the tokenizer."""
    dataset = tiny_adrec_dataset(folder)
    settings = tiny_settings(folder, **values)
    tokenizer = tiny_tokenizer(folder / "model")
    tokens = tokenise(item_texts(dataset, settings, tokenizer), tokenizer, settings.max_text_tokens)
    bert = tiny_bert(dropout, vocabulary=len(tokenizer), layers=2)
    torch.manual_seed(0)
    model = ADRec(TextEncoder(bert, settings.plm_layer, settings.frozen_text_layers), settings, dataset.n_items)
    rows = train_rows(dataset, settings.max_seq_length)
    padded = {} if settings.mean_over_real else {"padded_to": settings.max_text_tokens}
    return model, Batches(rows, tokens, torch.device("cpu"), **padded), rows, tokens, tokenizer


def first_batch(batches: Batches, rows: Rows, model: ADRec, count: int = 6) -> Batch:
    return batches.of(epoch_batches(rows, model.settings, 0)[0][:count])


def plain_items(model: ADRec, side: str, tokens: Tokens, released: bool) -> Tensor:
    """Every item by itself through BERT's own layers, padded to max_text_tokens; (n, d)."""
    text, s = getattr(model, side).text, model.settings
    config = BertConfig(
        vocab_size=text.embeddings.word_embeddings.num_embeddings, hidden_size=text.width, num_hidden_layers=2,
        num_attention_heads=text.heads, intermediate_size=24, max_position_embeddings=64,
    )  # fmt: skip
    bert = BertModel(config).eval()
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
        x = x + layer.dense_2(torch.nn.functional.gelu(layer.dense_1(layer.feed_forward_norm(x))))
    return (x[0, -1] + items.mean(dim=0)) / 2
