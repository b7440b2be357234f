"""Tokenizers of Hugging Face models: loaded only if their files are there, and only if their ids fit the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nasframe.errors import UsageError
from nasframe.weights import Source, quiet, reason, register_exports

SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer, without questions at the terminal.

    Args:
        source: the model's source.
        trust_remote_code: let the tokenizer's own code run.

    Returns:
        The tokenizer; ``None`` if ``source.local`` and the files of a hub id are not in the cache.

    Raises:
        UsageError: the files are missing or cannot be read.
    """
    from transformers import AutoTokenizer

    register_exports(source)  # the tokenizer's class follows from the configuration's
    may_be_absent = source.local and not source.is_directory
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                source.path,
                revision=source.revision,
                local_files_only=source.local,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:  # the tokenizers library raises plain exceptions
        if may_be_absent:
            return None
        expected = "Expected the files that the tokenizer's save_pretrained wrote."
        raise UsageError(f"{source.path}: the tokenizer cannot be read: {reason(error)}. {expected}") from error
    missing = missing_files(tokenizer, source)
    if missing and may_be_absent:  # transformers does not refuse a part of a tokenizer in the cache
        return None
    if missing:
        raise UsageError(
            f"{source.path}: no tokenizer files: there is no {missing}. Without them a tokenizer knows no words. "
            "Save the tokenizer next to the model: tokenizer.save_pretrained(directory)."
        )
    return tokenizer


def missing_files(tokenizer: Any, source: Source) -> str:
    """Return the vocabulary files that were missing when a tokenizer was loaded; empty if there are none.

    If files are missing, transformers makes a tokenizer that has only special tokens. ``tokenizer.json`` replaces all
    other files.

    Args:
        tokenizer: as transformers loaded it.
        source: the source of its files.
    """
    names = dict(getattr(tokenizer, "vocab_files_names", {}))  # of all files that its class may read
    whole = names.pop("tokenizer_file", None)
    if whole and source.file(whole):
        return ""
    if not names:
        return whole or ""
    absent = [name for name in names.values() if not source.file(name)]
    if not absent:
        return ""
    if whole:
        return f"{whole} and no {absent[0]}"
    return absent[0]


def misfits(tokenizer: Any, config: Any, rows: int, path: str) -> Iterator[str]:
    """Yield the reasons why a tokenizer cannot be this network's.

    Its class is not one of them, since many models use another family's.

    Args:
        tokenizer: the tokenizer.
        config: the network's configuration.
        rows: the rows of the word embedding.
        path: the model's path, for messages.
    """
    ids = highest_id(tokenizer) + 1
    if ids > rows:
        token = tokenizer.convert_ids_to_tokens(ids - 1)
        yield (
            f"{path}: the tokenizer has ids up to {ids - 1} ({token!r}), the embedding {rows} rows. Expected a row for "
            "each id. If tokens were added, resize the embedding: net.resize_token_embeddings(len(tokenizer))."
        )
    for name in SPECIAL:
        token_id = getattr(tokenizer, f"{name}_token_id", None)
        config_id = getattr(config, f"{name}_token_id", None)
        if token_id is None or config_id is None:  # many configurations leave some out, which proves nothing
            continue
        allowed = config_id if isinstance(config_id, list) else [config_id]
        if token_id not in allowed:
            token = getattr(tokenizer, f"{name}_token")
            yield (
                f"{path}: {name}_token_id is {token_id} ({token}) in the tokenizer, {config_id} in config.json. "
                "Expected one id: is it another model's tokenizer?"
            )


def highest_id(tokenizer: Any) -> int:
    """Return the highest id that a tokenizer can give."""
    # A vocabulary may have gaps, so its highest id may be more than its size.
    highest_in_vocabulary = max(tokenizer.get_vocab().values(), default=0)
    return max(highest_in_vocabulary, len(tokenizer) - 1)
