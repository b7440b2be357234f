"""Proof, without torch and transformers, that the files of a model fit one another.

``nasframe check`` judges a model by transformers' own loading, which knows every way to write one and to be wrong. But
importing transformers takes longer than all else that a check does. What ``save_pretrained`` usually writes is plain
enough to be judged by itself: a configuration with known keys, one safetensors file with exactly the tensors that
follow from it, and a WordPiece tokenizer. :func:`prove` finds out whether a directory is such a model. It never
refuses: if anything is unknown, missing or different, nothing is proven, and the loading by transformers decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nasframe.outline import FAMILIES, Family, Outline, TokenizerOutline

LABELS = 2
"""Outputs of transformers' classification head if a configuration does not say."""
MOST_WORDS = 100_000
"""transformers may change tokenizers of more words when it loads them."""
SHORTEST = 4
"""Tokens of a pair of texts, the three special ones included."""
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


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _positive(value: Any) -> bool:
    return _whole(value) and value > 0


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _small(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _one_of(*values: Any) -> Test:
    return lambda value: any(value is known or (type(value) is type(known) and value == known) for known in values)


def _optional(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


ACTIVATIONS = _one_of("gelu", "relu", "gelu_new")
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
    "added_tokens_decoder": lambda value: isinstance(value, dict),
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


def prove(folder: Path) -> Outline | None:
    """Return the outline of a model whose files all fit, or ``None`` if that is not proven.

    Args:
        folder: a directory that ``save_pretrained`` wrote: an encoder without a classification head.
    """
    try:
        return _proven(folder)
    except Exception:  # whatever is wrong with the files: the loading by transformers finds it again, and words it
        return None


def _proven(folder: Path) -> Outline | None:
    if any(_is_other(path.name) for path in folder.iterdir()):
        return None
    config = _read(folder / "config.json")
    kind = config["model_type"]
    if not _passes(config, CONFIGURATIONS[kind]):
        return None
    family = FAMILIES[kind]
    lengths = {name: config[key] for name, key in family.keys.items()} | {"labels": LABELS}
    padding = config["pad_token_id"]
    reserved = padding + 1 if family.offset else 0
    longest = lengths["positions"] - reserved
    if lengths["width"] % lengths["heads"] or padding >= lengths["words"] or longest < 1:
        return None
    tokenizer = _proven_tokenizer(folder, kind, config, longest)
    if tokenizer is None:
        return None
    outline = Outline(kind, lengths, tokenizer, longest)
    return outline if _weights_fit(folder / "model.safetensors", family, outline) else None


def _is_other(name: str) -> bool:
    """Tell whether a file makes transformers read something else than the files that are judged here."""
    other_tokenizer = name.startswith("tokenizer") and name not in ("tokenizer.json", "tokenizer_config.json")
    return other_tokenizer or name in OTHER_FILES or "chat_template" in name or name.endswith((".py", ".tiktoken"))


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file} is no object.")
    return content


def _passes(values: Mapping[str, Any], tests: Mapping[str, Test]) -> bool:
    """Tell whether all keys are known and all their values are as expected."""
    return values.keys() <= tests.keys() and all(tests[key](value) for key, value in values.items())


def _weights_fit(file: Path, family: Family, outline: Outline) -> bool:
    """Tell whether a file has the encoder's tensors in their shapes, and besides only what is known not to matter."""
    from safetensors import safe_open

    with safe_open(str(file), framework="numpy") as content:
        if (content.metadata() or {}).get("format") != "pt":
            return False
        slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118  (it is no mapping)
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        types = {name: part.get_dtype() for name, part in slices.items()}

    expected = outline.encoder_shapes()
    pooler = {name: outline.shape(axes) for name, axes in family.pooler.items()}
    position_ids, its_shape = "embeddings.position_ids", (1, outline.lengths["positions"])
    prefix = f"{family.prefix}."
    start = prefix if any(name.startswith(prefix) for name in shapes) else ""
    if pooler.keys() <= {name.removeprefix(start) for name in shapes}:
        expected |= pooler
    expected = {f"{start}{name}": shape for name, shape in expected.items()}
    buffer = f"{start}{position_ids}"
    if buffer in shapes and (types.pop(buffer), shapes.pop(buffer)) != ("I64", its_shape):
        return False
    if start:  # a network with the heads of its pre-training, which are not used
        shapes = {name: shape for name, shape in shapes.items() if name not in family.pretraining}
    return shapes == expected and all(kind in FLOATS for kind in types.values())


def _proven_tokenizer(folder: Path, family: str, config: Mapping[str, Any], longest: int) -> TokenizerOutline | None:
    """Return the numbers of a WordPiece tokenizer that fits a network, or ``None`` if that is not proven."""
    from tokenizers import Tokenizer

    options = _read(folder / "tokenizer_config.json")
    if not _passes(options, TOKENIZER_OPTIONS) or options.get("tokenizer_class") not in TOKENIZERS[family]:
        return None
    special = {name: options.get(name) for name in SPECIAL}
    if (folder / "special_tokens_map.json").exists():
        written = _read(folder / "special_tokens_map.json")
        if not _passes(written, dict.fromkeys(SPECIAL, _text)) or special | written != special:
            return None
    content = _read(folder / "tokenizer.json")
    vocabulary = _vocabulary(content)
    added = {str(token.pop("id")): token for token in content["added_tokens"]}
    added_twice = options.get("added_tokens_decoder", {})
    if vocabulary is None or not all(_is_in(vocabulary, tokens) for tokens in (added, added_twice)):
        return None
    ids = {name: vocabulary.get(str(token)) for name, token in special.items()}
    highest = max(*vocabulary.values(), len(vocabulary) - 1)
    if None in ids.values() or highest >= config["vocab_size"] or ids["pad_token"] != config["pad_token_id"]:
        return None
    truncation, padding = content["truncation"], content["padding"]
    if truncation is not None and (truncation["stride"] != 0 or truncation["max_length"] < SHORTEST):
        return None
    if padding is not None and (padding["pad_token"], padding["pad_id"]) != (special["pad_token"], ids["pad_token"]):
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    counts = [tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)]
    # BertTokenizer adds [CLS] and [SEP] whatever the file says.
    return TokenizerOutline(longest, *counts) if counts == [2, 3] else None


def _vocabulary(content: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the words of a WordPiece tokenizer as BERT's; ``None`` if it is of another kind."""
    model, normalizer = content["model"], content["normalizer"]
    if model["type"] != "WordPiece" or normalizer["type"] != "BertNormalizer":
        return None
    words = model["vocab"]
    if not isinstance(words, dict) or not 0 < len(words) <= MOST_WORDS:
        return None
    return words if all(map(_whole, words.values())) else None


def _is_in(vocabulary: Mapping[str, int], added: Mapping[str, Any]) -> bool:
    """Tell whether added tokens, by their ids as text, are all words of a vocabulary with these ids."""
    for number, token in added.items():
        flags = {key: value for key, value in token.items() if key != "content"}
        if token.keys() != ADDED_TOKEN or not all(map(_truth, flags.values())):
            return False
        word = token["content"]
        if not isinstance(word, str) or word not in vocabulary or str(vocabulary[word]) != number:
            return False
    return True
