"""Proof, without torch and transformers, that the files of a model fit one another.

``nasframe check`` judges a model by transformers' own loading, which knows every layout of files and every mistake in
one. But importing transformers takes longer than the rest of a check. What ``save_pretrained`` usually writes is plain
enough to be judged without it: a configuration with known keys, one safetensors file with exactly the tensors that
follow from it, and a WordPiece tokenizer. :func:`prove` tells whether a directory holds such a model. It never refuses
one: if anything is unknown, missing or different, nothing is proven, and transformers decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasframe.outline import FAMILIES, Family, Outline, TokenizerOutline

LABELS = 2
"""Outputs of transformers' classification head if a configuration does not say."""
MOST_WORDS = 100_000
"""transformers may change larger tokenizers when it loads them."""
SHORTEST = 4
"""The least number of tokens to which a tokenizer may cut: a pair of texts has three special ones."""
FLOATS = ("F16", "BF16", "F32", "F64")
ADDED_TOKEN = {"content", "lstrip", "normalized", "rstrip", "single_word", "special"}
SPECIAL = ("cls_token", "mask_token", "pad_token", "sep_token", "unk_token")
TOKENIZERS = {
    "bert": ("BertTokenizer", "BertTokenizerFast"),
    "distilbert": ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"),
    "electra": ("BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast"),
    "roberta": ("BertTokenizer", "BertTokenizerFast"),
}
OTHER_FILES = ("adapter_config.json", "added_tokens.json", "tekken.json")
"""Files from which transformers makes another model or another tokenizer."""

Test = Callable[[Any], bool]


# Tests of single values. They are narrower than what transformers accepts: a false alarm only costs time.


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(value: Any) -> bool:  # true and false are integers for Python
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _positive(value: Any) -> bool:
    return _whole(value) and value > 0


