"""A smaller vocabulary: rows of a word embedding and words of a tokenizer, removed together.

Only WordPiece tokenizers can lose words: they split greedily, so a word that stays is split as before.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nasframe.errors import UsageError
from nasframe.nn.elastic import FactorizedEmbedding, base_of, words_of


def kept_tokens(tokenizer: Any, ids: Iterable[torch.Tensor], least: int = 1, characters: bool = True) -> list[int]:
    """Return the tokens of a WordPiece tokenizer that a corpus uses.

    A word is split greedily, longest piece first, so that a tokenizer of these tokens splits every word of the corpus
    as before.

    Args:
        tokenizer: a fast tokenizer of the WordPiece kind (BERT, ELECTRA, DistilBERT).
        ids: the corpus, as token ids of any shape.
        least: how often a token must occur; if it is above 1, rarer words are split into smaller pieces.
        characters: whether to keep also the single characters that occur in the kept tokens, so that other words are
            split into pieces in place of becoming the unknown token.

    Returns:
        Token ids, ascending; special and added tokens are always among them.

    Raises:
        UsageError: the tokenizer is of another kind.

    >>> from nasframe.testing.toy import tiny_tokenizer
    >>> kept_tokens(tiny_tokenizer(), [torch.tensor(tiny_tokenizer()("ab")["input_ids"])], characters=False)
    [0, 1, 2, 3, 4, 5, 32]
    """
    description = _description(tokenizer)
    words = description["model"]["vocab"]
    prefix = description["model"]["continuing_subword_prefix"]
    counts = torch.zeros(len(tokenizer), dtype=torch.long)
    for part in ids:
        counts += torch.bincount(part.flatten().cpu(), minlength=len(tokenizer))
    kept = set(torch.nonzero(counts >= least).flatten().tolist())
    special = _special_ids(tokenizer, description)
    # Without its characters a new word would become one unknown token, and its meaning would be lost.
    if characters:
        letters: set[str] = set()
        for word, i in words.items():
            if i in kept - special:
                letters |= set(word.removeprefix(prefix))
        for letter in letters:
            # At the start of a word, and inside it.
            for form in (letter, prefix + letter):
                if form in words:
                    kept.add(words[form])
    return sorted(kept | special)


def _special_ids(tokenizer: Any, description: Mapping[str, Any]) -> set[int]:
    """Return the ids of special and added tokens."""
    added = [token["id"] for token in description["added_tokens"]]
    return {*tokenizer.all_special_ids, *added}


def shrunk_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """Return a tokenizer of some of the tokens, renumbered in the order given; the old one stays unchanged.

    Args:
        tokenizer: see :func:`kept_tokens`.
        kept: token ids; special and added tokens must be among them.

    Raises:
        UsageError: the tokenizer is of another kind, or a special token is missing from ``kept``.

    >>> from nasframe.testing.toy import tiny_tokenizer
    >>> shrunk_tokenizer(tiny_tokenizer(), [0, 1, 2, 3, 4, 5, 32])("ab")["input_ids"]
    [2, 5, 6, 3]
    """
    from tokenizers import Tokenizer

    # A fast tokenizer cannot lose words, so its JSON description is changed and read again. It has token ids in five
    # places, all of which must agree.
    description = _description(tokenizer)
    new = {old: number for number, old in enumerate(kept)}
    lost = _special_ids(tokenizer, description) - new.keys()
    if lost:
        raise UsageError(f"vocabulary: special tokens {sorted(lost)} would go. Expected them to be kept.")
    old_words = description["model"]["vocab"]
    new_words = {}
    for word, i in old_words.items():
        if i in new:
            new_words[word] = new[i]
    description["model"]["vocab"] = new_words
    for token in description["added_tokens"]:
        token["id"] = new[token["id"]]
    processor = description.get("post_processor") or {}
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for side in ("cls", "sep"):  # the older form of BERT's post-processor
        if side in processor:
            processor[side][1] = new[processor[side][1]]
    padding = description.get("padding")
    if padding:
        padding["pad_id"] = new[padding["pad_id"]]
    # The copy keeps what is not in the description: lengths, names of special tokens, the class itself.
    small = copy.deepcopy(tokenizer)
    small._tokenizer = Tokenizer.from_str(json.dumps(description))
    return small


@torch.no_grad()
def shrunk_net(net: nn.Module, kept: Sequence[int]) -> nn.Module:
    """Return a copy of a network whose word embedding has some of the rows, in the order given.

    Args:
        net: the network, left as it is; its embedding may be factorised.
        kept: token ids, the padding token's among them.

    Raises:
        UsageError: an id is not in the embedding, or the network has an output layer over the vocabulary.
    """
    small: Any = copy.deepcopy(net)
    words: Any = words_of(small)
    if words is None:
        raise UsageError(
            f"vocabulary: a {type(net).__name__} reads no words. Expected a network with a word embedding."
        )
    # Of a factorised embedding only the table has rows of words.
    table = words.table if isinstance(words, FactorizedEmbedding) else words
    if small.get_output_embeddings() is not None:
        raise UsageError("vocabulary: the network predicts words. Expected one with another head, or none.")
    if max(kept) >= table.num_embeddings:
        raise UsageError(f"vocabulary: token {max(kept)} is not among the {table.num_embeddings} of the embedding.")
    new = {old: number for number, old in enumerate(kept)}
    index = torch.tensor(list(kept), device=table.weight.device)
    rows = table.weight.index_select(0, index)
    table.weight = nn.Parameter(rows, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(kept)
    words.num_embeddings = len(kept)  # a factorised embedding has a number of its own
    if table.padding_idx is not None:
        table.padding_idx = new[table.padding_idx]
    # The base model may have a configuration object of its own.
    configs = {id(module.config): module.config for module in (small, base_of(small))}
    for config in configs.values():
        config.vocab_size = len(kept)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            old_id = getattr(config, name, None)
            if old_id is not None:
                setattr(config, name, new.get(old_id))
    return small


def _description(tokenizer: Any) -> dict[str, Any]:
    """Return the JSON form of a fast WordPiece tokenizer.

    Raises:
        UsageError: the tokenizer is of another kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description: dict[str, Any] = {"model": {"type": "slow"}}
    if backend is not None:
        description = json.loads(backend.to_str())
    kind = description["model"]["type"]
    if kind != "WordPiece":
        raise UsageError(
            f"vocabulary: a tokenizer of the kind {kind}. Expected WordPiece, as BERT, ELECTRA and DistilBERT have: "
            "others split words in ways that depend on all of their tokens."
        )
    return description
