"""Tokenizers of Hugging Face models: loaded only if their files are there, and only if their ids fit the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nasframe.errors import UsageError
from nasframe.weights import Source, quiet, reason, register_exports

SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer, asking nothing at a terminal.

    Args:
        source: where the model comes from.
        trust_remote_code: let the tokenizer's own code run.

    Returns:
        The tokenizer; ``None`` if ``source.local`` and a hub id's files are not at hand.

    Raises:
        UsageError: the files are missing or cannot be read.
    """
    from transformers import AutoTokenizer

    register_exports(source)  # the tokenizer's class follows from the configuration's
    at_hub = source.local and not source.is_directory
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                source.path,
                revision=source.revision,
                local_files_only=source.local,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:  # the tokenizers library raises plain exceptions
        if at_hub:
            return None
        expected = "Expected the files that the tokenizer's save_pretrained wrote."
        raise UsageError(f"{source.path}: the tokenizer cannot be read: {reason(error)}. {expected}") from error
    missing = missing_files(tokenizer, source)
    if missing and at_hub:
        return None
    if missing:
        raise UsageError(
            f"{source.path}: no tokenizer files: there is no {missing}. Without them a tokenizer knows no words. "
            "Save the tokenizer beside the model: tokenizer.save_pretrained(directory)."
        )
    return tokenizer


def missing_files(tokenizer: Any, source: Source) -> str:
    """Name the vocabulary files that a tokenizer was made without; nothing if they are there, or it has none.

    transformers makes a tokenizer of special tokens only where files are missing. A whole ``tokenizer.json`` stands
    for all others.

    Args:
        tokenizer: as transformers loaded it.
        source: where from.
    """
    names = dict(getattr(tokenizer, "vocab_files_names", {}))
    whole = names.pop("tokenizer_file", None)
    if whole and source.file(whole):
        return ""
    if not names:
        return whole or ""
    absent = [name for name in names.values() if not source.file(name)]
    if not absent:
        return ""
    return f"{whole} and no {absent[0]}" if whole else absent[0]


def misfits(tokenizer: Any, config: Any, rows: int, path: str) -> Iterator[str]:
    """Say why a tokenizer cannot be this network's.

    Its class is no evidence, since many models use another family's.

    Args:
        tokenizer: the tokenizer.
        config: the network's configuration.
        rows: of the word embedding.
        path: of the model, for the text.
    """
    ids = highest_id(tokenizer) + 1
    if ids > rows:
        token = tokenizer.convert_ids_to_tokens(ids - 1)
        yield (
            f"{path}: the tokenizer has ids up to {ids - 1} ({token!r}), the embedding {rows} rows. Expected a row for "
            "each id. If tokens were added, resize the embedding: net.resize_token_embeddings(len(tokenizer))."
        )
    for name in SPECIAL:
        own, written = getattr(tokenizer, f"{name}_token_id", None), getattr(config, f"{name}_token_id", None)
        allowed = written if isinstance(written, list) else [written]
        if own is not None and written is not None and own not in allowed:
            token = getattr(tokenizer, f"{name}_token")
            yield (
                f"{path}: {name}_token_id is {own} ({token}) in the tokenizer, {written} in config.json. Expected one "
                "id: is it another model's tokenizer?"
            )


def highest_id(tokenizer: Any) -> int:
    """Return the highest id that a tokenizer can give."""
    return max(max(tokenizer.get_vocab().values(), default=0), len(tokenizer) - 1)