def _share(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < 1


def _small(value: Any) -> bool:  # an epsilon, or a standard deviation
    return isinstance(value, float) and 0 < value < 1


def _one_of(*values: Any) -> Test:
    def test(value: Any) -> bool:
        # False equals 0, so the types are compared too.
        return any(type(value) is type(expected) and value == expected for expected in values)

    return test


def _optional(test: Test) -> Test:
    def test_or_none(value: Any) -> bool:
        return value is None or test(value)

    return test_or_none


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


ACTIVATIONS = _one_of("gelu", "relu", "gelu_new")
# Where one value is allowed, a configuration with another one is left to transformers.
COMMON: Mapping[str, Test] = {
    "_name_or_path": _text,
    "architectures": _names,
    "bos_token_id": _optional(_whole),
    "dtype": _one_of("float32"),
    "eos_token_id": _optional(_whole),
    "initializer_range": _small,
    "max_position_embeddings": _positive,
    "model_type": _text,
    "pad_token_id": _whole,
    "tie_word_embeddings": _truth,
    "torch_dtype": _one_of("float32"),
    "transformers_version": _text,
    "vocab_size": _positive,
}
BERT: Mapping[str, Test] = {
    **COMMON,
    "add_cross_attention": _one_of(False),
    "attention_probs_dropout_prob": _share,
    "classifier_dropout": _optional(_share),
    "gradient_checkpointing": _one_of(False),
    "hidden_act": ACTIVATIONS,
    "hidden_dropout_prob": _share,
    "hidden_size": _positive,
    "intermediate_size": _positive,
    "is_decoder": _one_of(False),
    "layer_norm_eps": _small,
    "num_attention_heads": _positive,
    "num_hidden_layers": _positive,
    "position_embedding_type": _one_of("absolute"),
    "type_vocab_size": _positive,
    "use_cache": _truth,
}
CONFIGURATIONS: Mapping[str, Mapping[str, Test]] = {
    "bert": BERT,
    "roberta": BERT,
    "electra": {
        **BERT,
        "embedding_size": _positive,
        "summary_activation": _one_of("gelu"),
        "summary_last_dropout": _share,
        "summary_type": _one_of("first"),
        "summary_use_proj": _one_of(True),
    },
    "distilbert": {
        **COMMON,
        "activation": ACTIVATIONS,
        "attention_dropout": _share,
        "dim": _positive,
        "dropout": _share,
        "hidden_dim": _positive,
        "n_heads": _positive,
        "n_layers": _positive,
        "qa_dropout": _share,
        "seq_classif_dropout": _share,
        "sinusoidal_pos_embds": _one_of(False),
        "tie_weights_": _truth,
    },
}
"""Family → the keys of config.json that are known, each with a test of its value."""
TOKENIZER_OPTIONS: Mapping[str, Test] = {
    "added_tokens_decoder": _mapping,
    "backend": _one_of("tokenizers"),
    "clean_up_tokenization_spaces": _truth,
    "do_basic_tokenize": _truth,
    "do_lower_case": _truth,
    "is_local": _truth,
    "model_max_length": _positive,
    "name_or_path": _text,
    "never_split": _one_of(None),
    "strip_accents": _optional(_truth),
    "tokenize_chinese_chars": _truth,
    "tokenizer_class": _text,
    **dict.fromkeys(SPECIAL, _text),
}


class NotProvenError(Exception):
    """Something in the files is not as it has to be for a proof."""


def _require(condition: bool) -> None:
    if not condition:
        raise NotProvenError


def prove(folder: Path) -> Outline | None:
    """Return the outline of a model whose files all fit, or ``None`` if that is not proven.

    Args:
        folder: a directory that ``save_pretrained`` wrote: an encoder without a classification head.
    """
    try:
        return _proven(folder)
    except Exception:  # not proven, or a file that cannot be read: transformers finds that too, and words it
        return None


def _proven(folder: Path) -> Outline:
    """Return the outline of a model.

    Raises:
        NotProvenError: it is not proven that the files fit. Files that cannot be read have errors of their own.
    """
    for path in folder.iterdir():
        _require(not _is_other(path.name))
    config = _read(folder / "config.json")
    kind = config["model_type"]
    _require(_passes(config, CONFIGURATIONS[kind]))
    family = FAMILIES[kind]
    lengths = {name: config[key] for name, key in family.keys.items()}
    lengths["labels"] = LABELS
    padding = config["pad_token_id"]
    longest = lengths["positions"]
    if family.offset:  # RoBERTa's positions begin after the padding's id, so that the first rows are never used
        longest -= padding + 1
    # transformers refuses such configurations when it makes the network.
    _require(lengths["width"] % lengths["heads"] == 0)
    _require(padding < lengths["words"])
    _require(longest >= 1)
    tokenizer = _proven_tokenizer(folder, kind, config, longest)
    outline = Outline(kind, lengths, tokenizer, longest)
    _require_weights(folder / "model.safetensors", family, outline)
    return outline


def _is_other(name: str) -> bool:
    """Tell whether a file makes transformers read something other than the files that are judged here."""
    if name in ("tokenizer.json", "tokenizer_config.json"):
        return False
    if name in OTHER_FILES or name.startswith("tokenizer") or "chat_template" in name:
        return True
    return name.endswith((".py", ".tiktoken"))


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file} is no object.")
    return content


def _passes(values: Mapping[str, Any], tests: Mapping[str, Test]) -> bool:
    """Tell whether all keys are known and all their values are as expected."""
    return all(key in tests and tests[key](value) for key, value in values.items())


@dataclass(frozen=True)
class TensorHeader:
    """A tensor in a safetensors file without its values.

    Args:
        shape: its shape.
        dtype: its type, as safetensors names it.
    """

    shape: tuple[int, ...]
    dtype: str


def _headers(file: Path) -> dict[str, TensorHeader]:
    """Read the headers of a safetensors file that was written from torch."""
    from safetensors import safe_open

    headers = {}
    with safe_open(str(file), framework="numpy") as content:
        metadata = content.metadata() or {}
        _require(metadata.get("format") == "pt")  # transformers reads files of other frameworks differently
        for name in content.keys():  # noqa: SIM118  (it is no mapping)
            part = content.get_slice(name)
            shape = tuple(part.get_shape())
            headers[name] = TensorHeader(shape, part.get_dtype())
    return headers


