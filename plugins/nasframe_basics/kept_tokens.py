"""Tokens of many texts, kept in nasframe's cache: each text is tokenised once, for all splits, seeds and runs.

The key is a digest of the texts themselves in a fixed order, of the tokenizer and of the length at which texts are cut,
so it does not depend on the files that they come from, or on how they are split. The texts of language models are kept
as one stream of tokens for each split.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nasframe import progress
from nasframe.errors import UsageError
from nasframe.running.cache import default_folder
from nasframe.running.prepared import ArrayWriter, Prepared

FORMAT = 1
"""Of the key; a change of what tokenising means makes all texts be tokenised again."""
TOGETHER = 8192
"""Texts that a tokenizer is given at once, since its own records of them are large."""
KEPT_FROM = 20_000
"""Texts of all splits together from which on their tokens are kept on the disk; fewer take a second."""
LENGTHS = "lengths"
STREAM = "tokens"

Texts = tuple[str, ...]


class TokenTable:
    """The tokens of distinct texts, one after the other.

    Args:
        positions: each text's place among the distinct ones.
        columns: input name → ``(tokens,)``.
        lengths: ``(texts,)`` tokens of each text.
    """

    def __init__(self, positions: Mapping[Texts, int], columns: Mapping[str, np.ndarray], lengths: np.ndarray) -> None:
        self.columns = columns
        self._positions = positions
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def places(self, texts: Sequence[Texts]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the tokens of texts begin, and how many they are, ``(texts,)`` each."""
        rows = np.fromiter((self._positions[text] for text in texts), np.int64, len(texts))
        return self._starts[rows], self._lengths[rows]


def kept_table(tokenizer: Any, examples: Sequence[Sequence[Texts]], max_length: int) -> TokenTable | None:
    """Return the tokens of all texts, from the cache if they were tokenised before.

    Args:
        tokenizer: a Hugging Face tokenizer.
        examples: the texts, split by split.
        max_length: tokens at which a text is cut.

    Returns:
        ``None`` if the tokenizer is of a kind whose tokens no digest can stand for.

    Raises:
        OSError: the cache cannot be written.
    """
    identity = tokenizer_digest(tokenizer)
    if identity is None:
        return None
    distinct = sorted(set(itertools.chain.from_iterable(examples)))  # the same order, whatever the splits are
    key = _key(distinct, identity, max_length)

    def write(writer: ArrayWriter) -> None:
        types = _types(tokenizer)
        for columns, lengths in token_chunks(tokenizer, distinct, max_length):
            writer.append(LENGTHS, lengths.astype(np.int32))
            for name, flat in columns.items():
                writer.append(name, flat.astype(types.get(name, np.dtype(np.int32))))

    arrays = dict(Prepared(default_folder()).arrays(key, write, f"tokens of {len(distinct):,} texts"))
    lengths = arrays.pop(LENGTHS)
    positions = {text: place for place, text in enumerate(distinct)}
    return TokenTable(positions, arrays, lengths)


def kept_stream(tokenizer: Any, texts: Sequence[str]) -> np.ndarray | None:
    """Return the tokens of texts one after another, as :func:`tokenised` does, from the cache if they are there.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: the texts, in order.

    Returns:
        ``(tokens,)``; ``None`` if the tokenizer is of a kind whose tokens no digest can stand for.

    Raises:
        OSError: the cache cannot be written.
        UsageError: the tokenizer has no token for the end of a text.
    """
    identity = tokenizer_digest(tokenizer)
    if identity is None:
        return None
    end = end_of_text(tokenizer)
    digest = hashlib.sha256(json.dumps(["stream", FORMAT, identity, end, len(texts)]).encode())
    for text in texts:
        digest.update(json.dumps(text).encode())  # says where a text ends

    def write(writer: ArrayWriter) -> None:
        writer.append(STREAM, tokenised(tokenizer, texts))

    arrays = Prepared(default_folder()).arrays(digest.hexdigest(), write, f"tokens of {len(texts):,} texts")
    return arrays[STREAM]


def tokenised(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the tokens of texts one after another, ``(tokens,)``, with an end-of-text token behind each.

    Raises:
        UsageError: the tokenizer has no token for the end of a text.
    """
    end = end_of_text(tokenizer)
    parts = []
    with progress.phase(f"tokenising {len(texts):,} texts") as advance:
        for start in range(0, len(texts), TOGETHER):
            together = list(texts[start : start + TOGETHER])
            encoded = tokenizer(together, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for ids in encoded["input_ids"]:
                parts.append(np.array([*ids, end], dtype=np.int32))
            advance(start + len(together), len(texts), "")
    return np.concatenate(parts)


def end_of_text(tokenizer: Any) -> int:
    """Return the token that ends a text.

    Raises:
        UsageError: the tokenizer has none.
    """
    end: int | None = tokenizer.eos_token_id
    if end is None:
        end = tokenizer.sep_token_id  # of BERT and its relatives
    if end is None:
        raise UsageError("task: the tokenizer has no eos_token. Expected one, which marks the end of each text.")
    return end


def token_chunks(
    tokenizer: Any, texts: Sequence[Texts], max_length: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Tokenise texts or pairs of texts some thousands at a time, and show how far that is.

    Yields:
        Input name → the tokens of these texts one after the other, and how many tokens each text has.
    """
    with progress.phase(f"tokenising {len(texts):,} texts") as advance:
        for start in range(0, len(texts), TOGETHER):
            examples = texts[start : start + TOGETHER]
            columns = [list(column) for column in zip(*examples, strict=True)]
            encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
            lengths = np.array([len(ids) for ids in encoded["input_ids"]])
            flat = {}
            for name, rows in encoded.items():
                flat[name] = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
            yield flat, lengths
            advance(start + len(examples), len(texts), "")


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Return a digest of everything that a tokenizer's tokens follow from; ``None`` if that is more than its data."""
    import tokenizers
    import transformers

    is_transformers_own = type(tokenizer).__module__.startswith("transformers.")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not is_transformers_own or backend is None:  # Python code of somebody else's may do anything
        return None
    description = json.loads(backend.to_str())
    for state in ("truncation", "padding"):  # of the last call
        description.pop(state, None)
    facts = {
        "tokenizer": description,
        "class": type(tokenizer).__qualname__,
        "inputs": list(tokenizer.model_input_names),
        "truncation_side": tokenizer.truncation_side,
        "versions": [tokenizers.__version__, transformers.__version__],
    }
    content = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _key(texts: Sequence[Texts], tokenizer: str, max_length: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, tokenizer, max_length, len(texts)]).encode())
    for example in texts:
        digest.update(json.dumps(example).encode())  # says where a text ends
    return digest.hexdigest()


def _types(tokenizer: Any) -> dict[str, np.dtype[Any]]:
    """Return the smallest types that hold a tokenizer's ids, and the segments of pairs."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    return {"input_ids": np.min_scalar_type(largest), "token_type_ids": np.dtype(np.uint8)}
