"""Text encoders of BERT's architecture for stage 1 and ADRec: a local folder, the Hugging Face hub, or a name.

``minilm`` is a pretrained sentence encoder (common/named_models.py). ``small`` is made here, with random weights and a
vocabulary of the titles; it needs no network.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import transformers
from safetensors import SafetensorError

from common.checkpoints import full_disk_is_an_error
from common.dataset import Dataset, items_path
from common.errors import UserError, nearest
from common.files import Recipe, atomic_folder, making, recipe, record, write_json, write_text
from common.named_models import NAMED_MODELS, named_model_folder

SMALL = "small"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL_VOCABULARY = 8000
SMALL_WIDTH = 128
ENCODER_FIX = "give the folder of a downloaded model (text_model=DIR, image_model=DIR), text_model=minilm, or small"

transformers.utils.logging.disable_progress_bar()


def dtype_keyword(dtype: torch.dtype) -> Dict[str, torch.dtype]:
    """The argument that sets a model's dtype, which was renamed in transformers 4.56."""
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if version >= (4, 56) else "torch_dtype": dtype}


def fetch(kind: Any, name: str, advice: str, **keywords: Any) -> Any:
    """``kind.from_pretrained(name)``; any failure becomes one `UserError` that ends with ``advice``.

    Args:
        name: a model of `NAMED_MODELS`, a folder, or a name on the hub.
    """
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"{name}: no such folder; {advice}")
    source = name
    if name in NAMED_MODELS:
        source = str(named_model_folder(name))
        keywords.update(("gguf_file", file) for file in NAMED_MODELS[name].sha256 if file.endswith(".gguf"))
    elif not Path(name).is_dir() and "/" not in name and nearest(name, [SMALL, *NAMED_MODELS]):
        raise UserError(f"'{name}': no such folder{nearest(name, [SMALL, *NAMED_MODELS])}")
    try:
        return kind.from_pretrained(source, **keywords)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        place = "the folder" if Path(source).is_dir() else "the Hugging Face hub and its local cache"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"'{name}' cannot be loaded (tried {place}): {reason}; {advice}") from error


def check_encoder(name: str, model_type: str) -> None:
    """Raise a `UserError` if an encoder's config cannot be loaded or names another architecture."""
    config = fetch(transformers.AutoConfig, name, ENCODER_FIX)
    if config.model_type != model_type:
        raise UserError(f"'{name}' is a {config.model_type} model; here a {model_type} model is needed")


def load_encoder(kind: Any, name: str, model_type: str, may_be_new: Tuple[str, ...]) -> Any:
    """An encoder in fp32 with the given architecture; only weights that begin with ``may_be_new`` may be missing.

    Raises:
        UserError: it cannot be loaded, is of another architecture, or lacks weights.
    """
    check_encoder(name, model_type)
    model, found = fetch(kind, name, ENCODER_FIX, output_loading_info=True, **dtype_keyword(torch.float32))
    missing = sorted(found["missing_keys"])
    lacking = [key for key in missing if not key.startswith(may_be_new)]
    if lacking:
        raise UserError(f"'{name}' lacks weights that a {model_type} model needs: {', '.join(lacking)}")
    if missing:
        print(f"'{name}' has no weights for {', '.join(missing)}: these start at random")
    return model.eval()


def load_bert(name: str, max_text_tokens: int) -> Tuple[transformers.BertModel, Any]:
    """A BERT in fp32 with its tokenizer.

    Raises:
        UserError: it cannot be loaded, has another architecture, lacks weights or vocabulary, or reads fewer tokens.
    """
    model = load_encoder(transformers.BertModel, name, "bert", ("pooler.",))
    if max_text_tokens > model.config.max_position_embeddings:
        raise UserError(
            f"'{name}' reads at most {model.config.max_position_embeddings} tokens; lower max_text_tokens "
            f"({max_text_tokens})"
        )
    tokenizer = fetch(transformers.AutoTokenizer, name, ENCODER_FIX)
    known, trained = len(tokenizer), model.config.vocab_size  # some models pad theirs to a round number
    if known > trained:
        raise UserError(f"'{name}': its tokenizer knows {known} tokens, the model {trained}; take both from one model")
    if 2 * known < trained:  # transformers makes a tokenizer of special tokens alone where the vocabulary is missing
        raise UserError(
            f"'{name}': its tokenizer knows {known} tokens, the model {trained}: every word would be unknown; put the "
            "complete vocabulary (vocab.txt or tokenizer.json) beside the weights"
        )
    return model, tokenizer


def train_vocabulary(titles: Sequence[str], size: int = SMALL_VOCABULARY) -> List[str]:
    """A WordPiece vocabulary of the titles.

    The trainer breaks ties by token number, and numbers ``##x`` in the order of a hash table. These are passed in,
    sorted, so that the vocabulary is the same on every run.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    normal = (tokenizer.normalizer.normalize_str(title) for title in titles)
    words = {word for title in normal for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(title)}
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL_TOKENS + inner, show_progress=False)
    tokenizer.train_from_iterator(titles, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=lambda token: vocabulary[token])


def _make_small_bert(titles: Sequence[str], folder: Path) -> None:
    vocabulary = train_vocabulary(titles)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=SMALL_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * SMALL_WIDTH,
        # keeps the size of vectors through a layer: with BERT's 0.02, [CLS] would hardly see the words
        initializer_range=SMALL_WIDTH**-0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    write_text(folder / "vocab.txt", "\n".join(vocabulary) + "\n")
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", about)


def text_model_path(name: str, dataset: Dataset, language: str, seed: int) -> str:
    """Where to load the text encoder from; ``small`` is made first unless it is up to date."""
    if name != SMALL:
        return name
    folder = dataset.folder / "encoders" / f"bert-small-{language}-seed{seed}"
    inputs = {"items": items_path(dataset.folder, dataset.name)}
    with small_encoder(folder, recipe("small_bert", {"seed": seed, "language": language}, inputs), seed) as part:
        if part is not None:
            _make_small_bert(dataset.titles(language), part)
    return str(folder)


@contextmanager
def small_encoder(folder: Path, made_from: Recipe, seed: int) -> Iterator[Optional[Path]]:
    """Yield a folder to write a small encoder into, seeded; it becomes ``folder``. None if that is up to date."""
    about = folder.with_name(f"{folder.name}.json")
    with making(about, made_from) as needed:
        if not needed:
            yield None
            return
        with atomic_folder(folder) as part, full_disk_is_an_error(folder), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield part
        record(about, made_from, {"encoder": folder})