def _require_weights(file: Path, family: Family, outline: Outline) -> None:
    """Require that a file has the encoder's tensors in their shapes, and others only if they do not matter."""
    headers = _headers(file)
    prefix = f"{family.prefix}."
    has_heads = any(name.startswith(prefix) for name in headers)  # a network, not only its encoder
    start = prefix if has_heads else ""

    expected = {}
    for name, shape in outline.encoder_shapes().items():
        expected[start + name] = shape
    pooler = {}
    for name, axes in family.pooler.items():
        pooler[start + name] = outline.shape(axes)
    if pooler.keys() <= headers.keys():  # it is drawn, with a notice, if a checkpoint lacks it
        expected |= pooler
    position_ids = headers.pop(f"{start}embeddings.position_ids", None)  # a buffer of older versions
    if position_ids is not None:
        shape = (1, outline.lengths["positions"])
        _require(position_ids == TensorHeader(shape, "I64"))
    shapes = {}
    for name, header in headers.items():
        _require(header.dtype in FLOATS)
        shapes[name] = header.shape
    if has_heads:
        for name in family.pretraining:  # heads of pre-training, which are not used
            shapes.pop(name, None)
    _require(shapes == expected)


def _proven_tokenizer(folder: Path, family: str, config: Mapping[str, Any], longest: int) -> TokenizerOutline:
    """Return the numbers of a WordPiece tokenizer that fits a network.

    Raises:
        NotProvenError: it is not proven that it fits.
    """
    from tokenizers import Tokenizer

    options = _read(folder / "tokenizer_config.json")
    _require(_passes(options, TOKENIZER_OPTIONS))
    _require(options.get("tokenizer_class") in TOKENIZERS[family])
    special = {name: options.get(name) for name in SPECIAL}
    _require_special_tokens_map(folder / "special_tokens_map.json", special)

    content = _read(folder / "tokenizer.json")
    vocabulary = _vocabulary(content)
    # Both files may add tokens; what they add must be words already, or ids would go beyond those counted here.
    added = {}
    for token in content["added_tokens"]:
        number = token.pop("id")
        added[str(number)] = token
    _require(_is_in(vocabulary, added))
    _require(_is_in(vocabulary, options.get("added_tokens_decoder", {})))

    for token in special.values():
        _require(token in vocabulary)
    highest = max(*vocabulary.values(), len(vocabulary) - 1)
    _require(highest < config["vocab_size"])
    _require(vocabulary[str(special["pad_token"])] == config["pad_token_id"])
    # A tokenizer may have been saved in use, with its last call's cuts and padding. Tasks set both anew.
    truncation = content["truncation"]
    if truncation is not None:
        _require(truncation["stride"] == 0)
        _require(truncation["max_length"] >= SHORTEST)
    padding = content["padding"]
    if padding is not None:
        _require(padding["pad_token"] == special["pad_token"])
        _require(padding["pad_id"] == config["pad_token_id"])

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone = tokenizer.num_special_tokens_to_add(False)
    in_pair = tokenizer.num_special_tokens_to_add(True)
    _require((alone, in_pair) == (2, 3))  # BertTokenizer adds [CLS] and [SEP] whatever the file says
    return TokenizerOutline(longest, alone, in_pair)


def _require_special_tokens_map(file: Path, special: Mapping[str, Any]) -> None:
    """Require that a file of special tokens, if there is one, agrees with the tokenizer's configuration."""
    if not file.exists():
        return
    written = _read(file)
    for name, token in written.items():
        _require(name in SPECIAL)
        _require(_text(token))
        _require(special[name] == token)


def _vocabulary(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the words of a tokenizer, which has to be of WordPiece's kind, as BERT's is."""
    model = content["model"]
    _require(model["type"] == "WordPiece")
    _require(content["normalizer"]["type"] == "BertNormalizer")
    words = model["vocab"]
    _require(isinstance(words, dict))
    _require(0 < len(words) <= MOST_WORDS)
    _require(all(_whole(number) for number in words.values()))
    return words


def _is_in(vocabulary: Mapping[str, int], added: Mapping[str, Any]) -> bool:
    """Tell whether added tokens, by their ids as text, are all words of a vocabulary with these ids."""
    for number, token in added.items():
        if token.keys() != ADDED_TOKEN:
            return False
        flags = [token[key] for key in ADDED_TOKEN if key != "content"]
        if not all(_truth(value) for value in flags):
            return False
        word = token["content"]
        if not isinstance(word, str) or word not in vocabulary:
            return False
        if str(vocabulary[word]) != number:
            return False
    return True
